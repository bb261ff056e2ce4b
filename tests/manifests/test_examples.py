"""Every example: pydantic reads it, and a real apiserver takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmtrain_api import KIND, LLMTrainingJob
from llmtrain_api.network import Architecture
from testbed.control_plane import ControlPlane

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "manifests" / "examples").glob("*.yaml"))
ALTERNATIVES = {
    "every_minutes",
    "every_epochs",
    "size",
    "pretrained",
    "lora",
    "freeze",
    "tokens",
    "epochs",
    "batch_tokens",
    "auto_micro_batch",
}
"""What the commented example names in a comment only, in place of something else."""

MINIMAL_LINES = 15


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that serves LLMTrainingJobs."""
    control_plane.define(ROOT / "crds" / "llmtrainingjobs.yaml")
    return control_plane


def read_job(path: Path) -> LLMTrainingJob:
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(path.read_text()))
    [job] = [document for document in documents if document["kind"] == KIND]
    return LLMTrainingJob.model_validate(job)


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"minimal", "cpu", "gpu-fsdp", "commented", "minio"}
    built = {read_job(path).spec.model.architecture for path in EXAMPLES}
    assert built == set(Architecture)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_server_takes_it(server: ControlPlane, namespace: str, path: Path) -> None:
    server.kubectl(
        *("-n", namespace, "apply", "--server-side", "--dry-run=server", "--validate=strict"),
        *("-f", str(path)),
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_named_after_its_file(path: Path) -> None:
    assert read_job(path).metadata.name == path.stem


def test_a_useful_manifest_fits_in_fifteen_lines() -> None:
    text = (ROOT / "manifests" / "examples" / "minimal.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) <= MINIMAL_LINES


def test_the_commented_example_names_every_part_of_the_spec() -> None:
    job = read_job(ROOT / "manifests" / "examples" / "commented.yaml")
    assert job.spec.model_fields_set == set(type(job.spec).model_fields)
    for part in ("model", "workers", "checkpoint", "storage", "run_policy", "evaluation"):
        model = getattr(job.spec, part)
        assert model.model_fields_set == set(type(model).model_fields) - ALTERNATIVES, part
    training = job.spec.training
    assert training.model_fields_set == set(type(training).model_fields) - ALTERNATIVES
    assert training.optimizer.model_fields_set == set(type(training.optimizer).model_fields)
