"""Manifests as people write them, with every mistake that is easily made."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtrain_operator.cli.manifest import ManifestError, load_job

EXAMPLES = Path(__file__).parents[3] / "manifests" / "examples"

GOOD = """\
apiVersion: llmtrain.dev/v1alpha1
kind: LLMTrainingJob
metadata:
  name: small
spec:
  data:
    sources:
      - uri: s3://corpus/books/
  training:
    steps: 100
  storage:
    uri: s3://models
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "job.yaml"


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_loads(example: Path) -> None:
    assert load_job(example).metadata.name == example.stem


def test_the_command_line_takes_the_place_of_namespace_and_replicas(manifest: Path) -> None:
    manifest.write_text(GOOD)
    job = load_job(manifest, namespace="team", replicas=4)
    assert job.key == "team/small"
    assert job.spec.workers.replicas == 4


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("steps: 100", "steps: 0", 10, "spec.training.steps: should be greater than or equal to 1"),
        ("steps: 100", "steps: 0", 10, "Optimizer steps of the whole run."),
        ("steps: 100", "steps: many", 10, "given: 'many'"),
        ("steps: 100", "stepps: 100", 10, "Did you mean steps?"),
        (
            "    steps: 100",
            "    seed: 1",
            9,
            "spec.training: give exactly one of steps, tokens and epochs",
        ),
        ("s3://corpus/books/", "/books", 8, "spec.data.sources[0].uri: "),
        ("name: small", "name: Small", 4, "metadata.name: "),
        ("v1alpha1", "v2", 1, "should be 'llmtrain.dev/v1alpha1'"),
        (
            "  storage:",
            "  model:\n    architecture: gpt5\n  storage:",
            12,
            "spec.model.architecture: should be 'gpt2', 'llama', 'bert', 't5' or 'lstm'; "
            "given: 'gpt5'",
        ),
        (
            "  storage:",
            "  workers:\n    replicas: 3\n  storage:",
            5,
            "training.batchSize must be a multiple of the world size",
        ),
        ("    steps: 100", "    steps: 100\n    steps: 200", 11, "steps stands on line 10 too"),
        ("  name: small", "  name: [small", 5, "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_file_line_field_and_what_is_allowed(
    manifest: Path, old: str, new: str, line: int, said: str
) -> None:
    assert GOOD.count(old) == 1
    manifest.write_text(GOOD.replace(old, new))
    with pytest.raises(ManifestError) as error:
        load_job(manifest)
    assert f"{manifest}:{line}: " in error.value.message
    assert said in error.value.message


def test_every_mistake_is_named_at_once(manifest: Path) -> None:
    manifest.write_text(GOOD.replace("100", "-1").replace("s3://models", "models"))
    with pytest.raises(ManifestError) as error:
        load_job(manifest)
    assert "spec.training.steps" in error.value.message
    assert "spec.storage.uri" in error.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file holds: nothing"),
        ("kind: Secret\n", "the file holds: Secret"),
        (f"{GOOD}---\n{GOOD}", "2 jobs (lines 1, 14)"),
        ("- a\n- b\n", "no object of kind LLMTrainingJob"),
    ],
)
def test_a_file_without_exactly_one_job_is_refused(manifest: Path, text: str, said: str) -> None:
    manifest.write_text(text)
    with pytest.raises(ManifestError) as error:
        load_job(manifest)
    assert said in error.value.message
