"""Each way to end, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrain_api.failures import CLASS_OF_EXIT_CODE
from llmtrain_api.failures import FailureClass as F
from llmtrain_api.records import ExitCode, Stage
from llmtrain_operator.plan.failures import CLASS_OF_INFRASTRUCTURE, judge_failure
from llmtrain_operator.plan.types import ProcessState
from testbed.jobs import make_job, observe_process, record_failure

SPEC = make_job("tiny").spec


@pytest.mark.parametrize(
    ("facts", "failure_class", "reason", "retry", "counts"),
    [
        ({"ended_by": "NodeLost"}, F.NODE_LOST, "NodeLost", True, False),
        (
            {"ended_by": "Evicted", "exit_code": 137},
            F.INFRASTRUCTURE,
            "Evicted",
            True,
            False,
        ),
        ({"ended_by": "Deleted"}, F.INFRASTRUCTURE, "Deleted", True, False),
        (
            {"ended_by": "OOMKilled", "exit_code": 137},
            F.HOST_MEMORY,
            "WorkerOOMKilled",
            True,
            True,
        ),
        ({"code": ExitCode.PREEMPTED}, F.PREEMPTED, "PreemptedSaved", True, False),
        (
            {"code": ExitCode.PREEMPTED, "said": "PreemptedUnsaved"},
            F.PREEMPTED,
            "PreemptedUnsaved",
            True,
            False,
        ),
        # Whoever told it to leave: a drain, a taint of its node, a shutdown.
        *(
            (
                {"ended_by": by, "code": ExitCode.PREEMPTED},
                F.PREEMPTED,
                "PreemptedSaved",
                True,
                False,
            )
            for by in ("Evicted", "NodeLost", "NodeShutdown", "Preempted", "Deleted")
        ),
        ({"code": ExitCode.PEER_LOST}, F.PEER_LOST, "Said", True, False),
        ({"code": ExitCode.CONFIGURATION}, F.CONFIGURATION, "Said", False, True),
        ({"code": ExitCode.DATA}, F.DATA, "Said", False, True),
        ({"code": ExitCode.DIVERGED}, F.DIVERGED, "Said", False, True),
        ({"code": ExitCode.STORAGE}, F.STORAGE, "Said", True, True),
        ({"code": ExitCode.OUT_OF_MEMORY}, F.HOST_MEMORY, "Said", True, True),
        ({"code": ExitCode.HUNG}, F.HANG, "Said", True, True),
        ({"code": ExitCode.DEVICE_OUT_OF_MEMORY}, F.DEVICE_MEMORY, "Said", True, True),
        ({"code": ExitCode.NO_SPACE}, F.NO_SPACE, "Said", True, True),
        ({"code": ExitCode.DEVICE_FAULT}, F.DEVICE, "Said", True, False),
        (
            {"ended_by": "StartError", "exit_code": 128},
            F.IMAGE,
            "ImageCannotRun",
            True,
            True,
        ),
        ({"code": ExitCode.RANK_LOST}, F.CRASH, "Said", True, True),
        ({"code": ExitCode.BUG}, F.BUG, "Said", True, True),
        ({"exit_code": 137}, F.CRASH, "WorkerKilled", True, True),
        ({"exit_code": 3}, F.CRASH, "WorkerCrashed", True, True),
        ({}, F.CRASH, "WorkerFailed", True, True),
        (
            {
                "ended_by": "Evicted",
                "end_message": 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". ',
            },
            F.NO_SPACE,
            "NoSpace",
            True,
            True,
        ),
        (
            {"ended_by": "Evicted", "end_message": "The node was low on resource: memory."},
            F.INFRASTRUCTURE,
            "Evicted",
            True,
            False,
        ),
        # The platform's word beats what the process wrote while it was pushed out.
        (
            {"ended_by": "NodeShutdown", "code": ExitCode.BUG},
            F.NODE_LOST,
            "NodeShutdown",
            True,
            False,
        ),
    ],
)
def test_verdicts(
    facts: dict[str, Any], failure_class: F, reason: str, retry: bool, counts: bool
) -> None:
    facts = dict(facts)
    said = facts.pop("said", "Said")
    if code := facts.pop("code", None):
        facts["exit_record"] = record_failure(code, said)
    ended = observe_process("tiny", Stage.TRAIN, 0, 0, ProcessState.FAILED, **facts)

    verdict = judge_failure(ended, SPEC)

    assert (verdict.failure_class, verdict.reason) == (failure_class, reason)
    assert (verdict.retry, verdict.counts) == (retry, counts)
    assert verdict.message


def test_every_exit_code_has_a_class_and_every_class_a_way_to_come_about() -> None:
    assert set(CLASS_OF_EXIT_CODE) == set(ExitCode) - {ExitCode.SUCCEEDED}
    by_platform = {
        F.INFRASTRUCTURE,
        F.IMAGE,
        *CLASS_OF_INFRASTRUCTURE.values(),
    }
    assert {*CLASS_OF_EXIT_CODE.values(), *by_platform} == set(F)


@pytest.mark.parametrize("reason", ["Superseded", "PeersMissing"])
def test_peers_that_never_failed_are_no_lost_peers(reason: str) -> None:
    record = record_failure(ExitCode.PEER_LOST, reason)
    ended = observe_process("tiny", Stage.TRAIN, 0, 0, ProcessState.FAILED, exit_record=record)
    assert judge_failure(ended, SPEC).failure_class is F.INFRASTRUCTURE


def test_a_worker_out_of_memory_is_named_with_its_ranks_and_its_limit() -> None:
    ended = observe_process("tiny", Stage.TRAIN, 1, 3, ProcessState.FAILED, ended_by="OOMKilled")
    workers = SPEC.workers.model_copy(update={"processes_per_worker": 4})
    spec = SPEC.model_copy(update={"workers": workers})
    assert judge_failure(ended, spec).message.startswith(
        "worker 1 (ranks 4-7, tiny-train-1-3) took more than its limit of 4Gi "
        "(workers.resources.memory) and was killed"
    )


def test_a_broken_gpu_is_said_with_its_node() -> None:
    record = record_failure(ExitCode.DEVICE_FAULT, "GPUFault", "CUDA error: uncorrectable ECC")
    ended = observe_process(
        "tiny", Stage.TRAIN, 0, 0, ProcessState.FAILED, exit_record=record, node="gpu-3"
    )
    assert judge_failure(ended, SPEC).message == (
        "a GPU of node gpu-3 is broken: CUDA error: uncorrectable ECC; Mend it."
    )


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
    assert judge_failure(ended, SPEC).message == said
