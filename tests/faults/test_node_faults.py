"""What happens to pods and nodes, on real ones: rows 6, 7, 10, 11 and 25."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from llmtrain_api import LLMTrainingJob
from testbed.cluster import Cluster
from testbed.fault_log import FaultWatch
from testbed.installation import Installation, restrict_namespace
from testbed.main_job import (
    EXAMPLE,
    MODELS_BUCKET,
    fill_minio,
    render_credentials,
    render_job,
)
from testbed.minio import MinioServer
from testbed.operators import Jobs
from testbed.workers import Workers

pytestmark = pytest.mark.nodes

STEPS = 100_000
CHECKPOINT_EVERY_STEPS = 5
HALF_A_CORE = {"cpu": "500m", "memory": "4Gi"}
"""Both workers and the operator fit on one node."""
TRAINERS = "llmtrain.dev/stage=train"
DRAIN_SECONDS = 150
MORE_THAN_HALF_A_NODE = {"cpu": "1100m", "memory": "4Gi"}
"""One worker for each node: without one of them there is no other place."""
ELASTIC = {"minReplicas": 1, "graceSeconds": 5, "snoozeSeconds": 10}


class Submitted:
    """The example's job in a namespace of its own, with parts of its workers replaced."""

    def __init__(self, server: Jobs, minio: MinioServer) -> None:
        self.jobs = server
        self.workers = Workers(server, EXAMPLE)
        self._minio = minio

    def apply(self, **workers: Any) -> None:
        job = render_job(self._minio, steps=STEPS, every_steps=CHECKPOINT_EVERY_STEPS)
        job["spec"]["workers"] |= workers
        namespace = self.jobs.namespace
        self.jobs.server.apply(render_credentials(self._minio, namespace))
        self.jobs.server.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(job))

    def await_job(self, holds: Callable[[LLMTrainingJob], bool], what: str) -> LLMTrainingJob:
        self.workers.await_condition(lambda: holds(self.jobs.read(EXAMPLE)), what)
        return self.jobs.read(EXAMPLE)

    def await_checkpoint(self) -> int:
        """Wait until training is past a checkpoint of its present round; returns its step."""
        progress = self.workers.await_progress(
            0, lambda p: (p.checkpoint_step or 0) > (p.resumed_step or 0)
        )
        assert progress.checkpoint_step is not None
        return progress.checkpoint_step

    def await_size(self, number: int) -> None:
        """Wait until so many workers train together, and have done a step since."""
        self.await_job(
            lambda j: (
                j.status.size is not None
                and j.status.size.workers == number
                and j.status.workers is not None
                and j.status.workers.running == number
            ),
            f"{number} workers",
        )
        told = "llmtrain.dev/workers"
        assert self.workers.find_newest(0)["metadata"]["labels"][told] == str(number)
        self.workers.await_progress(0, lambda p: p.step > (p.resumed_step or 0))


@pytest.fixture
def job(
    installation: Installation, two_nodes: Cluster, node_namespace: str, pod_minio: MinioServer
) -> Submitted:
    two_nodes.control_plane.apply(restrict_namespace(node_namespace))
    fill_minio(pod_minio)
    return Submitted(Jobs(two_nodes.control_plane, node_namespace), pod_minio)


@pytest.mark.fault(11, world="nodes")
def test_an_image_that_cannot_be_pulled_is_named_with_the_registrys_words(
    job: Submitted, fault: FaultWatch
) -> None:
    image = "127.0.0.1:9/nowhere/trainer:v1"
    fault.strikes()
    job.apply(image=image)
    found = job.await_job(
        lambda j: "connection refused" in j.status.message, "the registry's words"
    )
    fault.said(found.status.message, image, "workers.image")


@pytest.mark.fault(10, world="nodes")
def test_workers_for_which_there_is_no_room_are_counted(job: Submitted, fault: FaultWatch) -> None:
    job.apply(replicas=4, resources={"cpu": "1500m", "memory": "1Gi"})
    job.await_job(lambda j: j.status.stage == "train", "training to begin")
    fault.strikes()
    found = job.await_job(lambda j: "Unschedulable" in j.status.message, "the scheduler's words")
    fault.said(found.status.message, "of 4 workers", "0/2 nodes are available", "Insufficient cpu")


@pytest.mark.fault(6, world="nodes")
def test_a_worker_that_takes_too_much_memory_is_named_with_its_limit(
    job: Submitted, fault: FaultWatch
) -> None:
    fault.strikes()
    job.apply(resources={"cpu": "500m", "memory": "64Mi"})
    found = job.await_job(lambda j: bool(j.status.attempts), "the first attempt to end")
    attempt = found.status.attempts[0]
    fault.said(
        f"{attempt.reason}: {attempt.message}", "WorkerOOMKilled", "workers.resources.memory"
    )


@pytest.mark.fault(7, world="nodes")
def test_a_drained_node_costs_a_save_and_no_failure(job: Submitted, fault: FaultWatch) -> None:
    job.apply(resources=HALF_A_CORE)
    saved = job.await_checkpoint()
    node = job.workers.find_newest(1)["spec"]["nodeName"]
    server = job.jobs.server
    fault.strikes()
    try:
        server.kubectl(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force"),
            *(f"--pod-selector={TRAINERS}", f"--timeout={DRAIN_SECONDS}s"),
        )
        found = job.await_job(lambda j: bool(j.status.attempts), "the eviction to be said")
        attempt = found.status.attempts[0]
        fault.said(f"{attempt.reason}: {attempt.message}")
        resumed = job.workers.await_progress(0, lambda p: (p.resumed_step or 0) >= saved)
        job.workers.await_progress(0, lambda p: p.step > (resumed.resumed_step or 0))
        fault.is_over()
    finally:
        server.kubectl("uncordon", node)
    status = job.jobs.read(EXAMPLE).status
    assert (status.restarts, status.failures) == (len(status.attempts), 0)
    assert all(pod["spec"]["nodeName"] != node for pod in job.workers.list_living())


@pytest.mark.patient
@pytest.mark.fault(7, world="nodes")
def test_an_elastic_job_is_scaled_and_does_without_a_drained_node(
    job: Submitted, fault: FaultWatch
) -> None:
    job.apply(resources=MORE_THAN_HALF_A_NODE, elastic=ELASTIC)
    job.await_checkpoint()
    server, namespace = job.jobs.server, job.jobs.namespace
    for number in (1, 2):
        server.kubectl("-n", namespace, "scale", "llmjob", EXAMPLE, f"--replicas={number}")
        job.await_size(number)
    status = job.jobs.read(EXAMPLE).status
    assert (status.restarts, status.attempts) == (0, [])

    node = job.workers.find_newest(1)["spec"]["nodeName"]
    fault.strikes()
    try:
        server.kubectl(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force"),
            *(f"--pod-selector={TRAINERS}", f"--timeout={DRAIN_SECONDS}s"),
        )
        job.await_size(1)
        fault.is_over()
        found = job.await_job(lambda j: "1 of 2 workers train" in j.status.message, "it to be said")
        fault.said(found.status.message, "nodes are available")
        assert [a.reason for a in found.status.attempts] == ["PreemptedSaved"]
    finally:
        server.kubectl("uncordon", node)
    job.await_size(2)
    status = job.jobs.read(EXAMPLE).status
    assert (status.restarts, status.failures) == (1, 0)


@pytest.mark.fault(25, world="nodes")
def test_a_namespace_goes_without_the_operator_and_its_data_stays(
    job: Submitted, installation: Installation, pod_minio: MinioServer, fault: FaultWatch
) -> None:
    job.apply(resources=HALF_A_CORE)
    job.await_checkpoint()
    installation.stop_operator()
    try:
        before = list_objects(pod_minio)
        fault.strikes()
        job.jobs.server.kubectl("delete", "namespace", job.jobs.namespace, "--timeout=180s")
        fault.said("the namespace, the job and its pods are gone; what it saved is there")
        after = list_objects(pod_minio)
        # While its pods went, the run may have saved once more and let an older checkpoint go.
        assert {name for name in before if "/checkpoints/" not in name} <= after
        assert any(name.endswith("manifest.json") and "/checkpoints/" in name for name in after)
    finally:
        installation.start_operator()


@pytest.mark.patient
@pytest.mark.fault(7, world="nodes")
def test_a_lost_node_is_named_and_its_worker_comes_back_elsewhere(
    job: Submitted, two_nodes: Cluster, installation: Installation, fault: FaultWatch
) -> None:
    job.apply(resources=HALF_A_CORE)
    saved = job.await_checkpoint()
    home = installation.find_operator()["spec"]["nodeName"]
    (victim,) = (
        index for index in (0, 1) if job.workers.find_newest(index)["spec"]["nodeName"] != home
    )
    node = two_nodes.get_node(job.workers.find_newest(victim)["spec"]["nodeName"])
    node.kill()
    fault.strikes()
    try:
        found = job.await_job(lambda j: bool(j.status.attempts), "the loss to be said")
        attempt = found.status.attempts[0]
        assert attempt.node == node.name
        fault.said(f"{attempt.reason} on {attempt.node}: {attempt.message}", "NodeLost")
        resumed = job.workers.await_progress(0, lambda p: (p.resumed_step or 0) >= saved)
        job.workers.await_progress(0, lambda p: p.step > (resumed.resumed_step or 0))
        fault.is_over()
        assert job.jobs.read(EXAMPLE).status.failures == 0
    finally:
        node.start()
        node.wait_ready()


def list_objects(minio: MinioServer) -> set[str]:
    found = minio.connect().list_objects(MODELS_BUCKET, recursive=True)
    return {str(each.object_name) for each in found}
