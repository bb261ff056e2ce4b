"""The ledger as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from llmtrain_api import JobStatus
from llmtrain_api.usage import Usage
from llmtrain_operator.ledger_metrics import LedgerCollector
from testbed.jobs import make_job


def test_every_job_tells_where_its_time_went() -> None:
    usage = Usage(training_seconds=75.0, lost_seconds=5.0, down_seconds=20.0, lost_steps=10)
    status = JobStatus(
        usage=usage.model_copy(update={"goodput_percent": 75}),
        failures_by_class={"hostMemory": 2},
    )
    jobs = [make_job("tiny", status=status), make_job("new")]
    registry = CollectorRegistry()
    registry.register(LedgerCollector(lambda: iter(jobs)))

    labels = {"namespace": "team", "job": "tiny"}
    values = {
        activity: registry.get_sample_value(
            "llmtrain_job_activity_seconds", {**labels, "activity": activity}
        )
        for activity in ("training", "lost", "down", "queued")
    }
    assert values == {"training": 75.0, "lost": 5.0, "down": 20.0, "queued": 0.0}
    assert registry.get_sample_value("llmtrain_job_lost_steps", labels) == 10
    assert registry.get_sample_value("llmtrain_job_goodput_ratio", labels) == 0.75
    failures = {**labels, "class": "hostMemory"}
    assert registry.get_sample_value("llmtrain_job_failures", failures) == 2
    assert registry.get_sample_value("llmtrain_job_goodput_ratio", {**labels, "job": "new"}) is None
