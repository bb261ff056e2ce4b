"""Two examples in real pods, of which one begins where the other has ended: an encoder learns from
plain text, and a classifier from the encoder.

The main job is a third one: `test_main_job` trains `cpu.yaml`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from llmtrain_api.status import Phase
from testbed.example_jobs import STEPS, shrink_example, write_example_files
from testbed.installation import Installation
from testbed.main_job import CORPUS_BUCKET, MODELS_BUCKET, render_credentials
from testbed.minio import MinioServer
from testbed.operators import Jobs
from testbed.workers import Workers

pytestmark = pytest.mark.nodes

RESOURCES = {"cpu": 1, "memory": "4Gi"}


@pytest.fixture
def filled_minio(pod_minio: MinioServer) -> Iterator[MinioServer]:
    """The store with what the examples read; other jobs read the same folders of it."""
    client, files = pod_minio.connect(), write_example_files()
    for bucket in (CORPUS_BUCKET, MODELS_BUCKET):
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)
    for key, content in files.items():
        client.put_object(CORPUS_BUCKET, key, io.BytesIO(content), len(content))
    yield pod_minio
    for key in files:
        client.remove_object(CORPUS_BUCKET, key)


def run_example(jobs: Jobs, minio: MinioServer, name: str, parent: str | None) -> str:
    """Run an example to its end, and return where its model lies."""
    job = shrink_example(name, parent)
    job["spec"]["storage"]["endpoint"] = minio.endpoint
    job["spec"]["workers"]["resources"] = RESOURCES
    jobs.server.kubectl("-n", jobs.namespace, "apply", "-f", "-", input=json.dumps(job))
    ended = (Phase.SUCCEEDED, Phase.FAILED)
    workers = Workers(jobs, name)
    workers.await_condition(lambda: jobs.read(name).status.phase in ended, f"{name} to end")
    status = jobs.read(name).status
    assert status.phase is Phase.SUCCEEDED, workers.explain()
    assert status.results is not None
    assert status.results.step == STEPS
    assert status.results.export_uri is not None
    return status.results.export_uri


def test_a_classifier_begins_from_the_encoder_of_another_job(
    installation: Installation, jobs: Jobs, filled_minio: MinioServer
) -> None:
    jobs.server.apply(render_credentials(filled_minio, jobs.namespace))

    encoder = run_example(jobs, filled_minio, "bert", None)
    run_example(jobs, filled_minio, "classify", encoder)

    results = jobs.read("classify").status.results
    assert results is not None
    assert results.f1_macro is not None
