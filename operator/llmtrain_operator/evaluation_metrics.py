"""What evaluations came to as metrics, read from the statuses when Prometheus asks.

Below: the jobs as last heard of. Above: `__main__` registers the collector. The operator tells them
and not the pods, which are gone by the time somebody looks. A job that is deleted takes its figures
along. Each job has one series for each number of its status, which is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmtrain_api import LLMTrainingJob
from llmtrain_api.records import StageResult
from llmtrain_operator.ledger_metrics import LABELS

METRIC_FIELDS = {
    "loss": "validation_loss",
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "bits_per_byte": "bits_per_byte",
    "f1_macro": "f1_macro",
    "ece": "ece",
    "unigram.loss": "unigram_loss",
}
"""Metrics by their names in gates, and the fields of `status.results` that have them."""


class EvaluationCollector(Collector):
    """Yields the results of the jobs that have been evaluated."""

    def __init__(self, list_jobs: Callable[[], Iterable[LLMTrainingJob]]) -> None:
        """Ask `list_jobs` at each scrape; it is called from the thread that serves it."""
        self._list_jobs = list_jobs

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        metrics = GaugeMetricFamily(
            "llmtrain_evaluation_metric",
            "What the evaluation of a job measured, by the name that gates use.",
            labels=[*LABELS, "metric"],
        )
        gates = GaugeMetricFamily(
            "llmtrain_evaluation_gate_passed",
            "1 where a gate of a job holds, 0 where it does not.",
            labels=[*LABELS, "gate"],
        )
        for job in self._list_jobs():
            results = job.status.results
            if results is None:
                continue
            labels = [job.metadata.namespace, job.metadata.name]
            for name, value in list_metrics(results).items():
                metrics.add_metric([*labels, name], value)
            # Two gates may be alike in words, and would be one series.
            verdicts = zip(job.spec.evaluation.gates, results.gates or [], strict=False)
            for gate, passed in {gate: told.passed for gate, told in verdicts}.items():
                gates.add_metric([*labels, gate], passed)
        yield from (metrics, gates)


def list_metrics(results: StageResult) -> dict[str, float]:
    """Return what an evaluation measured, by the names that gates use."""
    values = {name: getattr(results, field) for name, field in METRIC_FIELDS.items()}
    values |= results.suites or {}
    return {name: value for name, value in values.items() if value is not None}
