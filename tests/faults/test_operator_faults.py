"""The operator and its talk with the apiserver, broken on purpose: rows 1, 2, 4, 5 and 25."""

from __future__ import annotations

import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from llmtrain_api.status import Phase
from testbed.api_proxy import ApiProxy
from testbed.fault_log import FaultWatch
from testbed.operators import SECONDS, Jobs, Operator
from testbed.pod_watch import find_doubles, watch_pods
from testbed.processes import wait_until

SILENCE_SECONDS = 100
"""The operator promises 70 s, and the machine may be busy."""
ABSENCE = timedelta(hours=1)
KILLS_SECONDS = {"kind of write": 8 * SECONDS, "write": 24 * SECONDS}
"""An operator that is killed after each write is started some thirty times."""
SUCCESS = {"reason": "Completed", "message": ""}
RESTARTS = "llmtrain_operator_watch_restarts_total"


@pytest.mark.fault(1, world="apiserver")
@pytest.mark.parametrize(
    "each", ["kind of write", pytest.param("write", marks=pytest.mark.patient)]
)
def test_an_operator_that_dies_before_it_hears_of_its_writes_does_nothing_twice(
    jobs: Jobs,
    operator: Operator,
    proxy: ApiProxy,
    tmp_path: Path,
    fault: FaultWatch,
    each: str,
) -> None:
    watch = watch_pods(jobs.server, jobs.namespace, tmp_path)
    written: list[str] = []
    kills: list[str] = []

    def kill(method: str, path: str) -> None:
        written.append(f"{method} {path}")
        if each == "write" or written.count(written[-1]) == 1:
            kills.append(written[-1])
            operator.process.kill()

    proxy.on_write = kill
    ends: dict[str, dict[str, Any]] = {
        "tiny-prepare-0-0": {"exit_code": 0, "result": {"dataset": "f1"}},
        "tiny-train-0-0": {"exit_code": 27, "reason": "RankLost", "message": "ranks kept dying"},
        "tiny-train-0-1": {"exit_code": 0, "result": {"step": 100}},
        "tiny-evaluate-0-0": {"exit_code": 0, "result": {"perplexity": 3}},
    }
    jobs.apply()

    def drive() -> bool:
        if not operator.process.running:
            operator.process.start()
        for name, pod in jobs.list_pods().items():
            if pod["status"]["phase"] == "Pending" and name in ends:
                jobs.end_pod(name, **{**SUCCESS, **ends[name]})
        return jobs.read().status.phase is Phase.SUCCEEDED

    wait_until(drive, seconds=KILLS_SECONDS[each], what="the job to succeed in spite of the kills")
    proxy.on_write = None
    watch.stop()
    status = jobs.read().status
    assert len(kills) >= len(ends)
    assert set(jobs.list_pods()) == set(ends)
    assert find_doubles(watch.log) == []
    assert [(a.index, a.incarnation, a.reason) for a in status.attempts] == [(0, 0, "RankLost")]
    assert (status.restarts, status.failures) == (1, 1)
    # What a status says is told after it, at most once: whoever dies there tells nothing.
    told = Counter(event["reason"] for event in jobs.get("events")["items"] if is_of_job(event))
    assert [reason for reason, count in told.items() if count > 1] in ([], ["StageStarted"])
    fault.said(f"{len(kills)} kills, one after each {each}: {status.restarts} restart, no double")


def is_of_job(event: dict[str, dict[str, str]]) -> bool:
    return event["involvedObject"]["kind"] == "LLMTrainingJob"


@pytest.mark.fault(2, world="apiserver")
def test_a_job_that_ends_while_no_operator_runs_gets_its_real_times(
    jobs: Jobs, operator: Operator, fault: FaultWatch
) -> None:
    jobs.apply()
    jobs.finish_prepare()
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0")
    jobs.end_pod("tiny-train-0-0", 0, reason="Completed", message="", result={"step": 100})
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0", "tiny-evaluate-0-0")
    jobs.await_job(lambda j: j.status.phase is Phase.EVALUATING, "the last stage to be said")
    operator.process.kill()
    ended = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)
    jobs.end_pod(
        "tiny-evaluate-0-0", 0, finished_at=ended, reason="Completed", message="", result={}
    )
    threading.Event().wait(3)
    fault.strikes()
    operator.start()
    job = jobs.await_job(lambda j: j.status.phase is Phase.SUCCEEDED, "success to be said")
    assert job.status.finished_at is not None
    assert datetime.fromisoformat(job.status.finished_at) == ended
    fault.said(f"{job.status.phase} at {job.status.finished_at}, when its last pod ended")


@pytest.mark.fault(4, world="apiserver")
def test_a_watch_that_is_gone_is_answered_by_a_new_list(
    jobs: Jobs, operator: Operator, proxy: ApiProxy, fault: FaultWatch
) -> None:
    jobs.apply()
    jobs.await_pods("tiny-prepare-0-0")
    proxy.expires_watches = True
    proxy.end_watches()
    fault.strikes()
    wait_until(
        lambda: operator.count(f'{RESTARTS}{{cause="gone"}}') > 0,
        seconds=SECONDS,
        what="the operator to learn that its watch is gone",
    )
    fault.said(f'{RESTARTS}{{cause="gone"}} counts it')
    jobs.end_pod("tiny-prepare-0-0", 0, reason="Completed", message="", result={"dataset": "f"})
    proxy.expires_watches = False
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0")
    fault.is_over()


@pytest.mark.patient
@pytest.mark.fault(4, world="apiserver")
def test_a_watch_that_falls_silent_is_given_up(
    jobs: Jobs, operator: Operator, proxy: ApiProxy, fault: FaultWatch
) -> None:
    jobs.apply()
    jobs.await_pods("tiny-prepare-0-0")
    jobs.await_job(lambda j: j.status.phase is Phase.PREPARING, "the stage to be said")
    proxy.silence_watches()
    fault.strikes()
    jobs.end_pod("tiny-prepare-0-0", 0, reason="Completed", message="", result={"dataset": "f"})
    wait_until(
        lambda: "tiny-train-0-0" in jobs.list_pods(),
        seconds=SILENCE_SECONDS,
        what="the operator to look anew",
    )
    fault.is_over()
    fault.said(f'{RESTARTS}{{cause="ended"}} counts it')
    assert operator.count(f'{RESTARTS}{{cause="ended"}}') > 0


@pytest.mark.fault(5, world="apiserver")
@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        (HTTPStatus.TOO_MANY_REQUESTS, 20),
        (HTTPStatus.INTERNAL_SERVER_ERROR, 20),
        pytest.param(HTTPStatus.INTERNAL_SERVER_ERROR, 300, marks=pytest.mark.patient),
    ],
)
def test_an_apiserver_that_refuses_everything_is_asked_with_growing_waits(
    jobs: Jobs,
    operator: Operator,
    proxy: ApiProxy,
    fault: FaultWatch,
    status: HTTPStatus,
    seconds: float,
) -> None:
    jobs.apply()
    jobs.finish_prepare()
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0")
    jobs.await_job(lambda j: j.status.phase is Phase.TRAINING, "the stage to be said")
    trainer = jobs.list_pods()["tiny-train-0-0"]["metadata"]["uid"]
    proxy.refusal = status
    jobs.end_pod("tiny-train-0-0", 0, reason="Completed", message="", result={"step": 100})
    threading.Event().wait(seconds)
    asked = proxy.num_refused
    proxy.refusal = None
    fault.strikes()
    if not operator.process.running:
        # It could not renew its Lease, and so left; as its Deployment does, start it anew.
        assert "could not be renewed in time" in operator.process.tail_log()
        operator.start()
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0", "tiny-evaluate-0-0")
    fault.is_over()
    assert jobs.list_pods()["tiny-train-0-0"]["metadata"]["uid"] == trainer
    assert jobs.read().status.restarts == 0
    # Two watches, the Lease and one job: each asks less often as it goes on.
    assert 0 < asked < 10 * seconds
    fault.said(f"{asked} requests in {seconds} s of {status.value}; 0 restarts")


@pytest.mark.fault(7, world="apiserver")
def test_a_pod_of_a_node_that_answers_no_more_is_not_given_its_grace(
    jobs: Jobs, operator: Operator, fault: FaultWatch
) -> None:
    """As the taint manager deletes it: with the whole grace, which nobody is there to keep."""
    node = f"silent-{jobs.namespace}"
    unknown = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
    jobs.server.apply(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node},
            "spec": {"unschedulable": True},
        }
    )
    jobs.server.kubectl(
        *("patch", "node", node, "--subresource=status", "--type=merge", "-p"),
        json.dumps({"status": {"conditions": [unknown]}}),
    )
    try:
        jobs.apply()
        jobs.await_pods("tiny-prepare-0-0")
        jobs.bind("tiny-prepare-0-0", node=node)
        jobs.set_pod_status("tiny-prepare-0-0", {"phase": "Running"})
        jobs.await_job(lambda j: j.status.phase is Phase.PREPARING, "the stage to be said")
        fault.strikes()
        jobs.server.kubectl(
            "-n", jobs.namespace, "delete", "pod", "tiny-prepare-0-0", "--wait=false"
        )
        jobs.await_pod("tiny-prepare-0-1")
        fault.is_over()
        job = jobs.await_job(lambda j: bool(j.status.attempts), "the loss to be said")
        attempt = job.status.attempts[0]
        fault.said(f"{attempt.reason} on {attempt.node}: {attempt.message}", "NodeLost", node)
        assert job.status.failures == 0
    finally:
        jobs.server.kubectl("delete", "node", node, "--wait=false")


@pytest.mark.fault(25, world="apiserver")
def test_a_namespace_that_is_deleted_while_no_operator_runs_goes_away(
    jobs: Jobs, operator: Operator, fault: FaultWatch
) -> None:
    jobs.apply(workers={"replicas": 2})
    jobs.finish_prepare()
    pods = jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0", "tiny-train-1-0")
    jobs.await_job(lambda j: j.status.phase is Phase.TRAINING, "the stage to be said")
    operator.process.kill()
    for kind in ("llmjob", "pods", "configmaps", "services"):
        found = jobs.get(kind)["items"]
        assert all("finalizers" not in each["metadata"] for each in found), json.dumps(found)
    assert len(pods) == 3
    fault.strikes()
    jobs.server.kubectl("delete", "namespace", jobs.namespace, "--timeout=60s")
    assert not jobs.exists("namespace", jobs.namespace)
    fault.said("the namespace and all in it are gone; nothing of ours has finalizers")
