"""The ledger of every job as metrics, read from the statuses when Prometheus asks.

Below: the jobs as last heard of. Above: `__main__` registers the collector. Nothing is counted
here: what a restarted operator exports is what the statuses say.

Activities are gauges, since steps that must be repeated move from `training` to `lost`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmtrain_api import LLMTrainingJob
from llmtrain_api.usage import Activity, Usage

LOST = "lost"
"""What steps that had to be repeated are called beside the activities."""

LABELS = ("namespace", "job")
PERCENT = 100


class LedgerCollector(Collector):
    """Yields the ledgers of the jobs that exist."""

    def __init__(self, list_jobs: Callable[[], Iterable[LLMTrainingJob]]) -> None:
        """Ask `list_jobs` at each scrape; it is called from the thread that serves it."""
        self._list_jobs = list_jobs

    def collect(self) -> Iterator[Metric]:
        """Yield every family, each with one sample or more for each job."""
        seconds = GaugeMetricFamily(
            "llmtrain_job_activity_seconds",
            "Wall-clock time of a run by what it went into; sums up to the age of the run.",
            labels=[*LABELS, "activity"],
        )
        lost_steps = GaugeMetricFamily(
            "llmtrain_job_lost_steps", "Steps that had to be repeated.", labels=LABELS
        )
        goodput = GaugeMetricFamily(
            "llmtrain_job_goodput_ratio",
            "Share of the time, suspensions aside, that went into steps that count.",
            labels=LABELS,
        )
        failures = GaugeMetricFamily(
            "llmtrain_job_failures",
            "Processes that ended without success, by class of failure.",
            labels=[*LABELS, "class"],
        )
        for job in self._list_jobs():
            labels = [job.metadata.namespace, job.metadata.name]
            for kind, count in job.status.failures_by_class.items():
                failures.add_metric([*labels, kind], count)
            usage = job.status.usage
            if usage is None:
                continue
            for activity, value in list_seconds(usage).items():
                seconds.add_metric([*labels, activity], value)
            lost_steps.add_metric(labels, usage.lost_steps)
            if usage.goodput_percent is not None:
                goodput.add_metric(labels, usage.goodput_percent / PERCENT)
        yield from (seconds, lost_steps, goodput, failures)


def list_seconds(usage: Usage) -> dict[str, float]:
    """Return all the time that was charged, by activity, with `lost` beside them."""
    values = usage.model_dump()
    return {name: values[f"{name}_seconds"] for name in (*map(str, Activity), LOST)}
