"""Which nodes a run keeps away from, for how long, and when it must come back to them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from llmtrain_api.failures import FailureClass as F
from llmtrain_api.records import ExitCode, Stage
from llmtrain_api.status import Attempt, AvoidedNode
from llmtrain_operator.plan import plan_job
from llmtrain_operator.plan.conditions import format_time
from llmtrain_operator.plan.nodes import judge_node, merge_avoided
from llmtrain_operator.plan.types import Observed, ObservedProcess, ProcessState
from testbed.jobs import make_job, observe_process, record_failure, record_success

NOON = datetime.fromisoformat("2026-11-24T12:00:00+00:00")


def hurt(kind: F, node: str | None = "n1", hours_ago: float = 0.0) -> Attempt:
    return Attempt(
        stage=Stage.TRAIN,
        index=0,
        incarnation=0,
        failure_class=kind,
        reason=f"Of{kind}",
        message="it broke",
        node=node,
        finished_at=format_time(NOON - timedelta(hours=hours_ago)),
    )


@pytest.mark.parametrize(
    ("attempts", "avoided"),
    [
        ([hurt(F.DEVICE)], None),
        ([hurt(F.DEVICE), hurt(F.DEVICE)], "n1"),
        ([hurt(F.DEVICE), hurt(F.NODE_LOST)], "n1"),
        ([hurt(F.DEVICE, "n2"), hurt(F.DEVICE)], None),
        ([hurt(F.DEVICE, hours_ago=7), hurt(F.DEVICE)], None),
        ([hurt(F.DEVICE, None), hurt(F.DEVICE, None)], None),
        # What dies on one node alone is the node's; what dies everywhere is the job's.
        ([hurt(F.CRASH), hurt(F.HANG)], "n1"),
        ([hurt(F.CRASH, "n2"), hurt(F.CRASH), hurt(F.CRASH)], None),
        ([hurt(F.CRASH, "n2"), hurt(F.CRASH), hurt(F.DEVICE), hurt(F.DEVICE)], "n1"),
        # A job's own doing, or nobody's.
        ([hurt(F.BUG), hurt(F.BUG)], None),
        ([hurt(F.HOST_MEMORY), hurt(F.HOST_MEMORY)], None),
        ([hurt(F.PREEMPTED), hurt(F.PREEMPTED)], None),
        ([hurt(F.INFRASTRUCTURE), hurt(F.INFRASTRUCTURE)], None),
    ],
)
def test_a_node_that_hurts_twice_is_avoided(attempts: list[Attempt], avoided: str | None) -> None:
    found = judge_node(attempts, NOON)
    assert (found.node if found is not None else None) == avoided
    if found is not None:
        assert found.until == "2026-11-24T13:00:00Z"
        assert found.message.startswith("2 failures there (")


def avoid(node: str, hours: float = 1.0) -> AvoidedNode:
    return AvoidedNode(
        node=node, reason="GPUFault", until=format_time(NOON + timedelta(hours=hours))
    )


def test_avoidance_ends_and_is_prolonged() -> None:
    merged = merge_avoided([avoid("a", -0.1), avoid("b"), avoid("c")], [avoid("b", 2)], NOON)
    assert [(a.node, a.until[11:13]) for a in merged] == [("c", "13"), ("b", "14")]


class Story:
    """A training stage of one worker whose statuses are all written."""

    def __init__(self) -> None:
        self.now = NOON
        self.job = make_job("tiny", replicas=1)
        self.told: list[str] = []
        self.started: list[str] = []
        self.removed: list[str] = []
        self.see()

    def see(self, *processes: ObservedProcess) -> None:
        prepared = observe_process(
            "tiny", Stage.PREPARE, 0, 0, ProcessState.SUCCEEDED, exit_record=record_success()
        )
        plan = plan_job(self.job, Observed(processes=(prepared, *processes)), self.now)
        self.job = self.job.model_copy(update={"status": plan.status})
        self.told += [event.reason for event in plan.events]
        self.started = [process.name for process in plan.start]
        self.removed = [process.name for process in plan.remove]

    def fail(self, incarnation: int) -> ObservedProcess:
        record = record_failure(ExitCode.DEVICE_FAULT, "GPUFault", "CUDA error: ECC")
        return observe_process(
            "tiny", Stage.TRAIN, 0, incarnation, ProcessState.FAILED,
            exit_record=record, node="gpu-1", finished_at=self.now,
        )  # fmt: skip

    def wait_for_place(self, incarnation: int, *, avoids: str = "gpu-1") -> ObservedProcess:
        return observe_process(
            "tiny", Stage.TRAIN, 0, incarnation, ProcessState.WAITING,
            waiting_reason="Unschedulable", waiting_message="0/1 nodes are available",
            created_at=self.now, avoids=frozenset({avoids} - {""}),
        )  # fmt: skip


def reach_avoidance() -> Story:
    story = Story()
    story.see(story.fail(0))
    assert story.job.status.avoided_nodes == []
    story.see(story.fail(1))
    return story


def test_the_status_says_which_node_is_avoided_why_and_until_when() -> None:
    story = reach_avoidance()
    [avoided] = story.job.status.avoided_nodes
    assert (avoided.node, avoided.reason, avoided.until) == (
        "gpu-1",
        "GPUFault",
        "2026-11-24T13:00:00Z",
    )
    assert "a GPU of node gpu-1 is broken: CUDA error: ECC" in avoided.message
    assert story.told[-1] == "NodeAvoided"
    assert (story.job.status.failures, story.job.status.failures_by_class) == (0, {"device": 2})


def test_where_no_other_node_has_room_the_avoided_one_is_used_again() -> None:
    story = reach_avoidance()
    waiting = story.wait_for_place(2)
    story.now += timedelta(seconds=119)
    story.see(waiting)
    assert story.job.status.avoided_nodes != []
    story.now += timedelta(seconds=1)
    story.see(waiting)
    assert story.told[-1] == "NodesAllowedAgain"
    assert story.job.status.avoided_nodes == []
    # The pod that keeps away is replaced by one that does not, and nobody failed.
    assert story.removed == []
    story.see(waiting)
    assert story.removed == ["tiny-train-0-2"]
    story.see()
    assert story.started == ["tiny-train-0-3"]
    assert story.job.status.restarts == 2


def test_a_pod_that_waits_longer_than_the_avoidance_is_made_anew() -> None:
    story = reach_avoidance()
    story.now += timedelta(hours=2)
    waiting = story.wait_for_place(2)
    story.see(waiting)
    story.see(waiting)
    assert story.removed == ["tiny-train-0-2"]


def test_a_pod_that_has_no_place_for_other_reasons_is_left_alone() -> None:
    story = Story()
    story.see(story.wait_for_place(0, avoids=""))
    story.now += timedelta(hours=2)
    story.see(replace(story.wait_for_place(0, avoids=""), created_at=NOON))
    assert (story.removed, story.started) == ([], [])
