"""A real job is resized, drained and driven out while it trains, and ends as if it had not been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmtrain_api import LLMTrainingJob
from llmtrain_api.status import ConditionType
from testbed.agent_world import AgentWorld
from testbed.fault_log import FaultWatch
from testbed.workers import TRAINERS

pytestmark = pytest.mark.patient
"""Each trains for minutes. What they decide is held by tables and simulated worlds in make test."""

STEPS = 40
FIRST_STEPS = 3
LOSS_TOLERANCE = 1e-6
DRAIN_SECONDS = 60
GRACE_SECONDS, SNOOZE_SECONDS = 2, 4

# Steps of half a second, so that a change falls into the middle of a run and not on its end.
SLOW: dict[str, Any] = {
    "model": {"layers": 2, "heads": 4, "hiddenSize": 128},
    "training": {
        "batchSize": 16,
        "sequenceLength": 256,
        "optimizer": {"learningRate": 1e-4, "warmupSteps": 0},
    },
    "checkpoint": {"everySteps": 10},
}
ELASTIC = {
    "minReplicas": 1,
    "graceSeconds": GRACE_SECONDS,
    "snoozeSeconds": SNOOZE_SECONDS,
}


def apply(world: AgentWorld, *, steps: int = STEPS, **workers: Any) -> None:
    world.apply(steps=steps, **SLOW, workers={"elastic": ELASTIC, **workers})


def scale(world: AgentWorld, replicas: int) -> None:
    world.jobs.server.kubectl(
        "-n", world.jobs.namespace, "scale", "llmjob", "tiny", f"--replicas={replicas}"
    )


def await_training(world: AgentWorld, number: int) -> int:
    """Wait until so many workers do steps together; return the newest one."""
    world.await_job(
        lambda j: j.status.size is not None and j.status.size.workers == number,
        f"{number} workers to be decided on",
    )
    world.await_job(lambda j: told_all(world, number), f"{number} workers to run")
    progress = world.await_progress(lambda p: p.step >= (p.resumed_step or 0) + FIRST_STEPS)
    return progress.step


def told_all(world: AgentWorld, number: int) -> bool:
    """Whether the present pods are those of a run of that size."""
    told = [
        pod["metadata"]["labels"]["llmtrain.dev/workers"]
        for index in range(number)
        if (pod := world.jobs.list_pods().get(world.name_pod(index))) is not None
        and pod["status"]["phase"] == "Running"
    ]
    return told == [str(number)] * number


def find_loss(job: LLMTrainingJob) -> float:
    assert job.status.results is not None
    assert job.status.results.train_loss is not None
    return job.status.results.train_loss


def list_events(world: AgentWorld, reason: str) -> list[str]:
    found = [e for e in world.jobs.get("events")["items"] if e["reason"] == reason]
    found.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))  # listed by name
    return [event["message"] for event in found]


@pytest.mark.fault(28, world="agents")
def test_a_run_that_is_scaled_down_and_up_ends_with_the_same_loss(
    world: AgentWorld, fault: FaultWatch
) -> None:
    apply(world)
    straight = find_loss(world.await_end())
    world.jobs.server.kubectl("-n", world.jobs.namespace, "delete", "llmjob", "tiny")
    world.jobs.await_pods()

    apply(world)
    await_training(world, 2)
    fault.strikes()
    scale(world, 1)
    await_training(world, 1)
    scale(world, 2)
    at = await_training(world, 2)
    assert at < STEPS, "it was over before it was changed"
    fault.is_over()
    job = world.await_end()

    assert find_loss(job) == pytest.approx(straight, rel=LOSS_TOLERANCE, abs=0)
    status = job.status
    assert (status.restarts, status.failures, status.attempts) == (0, 0, [])
    assert status.usage is not None
    assert status.usage.lost_steps == 0
    assert list_events(world, "Resized") == [
        "From 2 to 1 workers: workers.replicas is 1.",
        "From 1 to 2 workers: workers.replicas is 2, and there is room for all.",
    ]
    fault.said(f"from 2 to 1 to 2 workers: {find_loss(job):.9f} and {straight:.9f}")


def drain(world: AgentWorld, node: str) -> None:
    world.jobs.server.kubectl(
        *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force"),
        *(f"--pod-selector={TRAINERS}", f"--timeout={DRAIN_SECONDS}s"),
    )


def taint(world: AgentWorld, node: str) -> None:
    world.jobs.server.kubectl("taint", "node", node, "spot/reclaimed=soon:NoExecute")


def uncordon(world: AgentWorld, node: str) -> None:
    world.jobs.server.kubectl("uncordon", node)


def untaint(world: AgentWorld, node: str) -> None:
    world.jobs.server.kubectl("taint", "node", node, "spot/reclaimed-")


Act = Callable[[AgentWorld, str], None]


@pytest.mark.fault(7, world="agents")
@pytest.mark.parametrize(
    ("leave", "come_back"), [(drain, uncordon), (taint, untaint)], ids=["drain", "taint"]
)
def test_a_node_that_is_to_be_left_costs_a_worker_until_it_is_back(
    world: AgentWorld, leave: Act, come_back: Act, fault: FaultWatch
) -> None:
    # One worker for each node: there is no other place.
    apply(world, steps=100_000, resources={"memory": "40Gi"})
    await_training(world, 2)
    node = world.jobs.get("pod", world.name_pod(1))["spec"]["nodeName"]
    fault.strikes()
    leave(world, node)
    await_training(world, 1)
    fault.is_over()
    job = world.await_job(lambda j: "1 of 2 workers train" in j.status.message, "it to be said")
    assert "nodes are available" in job.status.message
    assert world.read_condition(job, ConditionType.WORKERS_READY)[0] == "True"
    fault.said(job.status.message)
    [attempt] = job.status.attempts
    assert (attempt.reason, attempt.index, attempt.node) == ("PreemptedSaved", 1, node)

    come_back(world, node)
    await_training(world, 2)
    status = world.job.status
    assert (status.restarts, status.failures) == (1, 0)
    assert status.usage is not None
    assert status.usage.lost_steps == 0
    assert status.checkpoint is not None
    assert status.checkpoint.save_seconds is not None
    assert status.progress is not None
    assert status.progress.steps_at_risk is not None
