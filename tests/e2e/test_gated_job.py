"""A model that is not good enough, on real nodes: why, what to do, and the successor that is.

`tests/operator/cli/test_gated.py` tells the same of one machine. Here the verdict travels from the
pod that measured it, through its termination message, to whoever reads the job.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmtrain_api import LLMTrainingJob
from llmtrain_api.naming import PARENT_ANNOTATION
from llmtrain_api.status import ConditionType, Phase
from testbed.gated_job import GATE, NAME, STEPS, SUCCESSOR, describe_gated_job
from testbed.installation import Installation
from testbed.main_job import fill_minio, render_credentials
from testbed.minio import MinioServer
from testbed.operators import Jobs
from testbed.workers import DEADLINE_SECONDS, Workers

pytestmark = pytest.mark.nodes


def test_a_job_fails_its_gate_says_why_and_its_successor_passes(
    installation: Installation, jobs: Jobs, pod_minio: MinioServer, tmp_path: Path
) -> None:
    fill_minio(pod_minio)
    jobs.server.apply(render_credentials(pod_minio, jobs.namespace))
    manifest = describe_gated_job(
        "s3://corpus/books/0.txt",
        uri="s3://models/gated",
        endpoint=pod_minio.endpoint,
        credentialsSecret="minio-credentials",
    )

    failed = run_in_cluster(jobs, manifest, NAME)
    assert failed.status.phase is Phase.FAILED
    verdict = failed.status.find_condition(ConditionType.SUCCEEDED)
    assert verdict is not None
    assert (verdict.status, verdict.reason) == ("False", "GateFailed")
    assert f"spec.evaluation.gates[0] ({GATE}): loss is " in verdict.message
    assert failed.status.results is not None
    assert failed.status.results.export_uri is not None

    successor = write_successor(manifest, failed, pod_minio, tmp_path)
    assert successor["spec"]["training"]["steps"] == 2 * STEPS
    passed = run_in_cluster(jobs, successor, SUCCESSOR)
    assert passed.status.phase is Phase.SUCCEEDED, passed.status.message
    assert passed.status.provenance is not None
    parent = failed.status.provenance
    assert parent is not None
    assert passed.metadata.annotations[PARENT_ANNOTATION] == parent.run_uri


def run_in_cluster(jobs: Jobs, manifest: dict[str, Any], name: str) -> LLMTrainingJob:
    """Apply a manifest and return the job as it ended."""
    jobs.server.kubectl("-n", jobs.namespace, "apply", "-f", "-", input=json.dumps(manifest))
    ended = {Phase.SUCCEEDED, Phase.FAILED}
    Workers(jobs, name).await_condition(
        lambda: jobs.read(name).status.phase in ended, f"{name} to end"
    )
    return jobs.read(name)


def write_successor(
    manifest: dict[str, Any], job: LLMTrainingJob, minio: MinioServer, folder: Path
) -> dict[str, Any]:
    """Have `llmtrain next` write what comes after a job of the cluster."""
    keys = folder / "keys"
    keys.mkdir()
    (keys / "accessKey").write_text(minio.access_key)
    (keys / "secretKey").write_text(minio.secret_key)
    (folder / "job.yaml").write_text(yaml.safe_dump(manifest))
    assert job.status.provenance is not None
    assert job.status.provenance.run_uri is not None
    written = subprocess.run(
        [
            Path(sys.executable).with_name("llmtrain"), "next", job.status.provenance.run_uri,
            "--manifest", folder / "job.yaml", "--output", folder / "next.yaml",
            "--endpoint", minio.endpoint, "--credentials", keys,
        ],
        text=True,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert written.returncode == 0, written.stdout + written.stderr
    successor: dict[str, Any] = yaml.safe_load((folder / "next.yaml").read_text())
    return successor
