"""The trainer's metrics, made from the board when Prometheus asks.

Below: `board`, prometheus_client. Above: `server` answers `/metrics` with them.

What is true of the whole run (loss, step, checkpoint) comes from worker 0 only; every worker
tells of its own ranks and restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmtrain_api.records import ProgressRecord, Stage
from llmtrain_api.run import RunConfig
from llmtrain_trainer.agent.board import Board
from llmtrain_trainer.linux import read_memory_bytes

RUN_GAUGES = {
    "llmtrain_train_loss": ("loss", "Training loss of the newest step, nats per token."),
    "llmtrain_eval_loss": ("validation_loss", "Newest loss on held-out text, nats per token."),
    "llmtrain_learning_rate": ("learning_rate", "Learning rate of the newest step."),
    "llmtrain_grad_norm": ("gradient_norm", "L2 norm of the newest gradient before clipping."),
    "llmtrain_tokens_per_second": ("tokens_per_second", "Training tokens of all ranks a second."),
    "llmtrain_model_flops_utilization_ratio": (
        "utilization",
        "Training speed as a share of what the GPUs' data sheet allows in bfloat16.",
    ),
    "llmtrain_data_ratio": ("data_share", "Share of steps in which rank 0 makes its batches."),
    "llmtrain_device_memory_peak_bytes": (
        "device_memory_bytes",
        "The most memory of its GPU that rank 0 has held.",
    ),
    "llmtrain_step": ("step", "Optimizer steps done."),
    "llmtrain_steps": ("total_steps", "Optimizer steps of the whole run."),
    "llmtrain_loss_spikes": ("loss_spikes", "Rises of the loss far above its median, this round."),
    "llmtrain_float16_overflows": (
        "overflows",
        "Steps that were left out, since their gradients were beyond float16.",
    ),
    "llmtrain_rollbacks": ("rollbacks", "Returns to a checkpoint, since the loss ran away."),
    "llmtrain_skipped_batches": ("skipped_batches", "Batches that are left out since."),
    "llmtrain_checkpoint_last_committed_step": ("checkpoint_step", "Newest committed checkpoint."),
    "llmtrain_checkpoint_stall_seconds": (
        "checkpoint_stall_seconds",
        "How long training waited for the newest save.",
    ),
    "llmtrain_checkpoint_save_seconds": (
        "checkpoint_save_seconds",
        "How long the newest committed save took, from its beginning on.",
    ),
    "llmtrain_checkpoint_interval_seconds": (
        "checkpoint_interval_seconds",
        "Seconds between saves, where the clock decides.",
    ),
}
"""Metric name → field of the progress record, help text."""

MEMORY_GAUGES = {
    "llmtrain_memory_peak_bytes": ("peak", "The most memory that the worker has held."),
    "llmtrain_memory_limit_bytes": ("max", "Memory at which the worker is killed."),
}
"""Metric name → figure of the worker's cgroup, help text."""


class BoardCollector(Collector):
    """Reads the board at each scrape, so that nothing is counted twice."""

    def __init__(
        self,
        board: Board,
        config: RunConfig,
        *,
        stage: Stage,
        index: int,
        read_memory: Callable[[str], int | None] = read_memory_bytes,
    ) -> None:
        """Label everything with the job that `config` names."""
        self._read_memory = read_memory
        self._board = board
        self._config = config
        self._index = index
        self._labels = {"namespace": config.namespace, "job": config.name, "stage": stage.value}
        self._world_size = config.count_workers(stage) * config.count_local_ranks(stage)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of which there is a value."""
        progress = self._board.read()
        if self._index == 0:
            yield from self._collect_run(progress)
        yield from self._collect_worker(progress)

    def _collect_run(self, progress: ProgressRecord) -> Iterator[Metric]:
        for name, (field, text) in RUN_GAUGES.items():
            value = getattr(progress, field)
            if value is not None:
                yield self._gauge(name, text, value)
        yield self._gauge("llmtrain_world_size", "Ranks that work together.", self._world_size)
        if self._board.checkpoint_at is not None:
            yield self._gauge(
                "llmtrain_checkpoint_last_committed_timestamp_seconds",
                "When the newest checkpoint was committed, Unix seconds.",
                self._board.checkpoint_at,
            )
        skips = CounterMetricFamily(
            "llmtrain_checkpoint_skips_total",
            "Saves that fell due while one was still on its way.",
            labels=list(self._labels),
        )
        skips.add_metric(list(self._labels.values()), progress.checkpoint_skips)
        yield skips
        phases = GaugeMetricFamily(
            "llmtrain_round_phase_seconds",
            "Seconds of rank 0 in each phase since the ranks were started.",
            labels=[*self._labels, "phase"],
        )
        for phase, seconds in progress.phase_seconds.items():
            phases.add_metric([*self._labels.values(), phase], seconds)
        yield phases

    def _collect_worker(self, progress: ProgressRecord) -> Iterator[Metric]:
        own = {**self._labels, "worker": str(self._index)}
        restarts = CounterMetricFamily(
            "llmtrain_restarts_total",
            "Restarts of this worker's ranks, by how the round before ended.",
            labels=[*own, "cause"],
        )
        for cause, count in self._board.restarts.items():
            restarts.add_metric([*own.values(), cause], count)
        yield restarts
        ages = GaugeMetricFamily(
            "llmtrain_rank_heartbeat_age_seconds",
            "Seconds since a rank last said anything.",
            labels=[*own, "rank"],
        )
        for rank in progress.ranks:
            age = max(0.0, progress.now - rank.heartbeat)
            ages.add_metric([*own.values(), str(rank.rank)], age)
        yield ages
        ratios = GaugeMetricFamily(
            "llmtrain_straggler_ratio",
            "A rank's own time of a step, as a multiple of the median rank's.",
            labels=[*own, "rank"],
        )
        for rank in progress.ranks:
            if rank.straggler_ratio is not None:
                ratios.add_metric([*own.values(), str(rank.rank)], rank.straggler_ratio)
        yield ratios
        for name, (figure, text) in MEMORY_GAUGES.items():
            value = self._read_memory(figure)
            if value is not None:
                memory = GaugeMetricFamily(name, text, labels=list(own))
                memory.add_metric(list(own.values()), value)
                yield memory
        if self._board.recovery is not None:
            parts = GaugeMetricFamily(
                "llmtrain_recovery_seconds",
                "The newest recovery, from the loss of a round to the next round's first step.",
                labels=[*own, "part"],
            )
            for part, seconds in self._board.recovery.list_parts().items():
                parts.add_metric([*own.values(), part], seconds)
            yield parts

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        gauge = GaugeMetricFamily(name, text, labels=list(self._labels))
        gauge.add_metric(list(self._labels.values()), value)
        return gauge


def render_metrics(collector: BoardCollector) -> bytes:
    """Return the metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)
