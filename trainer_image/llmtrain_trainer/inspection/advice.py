"""What a loss curve lets one try next: shorter, longer, larger, or with dropout; each with why.

Below: the contract. Above: `successor`. Pure. The thresholds are rules of thumb: they say which
change is worth a run, and only that run says whether it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmtrain_api.findings import Change
from llmtrain_api.network import ModelSpec
from llmtrain_api.training import TrainingSpec

MIN_EVALUATIONS = 4
"""Of a curve that says anything."""

NOTICEABLE = 0.01
"""A change of the held-out loss, as a share of it, that is more than noise."""

LAST_PART = 0.25
"""Share of the steps at the end: where the loss still falls there, there is more to get."""

EARLY = 0.8
"""Share of the steps: a best loss from before it was followed by overfitting."""

SMALL_GAP = 0.05
"""Between held-out and training loss, as a share of the latter: the model has no room for more."""

TRAINING_POINTS = 20
"""Newest losses of training that are averaged."""

MORE = 2
"""Factor of steps or parameters."""

EPOCH_DECIMALS = 3

DROPOUT = 0.1
"""Of the original transformer (Vaswani et al. 2017, arXiv:1706.03762, section 5.4)."""

Curve = Sequence[Mapping[str, float]]


def advise_training(curve: Curve, model: ModelSpec, training: TrainingSpec) -> list[Change]:
    """Return changes to try by what a finished curve looks like; none where it says nothing.

    Args:
        curve: points {step, loss} and {step, validationLoss}.
        model: of the run.
        training: of the run.
    """
    held_out = [
        (point["step"], point["validationLoss"]) for point in curve if "validationLoss" in point
    ]
    if len(held_out) < MIN_EVALUATIONS:
        return []
    last_step, last = held_out[-1]
    best_step, best = min(held_out, key=lambda point: point[1])
    if best_step <= EARLY * last_step and last > best * (1 + NOTICEABLE):
        return _train_less(model, training, int(best_step), int(last_step), best, last)
    before = next(loss for step, loss in reversed(held_out) if step <= (1 - LAST_PART) * last_step)
    if before > last * (1 + NOTICEABLE):
        why = (
            f"The held-out loss still fell over the last quarter, from {before:.4g} to {last:.4g}: "
            "train for longer."
        )
        return [_change_length(training, MORE * int(last_step), int(last_step), why)]
    return _train_larger(curve, model, last)


def _train_less(
    model: ModelSpec,
    training: TrainingSpec,
    best_step: int,
    last_step: int,
    best: float,
    last: float,
) -> list[Change]:
    why = (
        f"The held-out loss was lowest ({best:.4g}) at step {best_step} of {last_step}, and rose "
        f"to {last:.4g}: the model overfits; end there."
    )
    changes = [_change_length(training, best_step, last_step, why)]
    warmup = training.optimizer.warmup_steps
    if warmup is not None and warmup > best_step:
        why = "At most so many steps."
        path = "training.optimizer.warmupSteps"
        changes.append(Change(path=path, value=best_step // 10, reason=why))
    if model.dropout == 0.0:
        why = "It overfits: dropout makes it depend less on single features."
        changes.append(Change(path="model.dropout", value=DROPOUT, reason=why))
    return changes


def _change_length(training: TrainingSpec, steps: int, before: int, why: str) -> Change:
    """Return the change from so many steps `before` to `steps`, by what gives a run's length."""
    share = steps / before
    if training.tokens is not None:
        tokens = round(share * training.tokens)
        return Change(path="training.tokens", value=tokens, reason=why)
    if training.epochs is not None:
        epochs = round(share * training.epochs, EPOCH_DECIMALS)
        return Change(path="training.epochs", value=epochs, reason=why)
    return Change(path="training.steps", value=steps, reason=why)


def _train_larger(curve: Curve, model: ModelSpec, last: float) -> list[Change]:
    """Return a larger size, where held-out text is hardly worse than training text."""
    losses = [point["loss"] for point in curve if "loss" in point][-TRAINING_POINTS:]
    if not losses or model.size is None:
        return []
    trained = sum(losses) / len(losses)
    if last > trained * (1 + SMALL_GAP):
        return []
    why = (
        f"The loss no longer falls, and is hardly lower on training text ({trained:.4g}) than on "
        f"held-out text ({last:.4g}): a larger model may learn more."
    )
    return [Change(path="model.size", value=model.size * MORE, reason=why)]
