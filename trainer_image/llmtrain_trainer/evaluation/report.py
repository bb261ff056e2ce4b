"""The report of a run: one HTML page that needs nothing else, and the same facts as JSON.

Below: matplotlib draws, jinja2 fills the template. Above: `evaluate`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llmtrain_api.run import RunConfig
from llmtrain_trainer.evaluation.answers import SuiteResult
from llmtrain_trainer.evaluation.breakdown import PositionLoss, SliceLoss
from llmtrain_trainer.evaluation.checkpoints import EvaluatedCheckpoint
from llmtrain_trainer.evaluation.step_figure import draw_steps
from llmtrain_trainer.evaluation.verdict import JudgedGate
from llmtrain_trainer.model.blueprint import Shape
from llmtrain_trainer.rendering import render_template
from llmtrain_trainer.training.curve import smooth

if TYPE_CHECKING:  # it brings scikit-learn, which only reports on classifiers need
    from llmtrain_trainer.evaluation.classification.record import ClassReport
    from llmtrain_trainer.evaluation.classification.set_reporting import LabelSetReport

TRAIN_COLOUR = "#9db8d6"
SMOOTH_COLOUR = "#1f5fa8"
VALIDATION_COLOUR = "#c4510a"
UNIGRAM_COLOUR = "#777777"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A text that the model wrote."""

    prompt: str
    continuation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that the report says."""

    config: RunConfig
    step: int
    parameters: int
    validation_loss: float
    perplexity: float
    accuracy: float
    """Share of the targets that the model holds for the most probable; with label sets, of the
    documents whose labels are all right."""

    bits_per_byte: float | None
    """Where every token is predicted."""

    unigram_loss: float
    held_out_tokens: int
    """Tokens that were predicted."""

    metrics: Mapping[str, float | None]
    """All that gates may name and that was measured."""

    gates: Sequence[JudgedGate]
    suites: Sequence[SuiteResult]

    positions: Sequence[PositionLoss]
    """Of a causal model: the loss by how much was read."""

    slices: Sequence[SliceLoss]
    """Of a causal model: the loss on each source, language and length."""

    classes: ClassReport | LabelSetReport | None
    """Where documents are classified: the second, where each has any number of classes."""

    checkpoints: Sequence[EvaluatedCheckpoint]
    """What evaluation.checkpoints names, in its order."""

    curve: Sequence[dict[str, float]]
    """Points {step, loss, learningRate, gradientNorm} and {step, validationLoss}."""

    pace: Sequence[dict[str, float]]
    """What was measured of training steps: {step, time, tokensPerSecond, …}."""

    samples: Sequence[Sample]

    shape: Shape

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data."""
        return {
            "namespace": self.config.namespace,
            "name": self.config.name,
            "uid": self.config.uid,
            "step": self.step,
            "parameters": self.parameters,
            "validationLoss": self.validation_loss,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
            "bitsPerByte": self.bits_per_byte,
            "unigramLoss": self.unigram_loss,
            "heldOutTokens": self.held_out_tokens,
            "metrics": dict(self.metrics),
            "gates": [gate.dump() for gate in self.gates],
            "suites": [suite.dump() for suite in self.suites],
            "positions": [item.dump() for item in self.positions],
            "checkpoints": [item.dump() for item in self.checkpoints],
            "slices": [item.dump() for item in self.slices],
            **({} if self.classes is None else {"classification": self.classes.dump()}),
            "curve": list(self.curve),
            "samples": [{"prompt": s.prompt, "continuation": s.continuation} for s in self.samples],
            "model": self.config.model.dump(),
            "training": self.config.training.dump(),
        }


def render_report(report: Report) -> str:
    """Return the report as one self-contained HTML page."""
    training = report.config.training
    return render_template(
        "report.html.j2",
        report=report,
        config=report.config,
        shape=report.shape,
        trained_tokens=report.step * training.global_batch * training.sequence_length,
        compared=compare_checkpoints(report.metrics, report.checkpoints),
        curve_svg=draw_curve(report.curve, report.unigram_loss),
        steps_svg=draw_steps(report.curve, report.pace),
    )


def compare_checkpoints(
    exported: Mapping[str, float | None], checkpoints: Sequence[EvaluatedCheckpoint]
) -> list[tuple[str, list[float | None]]]:
    """Return each metric that a checkpoint has: of the exported model, then of those there are."""
    there = [item for item in checkpoints if not item.lack]
    names = dict.fromkeys(name for item in there for name in item.metrics)
    return [
        (name, [exported.get(name), *(item.metrics.get(name) for item in there)]) for name in names
    ]


def draw_curve(curve: Sequence[dict[str, float]], unigram_loss: float) -> str:
    """Return the loss curve as an SVG element; the same input gives the same text."""
    steps = [point["step"] for point in curve if "loss" in point]
    losses = [point["loss"] for point in curve if "loss" in point]
    held_out = [point for point in curve if "validationLoss" in point]
    with matplotlib.rc_context({"svg.hashsalt": "llmtrain", "font.size": 10}):
        figure = Figure(figsize=(8.0, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, losses, color=TRAIN_COLOUR, linewidth=0.8, label="training, each step")
        axes.plot(
            steps, smooth(losses), color=SMOOTH_COLOUR, linewidth=1.6, label="training, smoothed"
        )
        axes.plot(
            [point["step"] for point in held_out],
            [point["validationLoss"] for point in held_out],
            color=VALIDATION_COLOUR,
            marker="o",
            markersize=3.5,
            label="held-out",
        )
        axes.axhline(
            unigram_loss, color=UNIGRAM_COLOUR, linestyle="--", linewidth=1.0, label="unigram"
        )
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats per target)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
