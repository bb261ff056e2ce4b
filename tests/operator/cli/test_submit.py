"""`llmtrain submit` against a real apiserver, with a real operator behind it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import yaml

from llmtrain_api.status import Phase
from testbed.command_line import CommandLine
from testbed.operators import SMALLEST, Jobs, Operator
from testbed.processes import wait_until

SECONDS = 60
WITH_SECRET = Path(__file__).parents[3] / "manifests" / "examples" / "minio.yaml"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path)


def write_manifest(folder: Path, **spec: object) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(SMALLEST | {"spec": SMALLEST["spec"] | spec}))
    return path


def test_a_job_is_created_changed_and_left_as_it_is(
    on_cluster: CommandLine, jobs: Jobs, manifest: Path
) -> None:
    first = on_cluster("submit", manifest, "-n", jobs.namespace)
    assert first.returncode == 0, first.stderr
    assert f"{jobs.namespace}/tiny created" in first.stdout
    assert f"kubectl -n {jobs.namespace} get llmtrainingjobs tiny --watch" in first.stdout
    stored = jobs.get("llmjob", "tiny", "--show-managed-fields")
    assert stored["spec"]["storage"]["credentialsSecret"] == "store"
    assert [f["manager"] for f in stored["metadata"]["managedFields"]] == ["llmtrain"]

    again = on_cluster("submit", manifest, "-n", jobs.namespace)
    assert f"{jobs.namespace}/tiny unchanged" in again.stdout

    write_manifest(manifest.parent, runPolicy={"suspend": True})
    changed = on_cluster("submit", manifest, "-n", jobs.namespace)
    assert f"{jobs.namespace}/tiny configured" in changed.stdout
    assert jobs.read().spec.run_policy.suspend


def test_a_change_of_what_is_fixed_is_named_by_field(
    on_cluster: CommandLine, jobs: Jobs, manifest: Path
) -> None:
    on_cluster("submit", manifest, "-n", jobs.namespace)
    write_manifest(manifest.parent, training={"steps": 200})
    refused = on_cluster("submit", manifest, "-n", jobs.namespace)
    assert refused.returncode == 1
    assert "spec.training.steps: 100 → 200" in refused.stderr
    assert "delete llmtrainingjob tiny" in refused.stderr


def test_a_field_of_another_manager_is_not_taken(
    on_cluster: CommandLine, jobs: Jobs, manifest: Path
) -> None:
    jobs.apply(runPolicy={"restartLimit": 3})
    write_manifest(manifest.parent, runPolicy={"restartLimit": 4})
    refused = on_cluster("submit", manifest, "-n", jobs.namespace)
    assert refused.returncode == 1
    assert ".spec.runPolicy.restartLimit" in refused.stderr
    assert "--force-conflicts" in refused.stderr
    assert jobs.read().spec.run_policy.restart_limit == 3


def test_what_only_the_apiserver_knows_is_said_in_its_words(
    on_cluster: CommandLine, manifest: Path
) -> None:
    refused = on_cluster("submit", manifest, "-n", "nowhere")
    assert refused.returncode == 1
    assert 'namespaces "nowhere" not found' in refused.stderr
    assert "kubectl create namespace nowhere" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_field_that_the_apiserver_refuses_is_named(
    on_cluster: CommandLine, jobs: Jobs, manifest: Path
) -> None:
    labelled = SMALLEST | {"metadata": {"name": "tiny", "labels": {"not a label": "x"}}}
    manifest.write_text(yaml.safe_dump(labelled))
    refused = on_cluster("submit", manifest, "-n", jobs.namespace)
    assert refused.returncode == 1
    assert 'metadata.labels: Invalid value: "not a label"' in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_mistake_never_reaches_the_cluster(
    on_cluster: CommandLine, jobs: Jobs, manifest: Path
) -> None:
    write_manifest(manifest.parent, training={"steps": 0})
    refused = on_cluster("submit", manifest, "-n", jobs.namespace)
    assert refused.returncode == 1
    assert "spec.training.steps: should be greater than or equal to 1" in refused.stderr
    assert not jobs.exists("llmjob", "tiny")


def test_what_else_the_file_holds_is_left_to_kubectl(on_cluster: CommandLine, jobs: Jobs) -> None:
    submitted = on_cluster("submit", WITH_SECRET, "-n", jobs.namespace)
    assert submitted.returncode == 0, submitted.stderr
    assert "holds Secret minio-credentials, ConfigMap minio-ca too" in submitted.stdout
    assert jobs.exists("llmjob", "minio")
    assert not jobs.exists("secret", "minio-credentials")


def test_waiting_follows_the_job_to_its_success(
    on_cluster: CommandLine, jobs: Jobs, operator: Operator, manifest: Path
) -> None:
    waiting = on_cluster.start("submit", manifest, "-n", jobs.namespace, "--wait")
    jobs.finish_prepare()
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0")
    jobs.end_pod("tiny-train-0-0", 0, reason="Completed", message="", result={"step": 100})
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0", "tiny-evaluate-0-0")
    result = {"reportUri": "s3://models/report.html", "validationLoss": 2.0}
    jobs.end_pod("tiny-evaluate-0-0", 0, reason="Completed", message="", result=result)
    assert waiting.wait(seconds=SECONDS) == 0, waiting.tail_log()
    log = waiting.log.read_text()
    assert f"{jobs.namespace}/tiny created" in log
    assert log.count("StageStarted: ") == 3
    assert "tiny succeeded" in log
    assert "s3://models/report.html" in log


def test_waiting_for_a_job_that_fails_ends_with_1_and_its_words(
    on_cluster: CommandLine, jobs: Jobs, operator: Operator, manifest: Path
) -> None:
    waiting = on_cluster.start("submit", manifest, "-n", jobs.namespace, "--wait")
    jobs.await_pods("tiny-prepare-0-0")
    jobs.end_pod("tiny-prepare-0-0", 21, reason="DatasetInvalid", message="a.jsonl:8 is no JSON")
    assert waiting.wait(seconds=SECONDS) == 1, waiting.tail_log()
    log = waiting.log.read_text()
    assert "tiny failed: a.jsonl:8 is no JSON" in log
    assert "describe llmtrainingjob tiny" in log


def test_ctrl_c_ends_the_waiting_and_not_the_job(
    on_cluster: CommandLine, jobs: Jobs, operator: Operator, manifest: Path
) -> None:
    waiting = on_cluster.start("submit", manifest, "-n", jobs.namespace, "--wait")
    wait_until(lambda: "StageStarted" in waiting.tail_log(), seconds=SECONDS, what="an event")
    waiting.signal(signal.SIGINT)
    assert waiting.wait(seconds=SECONDS) == 1
    assert "The job goes on" in waiting.tail_log()
    assert jobs.read().status.phase is Phase.PREPARING


def test_a_deleted_job_is_not_waited_for(
    on_cluster: CommandLine, jobs: Jobs, operator: Operator, manifest: Path
) -> None:
    waiting = on_cluster.start("submit", manifest, "-n", jobs.namespace, "--wait")
    jobs.await_pods("tiny-prepare-0-0")
    jobs.server.kubectl("-n", jobs.namespace, "delete", "llmjob", "tiny")
    assert waiting.wait(seconds=SECONDS) == 1
    assert "was deleted while it was waited for" in waiting.tail_log()


def test_a_namespace_comes_from_the_option_the_file_or_the_context(
    jobs: Jobs, manifest: Path, tmp_path: Path
) -> None:
    kubeconfig = yaml.safe_load(jobs.server.kubeconfig.read_text())
    kubeconfig["contexts"][0]["context"]["namespace"] = jobs.namespace
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(kubeconfig))
    submitted = CommandLine(tmp_path, {"KUBECONFIG": str(path)})("submit", manifest)
    assert f"{jobs.namespace}/tiny created" in submitted.stdout, submitted.stderr


@pytest.mark.parametrize(
    ("kubeconfig", "said"),
    [
        (None, "no kubeconfig at"),
        ("just text", "cannot be used as a kubeconfig"),
        ("contexts: []", "cannot be used as a kubeconfig"),
    ],
)
def test_without_a_usable_kubeconfig_it_says_so(
    manifest: Path, tmp_path: Path, kubeconfig: str | None, said: str
) -> None:
    path = tmp_path / "kubeconfig"
    if kubeconfig is not None:
        path.write_text(kubeconfig)
    refused = CommandLine(tmp_path, {"KUBECONFIG": str(path)})("submit", manifest)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
