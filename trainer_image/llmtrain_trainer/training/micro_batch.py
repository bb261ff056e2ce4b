"""How many sequences a forward pass takes, where the job leaves that to the machine.

Below: `peak_memory`, `model`, `objective`, `dataset`. Above: `training.run` asks once, before the
first step of a run; the answer is kept with the run, and `evaluate` goes by it, too.

A pass is tried with one sequence and with two: beyond what is there in any case, memory grows in a
line with sequences, so the two say how many fit. That many are tried, and where they do not fit
after all, or not on every rank, the rank's share of the batch is divided into one pass more. The
global batch stays what it is.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import nn

from llmtrain_api.base import Model
from llmtrain_api.run import RunConfig
from llmtrain_trainer.checkpoint.division import find_local
from llmtrain_trainer.dataset.loading import Split
from llmtrain_trainer.linux import read_memory_bytes
from llmtrain_trainer.model.losses import compute_loss_sum
from llmtrain_trainer.objective.batch import Batch, Objective, count_samples, read_batch
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.spreading import skip_gradient_sync
from llmtrain_trainer.store import ObjectMissingError, Store
from llmtrain_trainer.training.optim import Optimizer
from llmtrain_trainer.training.peak_memory import begin_peak, read_peak, return_free_memory

logger = logging.getLogger(__name__)

MICRO_BATCH = "micro-batch.json"
"""Key below a run."""

USED_SHARE = 0.9
"""Of the memory that there is: allocators do not get by with what is in use."""

KIBIBYTE = 1024


class MicroBatch(Model):
    """What was found."""

    sequences: int = Field(ge=1)
    """Of a pass."""

    peak_bytes: int = Field(ge=0)
    """Memory of a rank in such a pass, the highest of all ranks."""

    limit_bytes: int = Field(ge=0)
    """What a rank may use, the lowest of all ranks."""

    world_size: int = Field(ge=1)
    """Ranks when it was found."""

    device: str


def read_micro_batch(store: Store) -> MicroBatch | None:
    """Return what was found for the run that `store` is rooted at; None: nothing yet.

    Raises:
        StoreError: the store fails.
    """
    try:
        return MicroBatch.model_validate_json(store.read_bytes(MICRO_BATCH))
    except ObjectMissingError:
        return None


def settle_micro_batch(config: RunConfig, found: MicroBatch | None) -> RunConfig:
    """Return the run with the micro-batch that was found, if it was asked for."""
    if found is None or not config.training.auto_micro_batch:
        return config
    update = {"micro_batch_size": found.sequences, "auto_micro_batch": False}
    return config.model_copy(update={"training": config.training.model_copy(update=update)})


def choose_size(share: int, *, one: int, two: int, limit: int) -> int:
    """Return the largest number of sequences whose passes fit, of those that divide a share well.

    Args:
        share: sequences of a step on one rank.
        one: bytes that a pass of one sequence takes.
        two: bytes that a pass of two takes.
        limit: bytes that there are.
    """
    each = max(1, two - one)
    most = max(1, 1 + (limit - one) // each)
    passes = -(-share // min(share, most))
    return -(-share // passes)


def choose_next_size(share: int, size: int) -> int:
    """Return the size of passes where there is one more of them, at least."""
    return min(size - 1, -(-share // (-(-share // size) + 1)))


def find_size(share: int, limit: int, try_pass: Callable[[int], int | None]) -> tuple[int, int]:
    """Return the largest number of sequences of a pass that fits, and the bytes that it takes.

    Where not even one fits, it is one: then the run fails for its memory, and says so.

    Args:
        share: sequences of a step on one rank.
        limit: bytes that there are.
        try_pass: does a pass of so many sequences; returns the bytes that it took, or None where
            there was no room.
    """
    one = try_pass(1)
    if share == 1 or one is None:
        return 1, one or limit
    two = try_pass(2)
    size = 1 if two is None else choose_size(share, one=one, two=two, limit=limit)
    while size > 1:
        peak = try_pass(size)
        if peak is not None and peak <= limit:
            return size, peak
        size = choose_next_size(share, size)
    return 1, one


def find_micro_batch(
    config: RunConfig,
    model: nn.Module,
    objective: Objective,
    optimizer: Optimizer,
    split: Split,
    ranks: Ranks,
) -> MicroBatch:
    """Try passes on the longest sequences of the training split; every rank must do so.

    Args:
        config: of the run.
        model: spread over the ranks; its weights stay as they are.
        objective: makes batches.
        optimizer: of the run, whose state takes memory, too.
        split: that is trained on.
        ranks: that train together.
    """
    share = config.training.global_batch // ranks.num_readers
    device, on_gpu = ranks.device, ranks.device.type == "cuda"
    # On a CPU the optimizer's zeros take no memory before the first step, nor does a saved state.
    state = sum(find_local(name, t).data.nbytes for name, t in optimizer.named_state().items())
    to_come = 0 if on_gpu else 2 * state
    limit = round(USED_SHARE * min(ranks.gather(float(find_memory_limit(config, ranks)))))

    def try_pass(sequences: int) -> int | None:
        return_free_memory(device)
        begin_peak(device)
        peak = float("inf")
        try:
            batch = make_longest_batch(config, objective, split, sequences)
            for _ in range(2):  # the second one while gradients of the first are kept
                _do_pass(config, model, batch, ranks)
            peak = float(read_peak(device) + to_come)
        except torch.cuda.OutOfMemoryError:
            logger.info("a pass of %d sequences does not fit", sequences)
        optimizer.clear_gradients()
        highest = max(ranks.gather(peak))
        return None if highest == float("inf") else int(highest)

    size, peak = find_size(share, limit, try_pass)
    return_free_memory(device)
    logger.info("a pass takes %d of %d sequences: %d of %d bytes", size, share, peak, limit)
    name = torch.cuda.get_device_name(device) if on_gpu else "cpu"
    return MicroBatch(
        sequences=size,
        peak_bytes=peak,
        limit_bytes=limit,
        world_size=ranks.group.world_size,
        device=name,
    )


def make_longest_batch(
    config: RunConfig, objective: Objective, split: Split, sequences: int
) -> Batch:
    """Return a batch of the longest sequences, so that no later pass takes more memory."""
    length = config.training.sequence_length
    count = count_samples(objective, split, length)
    order = np.arange(count)
    if objective.reads_documents:
        order = np.argsort(-split.document_lengths, kind="stable")
    chosen = np.resize(order[:sequences], sequences)
    return read_batch(objective, split, chosen, chosen, sequence_length=length, is_training=True)


def find_memory_limit(config: RunConfig, ranks: Ranks) -> int:
    """Return the bytes that this rank may have in all.

    On a CPU: its share of the pod's limit, or of what the machine has free, beside what it has.
    """
    if ranks.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(ranks.device)
        return free + torch.cuda.memory_reserved(ranks.device)
    sharing = ranks.group.local_world_size
    if config.rendezvous.port_per_worker:
        sharing = ranks.group.world_size  # a local run: all workers share this machine
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE
    of_machine = own + _read_available_bytes() // sharing
    of_pod = read_memory_bytes("max")
    return of_machine if of_pod is None else min(of_machine, of_pod // sharing)


def _read_available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    figures = dict(line.split(":") for line in lines)
    return int(figures["MemAvailable"].split()[0]) * KIBIBYTE


def _do_pass(config: RunConfig, model: nn.Module, batch: Batch, ranks: Ranks) -> None:
    training = config.training
    with skip_gradient_sync(model):
        loss = compute_loss_sum(
            model,
            batch.move(ranks.device),
            logits_bytes=training.find_logits_bytes(on_gpu=ranks.device.type == "cuda"),
            places=batch.locate_targets().to(ranks.device) if _has_gaps(batch) else None,
            label_smoothing=training.label_smoothing,
        )
        loss.backward()


def _has_gaps(batch: Batch) -> bool:
    return len(batch.locate_targets()) < batch.targets.numel()
