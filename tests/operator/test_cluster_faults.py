"""What goes wrong around the operator: kills, gaps, refusals, strangers; on a real apiserver."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmtrain_api import LLMTrainingJob
from llmtrain_api.status import ConditionType, Phase
from llmtrain_operator.plan.conditions import parse_time
from llmtrain_operator.plan.ledger import sum_seconds
from testbed.fault_log import FaultWatch
from testbed.operators import SECONDS, Jobs, Operator
from testbed.pod_watch import find_doubles, watch_pods
from testbed.processes import wait_until

NUM_KILLS = 8
NUM_DELETIONS = 4


def test_a_pod_of_the_same_name_is_not_adopted(jobs: Jobs, operator: Operator) -> None:
    stranger = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tiny-prepare-0-0", "namespace": jobs.namespace},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    }
    jobs.server.apply(stranger)
    uid = jobs.get("pod", "tiny-prepare-0-0")["metadata"]["uid"]
    jobs.apply()
    jobs.await_job(lambda j: "is not this job's" in j.status.message, "the stranger to be named")
    (pod,) = jobs.list_pods().values()
    assert pod["metadata"]["uid"] == uid
    assert "ownerReferences" not in pod["metadata"]


@pytest.mark.fault(27, world="apiserver")
def test_a_quota_is_named_and_its_end_noticed(
    jobs: Jobs, operator: Operator, fault: FaultWatch
) -> None:
    jobs.server.apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "none", "namespace": jobs.namespace},
            "spec": {"hard": {"pods": "0"}},
        }
    )
    wait_until(
        lambda: "hard" in jobs.get("resourcequota", "none").get("status", {}),
        seconds=SECONDS,
        what="the quota to hold",
    )
    fault.strikes()
    jobs.apply()
    job = jobs.await_job(lambda j: "exceeded quota: none" in j.status.message, "the quota's name")
    fault.said(job.status.message)
    assert not jobs.list_pods()
    jobs.server.kubectl("-n", jobs.namespace, "delete", "resourcequota", "none")
    jobs.await_pods("tiny-prepare-0-0")
    jobs.await_job(lambda j: "quota" not in j.status.message, "the message to go")


def test_a_missing_secret_is_named(jobs: Jobs, operator: Operator) -> None:
    jobs.apply()
    jobs.await_pods("tiny-prepare-0-0")
    jobs.bind("tiny-prepare-0-0", node="elsewhere")
    said = 'MountVolume.SetUp failed for volume "credentials" : secret "store" not found'
    jobs.warn_of("tiny-prepare-0-0", said)
    jobs.await_job(lambda j: said in j.status.message, "the Secret to be named")


@pytest.mark.fault(25, world="apiserver")
def test_deleting_a_job_needs_no_operator(
    jobs: Jobs, operator: Operator, fault: FaultWatch
) -> None:
    jobs.apply()
    jobs.finish_prepare()
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0")
    operator.process.stop()
    assert "finalizers" not in jobs.get("llmjob", "tiny")["metadata"]
    fault.strikes()
    jobs.server.kubectl("-n", jobs.namespace, "delete", "llmjob", "tiny", "--timeout=10s")
    jobs.await_pods()
    jobs.await_gone("configmap", "tiny-run")
    jobs.await_gone("service", "tiny-train")
    fault.said("the job, its pods, its Service and its ConfigMap are gone")


def test_a_job_made_anew_under_its_name_gets_pods_of_its_own(
    jobs: Jobs, operator: Operator
) -> None:
    jobs.apply()
    jobs.finish_prepare()
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0")
    first = jobs.read().metadata.uid
    jobs.server.kubectl("-n", jobs.namespace, "delete", "llmjob", "tiny")
    jobs.apply()
    second = jobs.read().metadata.uid
    assert first != second
    wait_until(
        lambda: {owner_of(pod) for pod in jobs.list_pods().values()} == {second},
        seconds=SECONDS,
        what="pods of the new job alone",
    )
    assert set(jobs.list_pods()) == {"tiny-prepare-0-0"}


def test_a_deleted_pod_is_replaced_and_held_against_nobody(jobs: Jobs, operator: Operator) -> None:
    jobs.apply()
    jobs.await_pods("tiny-prepare-0-0")
    jobs.await_job(lambda j: j.status.phase is Phase.PREPARING, "the stage to be written down")
    jobs.server.kubectl("-n", jobs.namespace, "delete", "pod", "tiny-prepare-0-0")
    jobs.await_pods("tiny-prepare-0-1")
    job = jobs.await_job(lambda j: j.status.restarts == 1, "the restart to be counted")
    assert job.status.attempts[0].reason == "Deleted"
    assert job.status.failures == 0


@pytest.mark.fault(4, world="apiserver")
def test_a_pod_that_vanished_in_a_gap_of_the_watch_is_replaced(
    jobs: Jobs, operator: Operator, fault: FaultWatch
) -> None:
    jobs.apply()
    jobs.await_pods("tiny-prepare-0-0")
    jobs.await_job(lambda j: j.status.phase is Phase.PREPARING, "the stage to be written down")
    operator.process.signal(signal.SIGSTOP)
    jobs.server.kubectl("-n", jobs.namespace, "delete", "pod", "tiny-prepare-0-0")
    # An apiserver that starts knows no history: the watch's version is gone for it.
    jobs.server.stop_api()
    jobs.server.start_api()
    jobs.server.kubectl("-n", jobs.namespace, "create", "configmap", "later")
    fault.strikes()
    operator.process.signal(signal.SIGCONT)
    jobs.await_pods("tiny-prepare-0-1")
    fault.is_over()
    job = jobs.await_job(lambda j: j.status.restarts == 1, "the restart to be counted")
    assert job.status.attempts[0].reason == "Deleted"
    fault.said(job.status.attempts[0].message)


@pytest.mark.fault(3, world="apiserver")
def test_one_of_two_replicas_works_and_the_other_takes_over(
    jobs: Jobs, make_operator: Callable[[str], Operator], fault: FaultWatch
) -> None:
    first, second = make_operator("operator-0"), make_operator("operator-1")
    first.start()
    wait_until(lambda: leads(first), seconds=SECONDS, what="the first to lead")
    second.start()
    jobs.apply("one")
    jobs.await_pods("one-prepare-0-0")
    assert not leads(second)
    first.process.stop()
    fault.strikes()
    wait_until(lambda: leads(second), seconds=5, what="a released lease to be taken at once")
    fault.said("a released Lease: the second replica leads")
    jobs.apply("two")
    jobs.await_pods("one-prepare-0-0", "two-prepare-0-0")

    first.start()
    second.process.kill()
    fault.strikes()
    wait_until(lambda: leads(first), seconds=40, what="the lease of a dead holder to be taken")
    fault.said("the Lease of a killed holder: the first replica leads")
    jobs.apply("three")
    jobs.await_pods("one-prepare-0-0", "two-prepare-0-0", "three-prepare-0-0")
    fault.is_over()


@pytest.mark.fault(1, world="apiserver")
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_any_moment_double_and_lose_nothing(
    jobs: Jobs, operator: Operator, tmp_path: Path, fault: FaultWatch, seed: int
) -> None:
    rng = random.Random(seed)
    watch = watch_pods(jobs.server, jobs.namespace, tmp_path)
    jobs.apply(workers={"replicas": 2}, runPolicy={"restartLimit": 100})
    jobs.finish_prepare()
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0", "tiny-train-1-0")
    incarnations = [0, 0]
    for _ in range(NUM_KILLS):
        index = rng.randrange(2)
        name = f"tiny-train-{index}-{incarnations[index]}"
        jobs.await_pod(name)
        jobs.end_pod(name, 22, reason="StorageUnreachable", message="no answer")
        time.sleep(rng.uniform(0, 0.1))
        operator.process.kill()
        incarnations[index] += 1
        operator.process.start()
    job = jobs.await_job(lambda j: j.status.restarts == NUM_KILLS, "all restarts to be counted")
    expected = {f"train-{i}": n for i, n in enumerate(incarnations) if n}
    assert job.status.incarnations == expected
    assert sorted((a.index, a.incarnation) for a in job.status.attempts) == [
        (index, n) for index in (0, 1) for n in range(incarnations[index])
    ]
    # Each operator charged the time since the status of the one before, its absence included.
    usage, started_at = job.status.usage, job.status.started_at
    assert usage is not None
    assert usage.updated_at is not None
    assert started_at is not None
    elapsed = (parse_time(usage.updated_at) - parse_time(started_at)).total_seconds()
    assert sum_seconds(usage) == pytest.approx(elapsed, rel=0.01)
    for index, n in enumerate(incarnations):
        await_line(watch.log, f"tiny-train-{index}-{n} ")
    assert find_doubles(watch.log) == []
    watch.stop()
    fault.said(f"{NUM_KILLS} failures and {NUM_KILLS} kills: {job.status.restarts} restarts")


def test_a_deletion_is_counted_once_whenever_the_operator_dies(
    jobs: Jobs, operator: Operator, tmp_path: Path
) -> None:
    rng = random.Random(3)
    watch = watch_pods(jobs.server, jobs.namespace, tmp_path)
    jobs.apply()
    for incarnation in range(NUM_DELETIONS):
        jobs.await_pods(f"tiny-prepare-0-{incarnation}")
        # A pod that no status has seen leaves nothing behind that could be counted.
        jobs.await_job(partial(has_seen_all, restarts=incarnation), "the pod to be written down")
        jobs.server.kubectl(
            "-n", jobs.namespace, "delete", "pod", f"tiny-prepare-0-{incarnation}", "--wait=false"
        )
        time.sleep(rng.uniform(0, 0.1))
        operator.process.kill()
        operator.process.start()
    jobs.await_pods(f"tiny-prepare-0-{NUM_DELETIONS}")
    job = jobs.await_job(lambda j: j.status.restarts == NUM_DELETIONS, "each to be counted")
    assert [(a.incarnation, a.reason) for a in job.status.attempts] == [
        (incarnation, "Deleted") for incarnation in range(NUM_DELETIONS)
    ]
    await_line(watch.log, f"tiny-prepare-0-{NUM_DELETIONS} ")
    assert find_doubles(watch.log) == []
    watch.stop()


def await_line(log: Path, text: str) -> None:
    """Wait until the watch has come so far: an empty log would show no doubles either."""
    wait_until(lambda: text in log.read_text(), seconds=SECONDS, what=f"{text}in {log.name}")


def has_seen_all(job: LLMTrainingJob, *, restarts: int) -> bool:
    """Whether the status counts so many restarts, and has seen every worker since."""
    condition = job.status.find_condition(ConditionType.RECONCILING)
    return condition is not None and condition.status == "False" and job.status.restarts == restarts


def leads(operator: Operator) -> bool:
    return operator.read_metric("llmtrain_operator_leading") == 1


def owner_of(pod: dict[str, Any]) -> str:
    uid: str = pod["metadata"]["ownerReferences"][0]["uid"]
    return uid


def test_what_recurs_starts_all_workers_anew_and_then_ends_the_run(
    jobs: Jobs, operator: Operator
) -> None:
    jobs.apply(workers={"replicas": 2}, runPolicy={"noProgressLimit": 4})
    jobs.finish_prepare()
    for incarnation in range(3):
        name = f"tiny-train-1-{incarnation}"
        jobs.await_pod(name)
        jobs.end_pod(name, 27, reason="RanksKeepDying", message="rank 1 was killed by SIGSEGV")
    jobs.await_pod("tiny-train-0-1")
    jobs.await_pod("tiny-train-1-3")
    assert "tiny-train-0-0" not in jobs.list_pods()
    job = jobs.await_job(lambda j: j.status.restarts == 3, "the failures to be counted")
    assert job.status.group_restarts == 1
    assert job.status.failures_by_class == {"crash": 3}

    jobs.end_pod(
        "tiny-train-1-3", 27, reason="RanksKeepDying", message="rank 1 was killed by SIGSEGV"
    )
    job = jobs.await_job(lambda j: j.status.phase is Phase.FAILED, "the run to be given up")
    assert job.status.message.startswith(
        "worker 1 of stage train ended by RanksKeepDying 4 times in a row, with no checkpoint yet"
    )


@pytest.mark.fault(9, world="apiserver")
def test_a_node_whose_gpu_breaks_twice_is_avoided(
    jobs: Jobs, operator: Operator, fault: FaultWatch
) -> None:
    jobs.apply()
    jobs.finish_prepare()
    for incarnation in range(2):
        name = f"tiny-train-0-{incarnation}"
        jobs.await_pod(name)
        jobs.bind(name, node="gpu-1")
        jobs.end_pod(
            name, 30, reason="GPUFault", finished_at=datetime.now(UTC),
            message="CUDA error: uncorrectable ECC error encountered",
        )  # fmt: skip
    jobs.await_pod("tiny-train-0-2")
    [term] = jobs.get("pod", "tiny-train-0-2")["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert term["matchFields"] == [
        {"key": "metadata.name", "operator": "NotIn", "values": ["gpu-1"]}
    ]
    job = jobs.await_job(lambda j: bool(j.status.avoided_nodes), "the node to be named")
    [avoided] = job.status.avoided_nodes
    assert avoided.node == "gpu-1"
    fault.said(avoided.message, "a GPU of node gpu-1 is broken: CUDA error: uncorrectable ECC")
    assert job.status.failures == 0
    assert "NodeAvoided" in {event["reason"] for event in jobs.get("events")["items"]}
