"""What the steps of a run work on, and its weights of another step.

Below: `store`, `dataset`, `objective`, `model`, `parallel`, `optim`, `checkpoint`. Above: `opening`
makes one, `train` does the steps.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import nn

from llmtrain_api.run import RunConfig
from llmtrain_trainer.checkpoint.restore import (
    fetch_newest_checkpoint,
    load_tensors,
    remove_folder,
)
from llmtrain_trainer.checkpoint.saving import Checkpointer, Snapshot
from llmtrain_trainer.checkpoint.schedule import SaveSchedule
from llmtrain_trainer.dataset.loading import Dataset
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.model.blueprint import Blueprint
from llmtrain_trainer.objective.batch import Objective
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.spreading import forget_gathered
from llmtrain_trainer.store import Store
from llmtrain_trainer.training.curve import Curve
from llmtrain_trainer.training.divergence import LossWatch, RollbackHistory
from llmtrain_trainer.training.event_file import EventFile
from llmtrain_trainer.training.optim import Optimizer
from llmtrain_trainer.training.stragglers import StepClock, StragglerWatch

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class TrainingRun:
    """What the steps of a run work on."""

    config: RunConfig
    ranks: Ranks
    reporter: Reporter
    store: Store
    dataset: Dataset
    objective: Objective
    blueprint: Blueprint
    model: nn.Module
    optimizer: Optimizer
    checkpointer: Checkpointer
    schedule: SaveSchedule
    total_steps: int
    """Optimizer steps of the run, as given or as the data has them."""

    evaluate_every: int
    """Steps between evaluations."""

    step: int
    """Optimizer steps done."""

    curve: Curve

    events: EventFile
    """The curve for TensorBoard; rank 0 writes it."""

    peak_tokens_per_second: float | None
    """Training speed at which the GPUs would do all that they can; None: not known."""

    history: RollbackHistory
    """What the run skips, since the loss ran away there."""

    watch: LossWatch
    clock: StepClock
    stragglers: StragglerWatch

    num_skips: int = 0
    """Saves of this round that fell due while one was on its way."""

    reported_failure: StoreError | None = None
    """The newest failure of a save that was told."""

    @property
    def logits_bytes(self) -> int:
        """Most memory that logits may take at a time."""
        return self.config.training.find_logits_bytes(on_gpu=self.ranks.device.type == "cuda")

    def take_snapshot(self) -> Snapshot:
        """Return the state after the newest step, every tensor once."""
        return Snapshot(
            step=self.step,
            tensors=self.optimizer.named_state(),
            curve=self.curve,
            run_seconds=self.schedule.run_seconds,
        )

    def find_last(self, name: str) -> float:
        """Return the newest value of the curve that is called `name`."""
        return self.find_at(name, self.step)

    def find_at(self, name: str, step: int) -> float:
        """Return the newest value of the curve that is called `name`, of `step` or before."""
        points = (point for point in reversed(self.curve) if point["step"] <= step)
        return next(point[name] for point in points if name in point)


def load_weights(run: TrainingRun, step: int) -> bool:
    """Put the weights of a checkpoint of this run into its model; return whether there is one.

    Every rank must call it.
    """
    run.checkpointer.wait()
    run.ranks.wait()
    checkpoint = fetch_newest_checkpoint(
        run.store, run.ranks, is_foreign=True, only_step=step, purpose="weights"
    )
    if checkpoint is None:
        logger.warning("there is no checkpoint of step %d; the newest weights stay", step)
        return False
    load_tensors(checkpoint, run.ranks, run.optimizer.named_state())
    remove_folder(checkpoint, run.ranks)
    forget_gathered(run.model)
    return True
