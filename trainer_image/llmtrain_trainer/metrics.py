"""What Prometheus reads from a pod.

Below: `board`, and prometheus_client's text format. Above: `server` answers `/metrics` with it.

Names follow Prometheus' rules: prefix `llmtrain_`, base units, `_total` on counters. Worker 0
alone exports what is one value for the whole run, so that sums and averages over pods are right;
every worker exports the heartbeats of its own ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from llmtrain_api.records import ProgressRecord
from llmtrain_trainer.board import ProgressBoard

GAUGES = {
    "loss": ("llmtrain_train_loss", "Training loss of the newest step, nats per token."),
    "validation_loss": (
        "llmtrain_validation_loss",
        "Newest loss on held-out text, nats per token.",
    ),
    "learning_rate": ("llmtrain_learning_rate", "Learning rate of the newest step."),
    "gradient_norm": (
        "llmtrain_gradient_norm",
        "L2 norm of the newest gradient, before clipping.",
    ),
    "tokens_per_second": (
        "llmtrain_tokens_per_second",
        "Training tokens of all ranks in a second, over the last steps.",
    ),
    "step": ("llmtrain_step", "Optimizer steps done."),
    "total_steps": ("llmtrain_planned_steps", "Optimizer steps of the run."),
    "checkpoint_step": (
        "llmtrain_checkpoint_last_committed_step",
        "Step of the newest committed checkpoint.",
    ),
    "storage_safe": (
        "llmtrain_storage_safe",
        "Whether the store refuses to overwrite a manifest (1) or not (0).",
    ),
}
"""Field of `ProgressRecord` → name and help text of the gauge that shows it."""


@dataclass(slots=True)
class RestartCounter:
    """How often the ranks of this pod were started anew, by cause."""

    by_cause: Counter[str] = field(default_factory=Counter)


class TrainerCollector(Collector):
    """Turns the newest progress into metrics whenever Prometheus asks."""

    def __init__(
        self, board: ProgressBoard, restarts: RestartCounter, *, namespace: str, job: str
    ) -> None:
        """Read `board` and `restarts`; every sample carries namespace and job as labels."""
        self._board = board
        self._restarts = restarts
        self._labels = {"namespace": namespace, "job": job}

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this moment."""
        progress = self._board.read_progress()
        if progress.index == 0:
            yield from self._collect_run(progress)
        yield from self._collect_pod(progress)

    def _collect_run(self, progress: ProgressRecord) -> Iterator[Metric]:
        for name, (metric, text) in GAUGES.items():
            value = getattr(progress, name)
            if value is not None:
                gauge = GaugeMetricFamily(metric, text, labels=list(self._labels))
                gauge.add_metric(list(self._labels.values()), float(value))
                yield gauge
        phases = CounterMetricFamily(
            "llmtrain_phase_seconds",
            "Seconds that rank 0 has spent in each phase, since this pod started.",
            labels=[*self._labels, "phase"],
        )
        for phase, seconds in sorted(self._board.sum_phase_seconds().items()):
            phases.add_metric([*self._labels.values(), phase], seconds)
        yield phases

    def _collect_pod(self, progress: ProgressRecord) -> Iterator[Metric]:
        worker = str(progress.index)
        restarts = CounterMetricFamily(
            "llmtrain_rank_restarts",
            "Times that the ranks of this pod were started anew, by cause.",
            labels=[*self._labels, "worker", "cause"],
        )
        for cause, count in sorted(self._restarts.by_cause.items()):
            restarts.add_metric([*self._labels.values(), worker, cause], count)
        yield restarts
        ages = GaugeMetricFamily(
            "llmtrain_rank_heartbeat_age_seconds",
            "Seconds since a rank last said something.",
            labels=[*self._labels, "rank"],
        )
        for rank in progress.ranks:
            age = max(0.0, progress.now - rank.heartbeat)
            ages.add_metric([*self._labels.values(), str(rank.rank)], age)
        yield ages


def render_metrics(collector: TrainerCollector) -> bytes:
    """Return the metrics of this moment in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)
