"""Data prepared by four pods on two real nodes, of which one is killed in each phase; then a second
job that finds it prepared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtrain_api import LLMTrainingJob
from llmtrain_api.status import Phase
from testbed.containers import kill_main_process
from testbed.control_plane import KubectlError
from testbed.divided_data import (
    NUM_TASKS,
    describe_data,
    prepare_undisturbed,
    read_digests,
    write_files,
)
from testbed.installation import Installation
from testbed.main_job import (
    CORPUS_BUCKET,
    EXAMPLE,
    MODELS_BUCKET,
    fill_minio,
    render_credentials,
    render_job,
)
from testbed.minio import MinioServer
from testbed.operators import Jobs
from testbed.workers import AGENT_COMMAND, Workers

pytestmark = pytest.mark.nodes

STEPS = 100_000
"""More than the test waits for."""

SECOND = f"{EXAMPLE}-again"
THIRD_OF_A_CORE = {"cpu": "300m", "memory": "1Gi"}
"""Four tasks on two nodes, which are two cores of one machine."""


def apply_job(jobs: Jobs, minio: MinioServer, name: str) -> None:
    """Apply a job of one worker with the divided data."""
    job = render_job(minio, steps=STEPS, every_steps=STEPS)
    job["metadata"]["name"] = name
    job["spec"]["data"] = {**describe_data(CORPUS_BUCKET), "tasks": NUM_TASKS}
    job["spec"]["workers"] |= {"replicas": 1, "resources": THIRD_OF_A_CORE}
    jobs.server.kubectl("-n", jobs.namespace, "apply", "-f", "-", input=json.dumps(job))


def read_log(jobs: Jobs, pod: str) -> str:
    """What a pod has said; nothing where it has not begun."""
    try:
        return jobs.server.kubectl("-n", jobs.namespace, "logs", pod)
    except KubectlError:
        return ""


def kill_when(jobs: Jobs, workers: Workers, pod: str, words: str) -> dict[str, Any]:
    """SIGKILL to the first process of a pod once it has said something; returns the pod."""
    workers.await_condition(lambda: words in read_log(jobs, pod), f"{pod} to say {words}")
    found = jobs.list_pods()[pod]
    assert kill_main_process(found, AGENT_COMMAND)
    return found


def await_training(jobs: Jobs, name: str) -> LLMTrainingJob:
    Workers(jobs, name).await_condition(
        lambda: jobs.read(name).status.phase is Phase.TRAINING, f"{name} to train"
    )
    return jobs.read(name)


def test_killed_tasks_make_the_same_dataset_and_the_next_job_finds_it(
    installation: Installation, jobs: Jobs, pod_minio: MinioServer, tmp_path: Path
) -> None:
    fill_minio(pod_minio)
    write_files(pod_minio, CORPUS_BUCKET)
    jobs.server.apply(render_credentials(pod_minio, jobs.namespace))
    apply_job(jobs, pod_minio, EXAMPLE)
    workers = Workers(jobs, EXAMPLE)
    killed = [
        kill_when(jobs, workers, f"{EXAMPLE}-prepare-1-0", "begins read/"),
        kill_when(jobs, workers, f"{EXAMPLE}-prepare-0-0", "begins with the tokenizer"),
        kill_when(jobs, workers, f"{EXAMPLE}-prepare-2-0", "begins tokens/"),
        kill_when(jobs, workers, f"{EXAMPLE}-prepare-0-1", "makes the report"),
    ]
    assert len({pod["spec"]["nodeName"] for pod in killed}) == 2
    job = await_training(jobs, EXAMPLE)
    assert {(a.index, a.incarnation) for a in job.status.attempts} == {
        (1, 0), (0, 0), (2, 0), (0, 1)
    }  # fmt: skip

    uri = f"s3://{MODELS_BUCKET}/reference"
    data = describe_data(CORPUS_BUCKET)
    fingerprint, storage = prepare_undisturbed(pod_minio, tmp_path, data, uri)
    assert job.status.results is not None
    assert job.status.results.dataset == fingerprint
    disturbed = read_digests(job.spec.storage.uri, fingerprint, storage)
    assert disturbed == read_digests(uri, fingerprint, storage)

    jobs.server.kubectl("-n", jobs.namespace, "delete", "llmtrainingjob", EXAMPLE)
    apply_job(jobs, pod_minio, SECOND)
    again = await_training(jobs, SECOND)
    assert again.status.results is not None
    assert again.status.results.dataset == fingerprint
    logs = [read_log(jobs, pod) for pod in jobs.list_pods() if "prepare" in pod]
    assert not any("begins read/" in log or "begins tokens/" in log for log in logs)
