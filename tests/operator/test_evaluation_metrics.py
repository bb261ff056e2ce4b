"""Evaluations as Prometheus reads them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from llmtrain_api import JobStatus
from llmtrain_api.records import GateResult, StageResult
from llmtrain_operator.evaluation_metrics import METRIC_FIELDS, EvaluationCollector
from testbed.jobs import make_job

GATES = ["loss < 2", "qa.token_f1 >= 0.5"]


def test_every_evaluated_job_tells_what_its_status_says() -> None:
    results = StageResult(
        validation_loss=1.5,
        perplexity=4.5,
        suites={"qa.token_f1": 0.25},
        gates=[GateResult(passed=True), GateResult(passed=False)],
    )
    job = make_job("tiny", status=JobStatus(results=results))
    evaluation = job.spec.evaluation.model_copy(update={"gates": GATES})
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"evaluation": evaluation})})
    jobs = [job, make_job("new")]
    registry = CollectorRegistry()
    registry.register(EvaluationCollector(lambda: iter(jobs)))

    def read(name: str, **labels: str) -> float | None:
        told = {"namespace": "team", "job": "tiny", **labels}
        return registry.get_sample_value(f"llmtrain_evaluation_{name}", told)

    assert read("metric", metric="loss") == 1.5
    assert read("metric", metric="qa.token_f1") == 0.25
    assert read("metric", metric="accuracy") is None
    assert [read("gate_passed", gate=gate) for gate in GATES] == [1.0, 0.0]
    jobs.clear()
    assert read("metric", metric="loss") is None, "gone with the job"


def test_every_field_that_is_told_is_there() -> None:
    assert set(METRIC_FIELDS.values()) <= set(StageResult.model_fields)
