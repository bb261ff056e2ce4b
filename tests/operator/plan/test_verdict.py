"""A model that is trained and evaluated, and what its gates make of that."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.gates import judge_gate
from llmtrain_api.records import GateResult, Stage
from llmtrain_api.status import ConditionType, Phase
from llmtrain_operator.plan import plan_job
from llmtrain_operator.plan.types import Observed, Plan, ProcessState
from testbed.jobs import make_job, observe_process, record_success

GATES = ["perplexity <= 40", "loss < baseline.loss", "accuracy > 0.5"]
METRICS = {"perplexity": 41.5, "loss": 3.0, "baseline.loss": 2.0, "accuracy": 0.6}
JUDGED = [judge_gate(gate, METRICS) for gate in GATES]


def complete(now: datetime, gates: list[str], judged: list[GateResult] | None) -> Plan:
    evaluation = {"gates": gates, "baseline": {"run": "s3://models/runs/old"}}
    job = make_job("tiny", status=JobStatus(stage=Stage.EVALUATE, phase=Phase.EVALUATING))
    data: dict[str, Any] = job.dump()
    data["spec"]["evaluation"] = evaluation
    job = LLMTrainingJob.model_validate(data)
    evaluated = observe_process(
        "tiny",
        Stage.EVALUATE,
        0,
        0,
        ProcessState.SUCCEEDED,
        finished_at=now - timedelta(minutes=5),
        exit_record=record_success(
            perplexity=41.5, gates=judged, report_uri="s3://models/x/evaluation/report.html"
        ),
    )
    return plan_job(job, Observed(processes=(evaluated,)), now)


def test_a_failed_gate_ends_the_job_and_is_explained(now: datetime) -> None:
    plan = complete(now, GATES, JUDGED)
    status = plan.status
    assert (status.phase, status.stage) == (Phase.FAILED, Stage.EVALUATE)
    assert status.message == (
        "The model is trained and exported, but fails 2 of 3 gates. "
        "spec.evaluation.gates[0] (perplexity <= 40): perplexity is 41.5, 1.5 above 40; "
        "spec.evaluation.gates[1] (loss < baseline.loss): loss is 3, 1 above 2, which "
        "baseline.loss is; s3://models/x/evaluation/report.html shows where it fails. The export "
        "stays, marked by its verdict.json: mend data or training, or the gates, in a job of "
        "another name"
    )
    for kind, truth in ((ConditionType.SUCCEEDED, "False"), (ConditionType.STALLED, "True")):
        condition = status.find_condition(kind)
        assert condition is not None
        assert (condition.status, condition.reason) == (truth, "GateFailed")
    assert status.results is not None
    assert status.results.gates == JUDGED
    assert (status.restarts, status.failures, plan.start) == (0, 0, ())
    assert [event.reason for event in plan.events] == ["Failed"]


@pytest.mark.parametrize(
    ("gates", "judged", "phase"),
    [
        ([], None, Phase.SUCCEEDED),
        (["accuracy > 0.5"], JUDGED[2:], Phase.SUCCEEDED),
        (["accuracy > 0.5"], None, Phase.FAILED),  # by a trainer that knows no gates
        (GATES, JUDGED[2:], Phase.FAILED),
    ],
)
def test_gates_hold_or_were_not_judged(
    now: datetime, gates: list[str], judged: list[GateResult] | None, phase: Phase
) -> None:
    status = complete(now, gates, judged).status
    assert status.phase is phase
    assert ("not judged" in status.message) == (phase is Phase.FAILED)
