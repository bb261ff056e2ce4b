"""A model that is not good enough, why, and the successor that is: all of it really trained."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

from llmtrain_api import LLMTrainingJob
from llmtrain_api.naming import locate_run
from llmtrain_api.records import Stage
from llmtrain_api.run import Rendezvous, RunPlace, StorageConfig
from llmtrain_operator.cli.manifest import load_job
from llmtrain_operator.cli.next import ask_changes, write_next
from llmtrain_operator.plan.run_config import build_run_config
from llmtrain_operator.plan.verdict import find_failed_gates
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from testbed.gated_job import GATE, STEPS, SUCCESSOR, describe_gated_job
from testbed.ranks import run_ranks

NUM_TOPICS = 30


def carry_out(job: LLMTrainingJob, storage: StorageConfig) -> str | None:
    """Do all stages of a job; return why it fails its gates, or None."""
    rendezvous = Rendezvous(leader_host="127.0.0.1")
    config = build_run_config(job, storage=storage, rendezvous=rendezvous)
    run_prepare(config, Reporter(0, lambda update: None))
    run_ranks(config)
    result = run_ranks(config, stage=Stage.EVALUATE).result
    end = find_failed_gates(job.spec.evaluation, result)
    return None if end is None else end.message


def test_a_job_fails_its_gate_says_why_and_its_successor_passes(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    text = "\n".join(list(topics.values())[:NUM_TOPICS])
    (tmp_path / "corpus" / "topics.txt").write_text(text, encoding="utf-8")
    storage = StorageConfig(uri="s3://models", local_root=str(tmp_path))
    manifest = describe_gated_job("s3://corpus/topics.txt", uri="s3://models")
    job = LLMTrainingJob.model_validate(manifest)

    why = carry_out(job, storage)
    assert why is not None
    assert f"spec.evaluation.gates[0] ({GATE}): loss is " in why
    assert "evaluation/report.html shows where it fails" in why

    metadata = job.metadata
    run = locate_run("s3://models", metadata.namespace, metadata.name, metadata.uid)
    place = RunPlace(name=metadata.name, uri=run, storage=storage)
    changes = ask_changes(place, min_confidence=0.5, keeps_training=False)
    (tmp_path / "next.yaml").write_text(write_next(job, place, changes), encoding="utf-8")
    successor = load_job(tmp_path / "next.yaml")
    assert (successor.metadata.name, successor.spec.training.steps) == (SUCCESSOR, 2 * STEPS)
    assert successor.spec.evaluation == job.spec.evaluation
    assert carry_out(successor, storage) is None
