"""Other weights of the run beside the exported ones: its last checkpoint, its best, one of a step.

Below: `checkpoint` gives the weights, `model.completion` makes a model of them, `examining`
measures and asks it, `metrics` names what came out. Above: `evaluate`, in every rank; `reporting`,
on rank 0.

One model after the other is on the device. Answers are judged when the other ranks have left, for
which rank 0 builds each model once more: an answer may be compared by the model's own states.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from llmtrain_api.evaluation import BEST_CHECKPOINT, FINAL_CHECKPOINT, read_checkpoint_step
from llmtrain_api.run import RunConfig
from llmtrain_trainer.checkpoint.manifest import WEIGHT
from llmtrain_trainer.checkpoint.restore import Checkpoint, fetch_newest_checkpoint, load_tensors
from llmtrain_trainer.checkpoint.retention import read_losses
from llmtrain_trainer.checkpoint.verification import list_steps
from llmtrain_trainer.evaluation.asking import Answered, Scored
from llmtrain_trainer.evaluation.examining import Subject, ask_suites, measure_split
from llmtrain_trainer.evaluation.measure import Measurement
from llmtrain_trainer.evaluation.metrics import measure_labels, name_metrics
from llmtrain_trainer.evaluation.suites import judge_suites
from llmtrain_trainer.evaluation.verdict import Metrics
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.model.blueprint import Blueprint, draw_blueprint
from llmtrain_trainer.model.completion import complete_model
from llmtrain_trainer.model.export import read_exported_step
from llmtrain_trainer.model.pretrained import read_pretrained
from llmtrain_trainer.parallel import Ranks, place_model
from llmtrain_trainer.store import Store

NOT_THERE = (
    "the run has no such checkpoint: it ended before, the loss ran away there, or a save failed"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFindings:
    """What all ranks found out of a checkpoint together."""

    step: int
    measured: Measurement
    asked: Sequence[Answered | Scored | None]

    build: Callable[[], Any]
    """Makes its model, on the CPU, as long as what was downloaded is there."""

    discard: Callable[[], None]
    """Deletes what was downloaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedCheckpoint:
    """One of evaluation.checkpoints, and its metrics."""

    name: str
    step: int | None
    """None: there is none, and `lack` says why."""

    metrics: Metrics
    """By the names that gates use; of labels and suites, too."""

    lack: str = ""

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data."""
        if self.step is None:
            return {"name": self.name, "lack": self.lack}
        return {"name": self.name, "step": self.step, "metrics": dict(self.metrics)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedCheckpoints:
    """What was found out of the checkpoints that the spec names."""

    steps: Mapping[str, int | None]
    """By their names in the spec; None: there is no such checkpoint."""

    found: Mapping[int, CheckpointFindings]
    """By their steps; nothing of that which was exported."""

    damages: Mapping[int, str]
    """Of those that are not whole."""


def examine_checkpoints(
    config: RunConfig, store: Store, subject: Subject, ranks: Ranks
) -> ExaminedCheckpoints:
    """Measure and ask each checkpoint that the spec names, each rank its share.

    Every rank must call it. What was exported is not asked again.

    Raises:
        DataError: where a suite cannot be read.
        StoreError: where the store fails.
    """
    names = config.evaluation.checkpoints
    if not names:
        return ExaminedCheckpoints(steps={}, found={}, damages={})
    steps = find_steps(store, names) if ranks.is_first else None
    steps = ranks.share("checkpoints", steps, source=0)
    wanted = {step for step in steps.values() if step is not None} - {read_exported_step(store)}
    blueprint = draw_blueprint(config, subject.dataset, read_pretrained(config, store))
    place_model(subject.model, torch.device("cpu"))
    found, damages = {}, {}
    for step in sorted(wanted):
        try:
            weights = fetch_newest_checkpoint(
                store, ranks, is_foreign=True, only_step=step, purpose=f"evaluate-{step}"
            )
        except StoreError as error:
            if error.reason != "CheckpointsDamaged":
                raise
            damages[step] = error.message
            continue
        if weights is not None:
            found[step] = examine_weights(config, subject, blueprint, weights, ranks)
    if ranks.is_first:
        place_model(subject.model, ranks.device)
    return ExaminedCheckpoints(steps=steps, found=found, damages=damages)


def find_steps(store: Store, names: Sequence[str]) -> dict[str, int | None]:
    """Return the steps of the checkpoints of a run by their names in the spec."""
    existing = list_steps(store)
    losses = read_losses(store, existing) if BEST_CHECKPOINT in names else {}
    steps: dict[str, int | None] = {}
    for name in names:
        if name == FINAL_CHECKPOINT:
            steps[name] = max(existing, default=None)
        elif name == BEST_CHECKPOINT:
            steps[name] = min(losses, key=lambda step: (losses[step], step), default=None)
        else:
            step = read_checkpoint_step(name)
            steps[name] = step if step in existing else None
    return steps


def examine_weights(
    config: RunConfig, subject: Subject, blueprint: Blueprint, weights: Checkpoint, ranks: Ranks
) -> CheckpointFindings:
    """Measure and ask the model of a checkpoint; every rank must call it."""
    step = weights.manifest.step

    def fill(model: nn.Module) -> None:
        parameters = model.named_parameters()
        trained = {f"{WEIGHT}{name}": p.detach() for name, p in parameters if p.requires_grad}
        load_tensors(weights, ranks, trained)

    def build() -> Any:
        return complete_model(blueprint, subject.dataset, fill).eval()

    def discard() -> None:
        shutil.rmtree(weights.folder)

    own = replace(subject, model=place_model(build(), ranks.device))
    measured = measure_split(config, own, own.held_out, ranks)
    asked = ask_suites(config, own, ranks, key=f"step-{step}")
    if ranks.group.local_rank == 0 and not ranks.is_first:
        discard()  # all ranks have read it: they have agreed on numbers since
    return CheckpointFindings(
        step=step, measured=measured, asked=asked, build=build, discard=discard
    )


def judge_checkpoints(
    config: RunConfig, subject: Subject, examined: ExaminedCheckpoints, exported: Metrics
) -> list[EvaluatedCheckpoint]:
    """Name what was found out of each checkpoint, in the order of the spec; rank 0 alone calls it.

    Args:
        config: of the run.
        subject: the exported model and the data.
        examined: what all ranks found out.
        exported: metrics of the exported model, which one of the checkpoints may be.

    Raises:
        DataError: where the lexicon or the task of a suite cannot be read.
        ConfigurationError: where the encoder of a suite cannot be used.
    """
    metrics = {step: judge_weights(config, subject, own) for step, own in examined.found.items()}
    evaluated = []
    for name, step in examined.steps.items():
        lack = NOT_THERE if step is None else examined.damages.get(step, "")
        evaluated.append(
            EvaluatedCheckpoint(name=name, step=None, metrics={}, lack=lack)
            if step is None or lack
            else EvaluatedCheckpoint(name=name, step=step, metrics=metrics.get(step, exported))
        )
    return evaluated


def judge_weights(config: RunConfig, subject: Subject, found: CheckpointFindings) -> Metrics:
    """Return the metrics of a checkpoint, and delete what was downloaded of it."""
    suites = []
    if config.evaluation.suites:
        model = place_model(found.build(), subject.model.device)
        suites = judge_suites(config, replace(subject, model=model), found.asked)
    found.discard()
    said = found.measured.probabilities
    of_labels = (
        {} if said is None else measure_labels(config, subject.dataset, subject.held_out, said)
    )
    return name_metrics(config, subject, found.measured, of_labels, suites)
