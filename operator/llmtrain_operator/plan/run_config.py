"""What a pod is told, from what the user wrote.

Below: the contract. Above: both worlds, which know where the store and the leader are.
"""

from __future__ import annotations

import math

from llmtrain_api import JobSpec, LLMTrainingJob, RunConfig
from llmtrain_api.data import DataSpec, Tokenizer, TokenizerKind
from llmtrain_api.naming import PARENT_ANNOTATION, locate_run
from llmtrain_api.run import Rendezvous, StorageConfig
from llmtrain_operator.quantities import parse_cores


def build_run_config(
    job: LLMTrainingJob, *, storage: StorageConfig, rendezvous: Rendezvous
) -> RunConfig:
    """Return the configuration that every process of the job reads."""
    spec, metadata = job.spec, job.metadata
    return RunConfig(
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        run_uri=locate_run(spec.storage.uri, metadata.namespace, metadata.name, metadata.uid),
        parent=metadata.annotations.get(PARENT_ANNOTATION),
        data=resolve_data(spec),
        model=spec.model,
        training=spec.training,
        evaluation=spec.evaluation,
        checkpoint=spec.checkpoint,
        strategy=spec.workers.strategy,
        replicas=spec.workers.replicas,
        processes_per_worker=spec.workers.processes_per_worker,
        tensor_parallel=spec.workers.tensor_parallel,
        threads_per_process=count_threads(job),
        storage=storage,
        rendezvous=rendezvous,
    )


def resolve_data(spec: JobSpec) -> DataSpec:
    """Return what is prepared: with `model.from` the tokenizer that is not named is the model's."""
    is_named = spec.data.tokenizer.kind is TokenizerKind.PRETRAINED
    if spec.model.pretrained is None or is_named:
        return spec.data
    own = Tokenizer(kind=TokenizerKind.PRETRAINED, uri=spec.model.pretrained)
    return spec.data.model_copy(update={"tokenizer": own})


def count_threads(job: LLMTrainingJob) -> int:
    """Return the processor threads of a rank: its share of the worker's cores, rounded up.

    It follows from the manifest alone, so that a run computes the same numbers in both worlds.
    """
    workers = job.spec.workers
    return max(1, math.ceil(parse_cores(workers.resources.cpu) / workers.processes_per_worker))
