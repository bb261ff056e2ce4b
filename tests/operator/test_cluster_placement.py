"""Where pods go and do not go, by the real scheduler and imitated nodes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmtrain_api.status import ConditionType
from testbed.control_plane import ControlPlane
from testbed.kwok import KwokNodes
from testbed.operators import SECONDS, Jobs, Operator
from testbed.processes import wait_until

NODES = ("kwok-000", "kwok-001")


@pytest.fixture
def nodes(control_plane: ControlPlane, tmp_path: Path) -> Iterator[KwokNodes]:
    """Two nodes of 64 cores that run whatever is bound to them."""
    kwok = KwokNodes(tmp_path / "kwok", control_plane, count=len(NODES))
    kwok.start()
    yield kwok
    kwok.stop()


def list_train_pods(jobs: Jobs) -> list[str]:
    return sorted(name for name in jobs.list_pods() if "-train-" in name)


def find_node(jobs: Jobs, pod: str) -> str | None:
    node: str | None = jobs.list_pods().get(pod, {}).get("spec", {}).get("nodeName")
    return node


def test_two_of_four_workers_do_not_hold_their_nodes_for_ever(
    nodes: KwokNodes, jobs: Jobs, operator: Operator
) -> None:
    jobs.apply(
        workers={"replicas": 4, "resources": {"cpu": "40"}},
        runPolicy={"placementTimeoutSeconds": 10},
    )
    jobs.finish_prepare()
    jobs.await_job(
        lambda j: j.status.message.startswith("2 of 4 workers wait (Unschedulable): 0/2 nodes"),
        "the missing places to be counted",
    )
    job = jobs.await_job(lambda j: j.status.held_until is not None, "all to be released")
    assert "2 of 4 workers found no place within 10 s" in job.status.message
    ready = job.status.find_condition(ConditionType.WORKERS_READY)
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "Queued")
    wait_until(lambda: not list_train_pods(jobs), seconds=SECONDS, what="the pods to go")
    assert (jobs.read().status.restarts, jobs.read().status.failures) == (0, 0)


def test_the_scheduler_places_no_new_pod_on_a_node_that_hurt_twice(
    nodes: KwokNodes, jobs: Jobs, operator: Operator
) -> None:
    good, bad = NODES
    jobs.server.kubectl("cordon", good)
    jobs.apply()
    jobs.finish_prepare()
    for incarnation in range(2):
        name = f"tiny-train-0-{incarnation}"
        wait_until(
            lambda name=name: find_node(jobs, name) == bad,  # type: ignore[misc]
            seconds=SECONDS,
            what=f"{name} to be placed",
        )
        if incarnation == 1:
            jobs.server.kubectl("uncordon", good)
        jobs.end_pod(
            name, 30, reason="GPUFault", finished_at=datetime.now(UTC), message="CUDA error: ECC"
        )
    wait_until(
        lambda: find_node(jobs, "tiny-train-0-2") == good,
        seconds=SECONDS,
        what="the third pod to be placed elsewhere",
    )
    assert [a.node for a in jobs.read().status.avoided_nodes] == [bad]
