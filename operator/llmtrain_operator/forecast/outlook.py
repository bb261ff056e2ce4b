"""What a job will take, before it takes it: tokens, arithmetic, memory, time, energy, cost.

Below: `size`, `memory`, the contract. Above: `llmtrain plan`. All of it follows from
the manifest, but for the time, which needs a speed: that of a known GPU, or a measured one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmtrain_api import JobSpec
from llmtrain_api.data import TokenizerKind
from llmtrain_api.devices import Device
from llmtrain_api.network import Network
from llmtrain_api.objective import MAX_SPANS, Objective
from llmtrain_api.training import Precision
from llmtrain_api.workers import Strategy
from llmtrain_operator.forecast.activations import RankWork
from llmtrain_operator.forecast.memory import RankMemory, compute_rank_memory
from llmtrain_operator.forecast.optimizer import count_optimizer_numbers
from llmtrain_operator.forecast.size import ModelSize, compute_size
from llmtrain_operator.forecast.trained import count_token_flops, count_trained
from llmtrain_operator.quantities import parse_bytes

OBJECTIVE_TOKENS = {
    Objective.CAUSAL: 0,
    Objective.MASKED: 2,
    Objective.SPAN_CORRUPTION: 1 + MAX_SPANS,
    Objective.CLASSIFICATION: 2,
    Objective.SEQUENCE_TO_SEQUENCE: 1,
}
"""Special tokens that an objective adds to a vocabulary, padding included."""

BYTE_VOCABULARY = 257
CHARACTER_VOCABULARY = 256
"""A guess: what occurs in text of one alphabet."""

DEFAULT_UTILIZATION = 0.35
"""Share of a GPU's peak that training reaches. Published runs of untuned PyTorch on H100s lie
between 0.28 and 0.38."""

PROCESS_BYTES = 700 << 20
"""What a rank holds before it trains: Python, torch and transformers, on a CPU."""

ALLOCATOR_SHARE = 1.25
"""glibc's allocator holds up to a quarter more than is in use at the peak (measured: GPT-2 a
hundredth, Llama 15 to 25 hundredths)."""

USED_SHARE = 0.9
"""Of a rank's memory, where the trainer looks for the largest micro-batch itself."""

ENOUGH_TOKENS_PER_PARAMETER = 20
"""Hoffmann et al. 2022 (Chinchilla, arXiv:2203.15556): the best use of a compute budget."""

MOST_EPOCHS = 4
"""Muennighoff et al. 2023 (arXiv:2305.16264): till then repeated data is nearly as good as new."""

DOCUMENT_OBJECTIVES = frozenset({Objective.CLASSIFICATION, Objective.SEQUENCE_TO_SEQUENCE})

SECONDS_PER_HOUR, JOULES_PER_KILOWATT_HOUR = 3600.0, 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What is known of the machines beside the manifest."""

    device: Device | None = None
    utilization: float = DEFAULT_UTILIZATION
    tokens_per_second: float | None = None
    """Of one rank, measured; takes the place of the device's speed."""

    price_per_gpu_hour: float | None = None
    vocabulary_size: int | None = None
    """Takes the place of what the manifest lets expect."""

    data_tokens: int | None = None
    """Tokens of the training split, once it is prepared; before, at most `data.reduce.tokens`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a job will take."""

    network: Network
    """The shape, with what follows from model.size."""

    learning_rate: float
    """Peak."""

    vocabulary_size: int
    size: ModelSize
    trained_parameters: int
    """Those of adapters, or without frozen layers; else all."""

    tokens: int | None
    """Of all steps; None: as many as the data has."""

    epochs: float | None
    """How often the data is read, at least; None: not known."""

    flops: float | None
    world_size: int
    micro_batch_size: int
    memory: RankMemory
    memory_limit: int | None
    """Bytes that a rank may use for it; process and allocator are taken off; None: not known."""

    seconds: float | None
    """Of training alone; None: the speed is not known."""

    gpu_hours: float | None
    kilowatt_hours: float | None
    cost: float | None
    warnings: tuple[str, ...]


def forecast_job(spec: JobSpec, means: Means) -> Outlook:
    """Return what a job will take by `means`."""
    training, workers = spec.training, spec.workers
    vocabulary_size = means.vocabulary_size or expect_vocabulary(spec)
    size = compute_size(
        spec.model,
        vocabulary_size=vocabulary_size,
        sequence_length=training.sequence_length,
        corruption=training.span_corruption,
    )
    world_size = workers.replicas * workers.processes_per_worker
    share = max(1, training.global_batch // workers.count_readers(workers.replicas))
    on_gpu = workers.resources.gpu > 0
    trained = count_trained(training, spec.model.resolve(), size)
    limit = _find_memory_limit(spec, means)

    def count_memory(sequences: int) -> RankMemory:
        return compute_rank_memory(
            spec.model,
            size,
            RankWork(
                sequences=sequences,
                sequence_length=training.sequence_length,
                vocabulary_size=vocabulary_size,
                shards=workers.strategy.count_shards(
                    workers.replicas, workers.processes_per_worker // workers.tensor_parallel
                ),
                # On a CPU `auto` measures first; fp32 takes the most memory.
                bf16=training.precision in (Precision.BF16, Precision.FP16)
                or (training.precision is Precision.AUTO and on_gpu),
                fused_attention=on_gpu,
                recomputed=training.activation_checkpointing,
                logits_bytes=training.find_logits_bytes(on_gpu=on_gpu),
                tensor_parallel=workers.tensor_parallel,
            ),
            training.span_corruption,
            training.masking,
            trained=trained,
            optimizer_numbers=count_optimizer_numbers(
                training, spec.model.resolve(), size, trained
            ),
        )

    micro_batch_size = min(training.micro_batch_size or share, share)
    if training.auto_micro_batch and limit is not None:
        micro_batch_size = _expect_micro_batch(share, limit, count_memory)
    memory = count_memory(micro_batch_size)
    tokens = count_tokens(spec, means.data_tokens)
    epochs = count_epochs(spec, means.data_tokens)
    of_token = count_token_flops(training, spec.model.resolve(), size, trained)
    flops = None if tokens is None else tokens * of_token
    seconds = _expect_seconds(tokens, flops, world_size, means, on_gpu=on_gpu)
    gpus = workers.replicas * workers.resources.gpu
    gpu_hours = seconds * gpus / SECONDS_PER_HOUR if seconds is not None and on_gpu else None
    kilowatt_hours = cost = None
    if seconds is not None and on_gpu and means.device is not None:
        kilowatt_hours = gpus * means.device.watts * seconds / JOULES_PER_KILOWATT_HOUR
    if gpu_hours is not None and means.price_per_gpu_hour is not None:
        cost = gpu_hours * means.price_per_gpu_hour
    return Outlook(
        network=spec.model.resolve(),
        learning_rate=training.find_learning_rate(spec.model),
        vocabulary_size=vocabulary_size,
        size=size,
        trained_parameters=trained,
        tokens=tokens,
        epochs=epochs,
        flops=flops,
        world_size=world_size,
        micro_batch_size=micro_batch_size,
        memory=memory,
        memory_limit=limit,
        seconds=seconds,
        gpu_hours=gpu_hours,
        kilowatt_hours=kilowatt_hours,
        cost=cost,
        warnings=(
            *_warn(spec, size, tokens, memory, limit, micro_batch_size, world_size),
            *warn_of_epochs(epochs),
        ),
    )


def _expect_micro_batch(share: int, limit: int, count_memory: Callable[[int], RankMemory]) -> int:
    """Return the largest size of equal passes that fits, as the trainer will try them."""
    sizes = sorted({-(-share // passes) for passes in range(1, share + 1)}, reverse=True)
    most = USED_SHARE * limit
    return next((size for size in sizes if count_memory(size).peak <= most), 1)


def count_tokens(spec: JobSpec, data_tokens: int | None) -> int | None:
    """Return the training tokens of all steps; None: they follow from data that is not known."""
    training = spec.training
    steps = training.count_steps()
    if steps is not None:
        return steps * training.global_batch * training.sequence_length
    known = data_tokens or _find_budget(spec)
    if known is None or training.epochs is None or spec.objective in DOCUMENT_OBJECTIVES:
        return None
    return round(training.epochs * known)


def count_epochs(spec: JobSpec, data_tokens: int | None) -> float | None:
    """Return how often training reads its data of so many tokens; None: not known.

    Where documents are read each by itself, tokens do not say.
    """
    known = data_tokens or _find_budget(spec)
    tokens = count_tokens(spec, data_tokens)
    if known is None or tokens is None or spec.objective in DOCUMENT_OBJECTIVES:
        return None
    return tokens / known


def _find_budget(spec: JobSpec) -> int | None:
    return spec.data.reduce.tokens if spec.data.reduce is not None else None


def warn_of_epochs(epochs: float | None) -> list[str]:
    """Return a warning where data is read too often to be worth it."""
    if epochs is None or epochs <= MOST_EPOCHS:
        return []
    return [
        f"the data is read {epochs:.1f} times; beyond {MOST_EPOCHS} times it teaches ever less "
        "(Muennighoff et al. 2023): more text, or fewer steps, would be better for what it costs"
    ]


def expect_vocabulary(spec: JobSpec) -> int:
    """Return the vocabulary that the tokenizer will have, as far as the manifest says."""
    tokenizer = spec.data.tokenizer
    added = OBJECTIVE_TOKENS[spec.objective]
    if tokenizer.kind is TokenizerKind.BYTE:
        return BYTE_VOCABULARY + added
    if tokenizer.kind is TokenizerKind.CHARACTER:
        return CHARACTER_VOCABULARY + added
    return tokenizer.vocabulary_size


def _expect_seconds(
    tokens: int | None, flops: float | None, world_size: int, means: Means, *, on_gpu: bool
) -> float | None:
    if tokens is None or flops is None:
        return None
    if means.tokens_per_second is not None:
        return tokens / (means.tokens_per_second * world_size)
    if on_gpu and means.device is not None:
        return flops / (means.device.bf16_flops * means.utilization * world_size)
    return None


def _find_memory_limit(spec: JobSpec, means: Means) -> int | None:
    workers = spec.workers
    if workers.resources.gpu > 0:
        return means.device.memory if means.device is not None else None
    of_rank = parse_bytes(workers.resources.memory) // workers.processes_per_worker
    return max(0, int((of_rank - PROCESS_BYTES) / ALLOCATOR_SHARE))


def _warn(
    spec: JobSpec,
    size: ModelSize,
    tokens: int | None,
    memory: RankMemory,
    limit: int | None,
    micro_batch_size: int,
    world_size: int,
) -> list[str]:
    warnings = []
    if limit is not None and memory.peak > limit:
        ways = ["raise workers.resources.memory" if spec.workers.resources.gpu == 0 else ""]
        if micro_batch_size > 1:
            ways.append(f"lower training.microBatchSize (now {micro_batch_size})")
        if spec.workers.strategy is Strategy.DDP and world_size > 1:
            ways.append("set workers.strategy: fsdp")
        advice = ", or ".join(way for way in ways if way) or "make the model smaller"
        warnings.append(f"does not fit into the memory of a rank: {advice}")
    if tokens is not None and tokens < ENOUGH_TOKENS_PER_PARAMETER * size.parameters:
        warnings.append(
            f"{tokens / size.parameters:.1f} tokens for each parameter; "
            f"{ENOUGH_TOKENS_PER_PARAMETER} make the best use of a budget (Hoffmann et al. 2022): "
            "a smaller model, or more steps, would be better for what it costs"
        )
    return warnings
