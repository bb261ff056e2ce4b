"""The store and its keys taken away under a real job: rows 12, 13 and 14."""

from __future__ import annotations

import pytest

from llmtrain_api import LLMTrainingJob
from llmtrain_api.status import ConditionType, Phase
from testbed.agent_world import AgentWorld
from testbed.fault_log import FaultWatch

STEPS = 100_000
"""More than a test waits for: each ends by deleting its job."""


@pytest.mark.fault(12, world="agents")
def test_a_store_that_is_not_there_is_named_before_any_trainer_starts(
    world: AgentWorld, fault: FaultWatch
) -> None:
    world.minio.kill()
    fault.strikes()
    world.apply(steps=STEPS)
    job = world.await_job(lambda j: bool(j.status.attempts), "the first attempt to end")
    attempt = job.status.attempts[0]
    fault.said(f"{attempt.reason}: {attempt.message}", "StorageUnreachable", world.minio.endpoint)
    assert not any("train" in pod for pod in world.jobs.list_pods())
    world.minio.start()
    world.await_job(lambda j: j.status.phase is Phase.TRAINING, "training to begin")
    fault.is_over()


@pytest.mark.fault(13, world="agents")
def test_a_store_that_dies_is_waited_for_while_training_goes_on(
    world: AgentWorld, fault: FaultWatch
) -> None:
    world.apply(steps=STEPS)
    saved = world.await_checkpoint()
    world.minio.kill()
    fault.strikes()
    said = world.await_unhealthy()
    fault.said(f"CheckpointHealthy=False {said}", world.minio.endpoint, "training goes on")
    lost = world.await_progress(lambda p: p.step > 0)
    world.await_progress(lambda p: p.step > lost.step + 50)
    world.minio.start()
    world.await_checkpoint(after=saved.checkpoint_step or 0)
    world.await_job(is_healthy, "CheckpointHealthy=True")
    fault.is_over()
    assert world.job.status.restarts == 0


@pytest.mark.fault(14, world="agents")
def test_keys_that_expire_are_named_and_new_ones_are_picked_up(
    world: AgentWorld, fault: FaultWatch
) -> None:
    world.write_credentials("first-key", world.minio.add_user("first-key"))
    world.apply(steps=STEPS)
    saved = world.await_checkpoint()
    world.minio.disable_user("first-key")
    fault.strikes()
    said = world.await_unhealthy()
    fault.said(f"CheckpointHealthy=False {said}", "refuses access", "training goes on")
    world.write_credentials("second-key", world.minio.add_user("second-key"))
    world.await_checkpoint(after=saved.checkpoint_step or 0)
    world.await_job(is_healthy, "CheckpointHealthy=True")
    fault.is_over()
    assert world.job.status.restarts == 0


def is_healthy(job: LLMTrainingJob) -> bool:
    condition = job.status.find_condition(ConditionType.CHECKPOINT_HEALTHY)
    return condition is not None and condition.status == "True"
