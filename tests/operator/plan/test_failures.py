"""Each way to end, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrain_api.records import ExitCode, Stage
from llmtrain_operator.plan.failures import judge_failure
from llmtrain_operator.plan.types import ProcessState
from testbed.jobs import observe_process, record_failure


@pytest.mark.parametrize(
    ("facts", "reason", "retry", "counts"),
    [
        ({"ended_by": "NodeLost"}, "NodeLost", True, False),
        ({"ended_by": "Evicted", "exit_code": 137}, "Evicted", True, False),
        ({"ended_by": "Deleted"}, "Deleted", True, False),
        ({"ended_by": "OOMKilled", "exit_code": 137}, "WorkerOOMKilled", True, True),
        ({"code": ExitCode.PREEMPTED}, "PreemptedSaved", True, False),
        ({"code": ExitCode.PEER_LOST}, "Said", True, False),
        ({"code": ExitCode.CONFIGURATION}, "Said", False, True),
        ({"code": ExitCode.DATA}, "Said", False, True),
        ({"code": ExitCode.DIVERGED}, "Said", False, True),
        ({"code": ExitCode.STORAGE}, "Said", True, True),
        ({"code": ExitCode.OUT_OF_MEMORY}, "Said", True, True),
        ({"code": ExitCode.RANK_LOST}, "Said", True, True),
        ({"code": ExitCode.BUG}, "Said", True, True),
        ({"exit_code": 137}, "WorkerKilled", True, True),
        ({"exit_code": 3}, "WorkerCrashed", True, True),
        ({}, "WorkerFailed", True, True),
        # The platform's word beats what the process wrote while it was pushed out.
        ({"ended_by": "NodeShutdown", "code": ExitCode.BUG}, "NodeShutdown", True, False),
    ],
)
def test_verdicts(facts: dict[str, Any], reason: str, retry: bool, counts: bool) -> None:
    if code := facts.pop("code", None):
        facts["exit_record"] = record_failure(code, "Said")
    ended = observe_process("tiny", Stage.TRAIN, 0, 0, ProcessState.FAILED, **facts)

    verdict = judge_failure(ended)

    assert (verdict.reason, verdict.retry, verdict.counts) == (reason, retry, counts)
    assert verdict.message


@pytest.mark.parametrize(
    ("message", "next_step", "said"),
    [
        ("the loss is nan", "lower the rate", "the loss is nan; lower the rate"),
        ("The loss is nan.", "Lower the rate.", "The loss is nan. Lower the rate."),
        ("the loss is nan", "", "the loss is nan"),
    ],
)
def test_what_happened_and_what_to_do_are_one_sentence(
    message: str, next_step: str, said: str
) -> None:
    record = record_failure(ExitCode.DIVERGED, "LossNotFinite").model_copy(
        update={"message": message, "next_step": next_step}
    )
    ended = observe_process("tiny", Stage.TRAIN, 0, 0, ProcessState.FAILED, exit_record=record)
    assert judge_failure(ended).message == said
