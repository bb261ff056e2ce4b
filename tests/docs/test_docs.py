"""The documentation is held to the code: paths, links, reasons, metrics, and every command."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmtrain_api.training import TrainingSpec
from llmtrain_operator.plan.failures import INFRASTRUCTURE_REASONS
from llmtrain_trainer.agent.metrics import RUN_GAUGES
from testbed.documents import list_commands, list_documents
from testbed.requirements import find_repository

ROOT = find_repository()
DOCUMENTS = list_documents()
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
QUOTED_PATH = re.compile(r"`((?:crds|operator|trainer_image|helm|manifests|tests|docs)/[^`* ]*)`")
QUOTED = re.compile(r"`([^`]+)`")
REASON = re.compile(r"`([A-Z][A-Za-z]+)`")
TRAINER = ROOT / "trainer_image" / "llmtrain_trainer"
PLAN = ROOT / "operator" / "llmtrain_operator" / "plan"
LLMTRAIN = Path(sys.executable).parent / "llmtrain"
RUN_SECONDS = 400
DEMO_STEPS = 20

RUN_BY_OTHERS = {
    "make test": "this very run",
    "make e2e": "tests/e2e/test_main_job.py, among others",
    "make bench-faults": "docs/faults.md says when",
    "make demo": "tests/operator/cli/test_demo.py",
    "helm install": "tests/e2e/test_main_job.py",
    "kubectl create secret": "tests/e2e/test_main_job.py",
    "kubectl apply -f manifests/examples": "tests/manifests/test_examples.py",
    "kubectl get llmtrainingjobs": "tests/e2e/test_main_job.py",
    "kubectl describe llmtrainingjob": "tests/e2e/test_main_job.py",
    "kubectl apply --server-side -k": "tests/manifests/test_install.py",
}
"""Commands that need a cluster or all of the tests, and where they are run."""

NO_FAILURES = {
    "Succeeded",
    "Failed",
    "CheckpointRefused",
    "RanksRestarted",
    "GroupRestarted",
    "NodeAvoided",
    "WorkersReleased",
    "RolledBack",
    "Straggler",
}
"""A success, and events beside reasons."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text())
    assert [t for t in targets if not (document.parent / t).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_exist(document: Path) -> None:
    paths = QUOTED_PATH.findall(document.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_reason_is_explained_and_none_is_invented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    _, _, failures = text.partition("## When something fails")
    rows = [line.split("|")[1] for line in failures.splitlines() if line.startswith("| `")]
    explained = {reason for row in rows for reason in REASON.findall(row)}
    waiting = set(find_advice())
    known = {
        *(reason for folder in (TRAINER, PLAN) for reason in find_reasons(folder)),
        *INFRASTRUCTURE_REASONS,
        *waiting,
        "CreationRefused",
    } - NO_FAILURES
    assert explained == known


def test_every_metric_of_a_worker_is_explained() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    source = (TRAINER / "agent/metrics.py").read_text()
    names = {*RUN_GAUGES, *re.findall(r'"(llmtrain_[a-z_]+)"', source)}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_every_field_of_training_is_explained() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    schema = TrainingSpec.model_json_schema(by_alias=True)
    specs = [schema, *schema["$defs"].values()]
    fields = {name for spec in specs for name in spec.get("properties", {})}
    named = {word for quoted in QUOTED.findall(text) for word in quoted.split(".")}
    assert sorted(fields - named) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_is_run_somewhere(document: Path) -> None:
    unknown = [
        command
        for command in list_commands(document)
        if not is_llmtrain(command) and not any(map(command.startswith, RUN_BY_OTHERS))
    ]
    assert unknown == []


@pytest.mark.parametrize("target", ["demo", "test", "e2e", "check", "generate", "cluster-up"])
def test_make_knows_its_targets(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_readme_s_own_runs(tmp_path: Path) -> None:
    """What a reader types after `make demo`, in the README's order."""
    run(tmp_path, "llmtrain", "demo", "--steps", str(DEMO_STEPS))
    commands = [c.split() for c in list_commands(ROOT / "README.md") if is_llmtrain(c)]
    assert [command[1] for command in commands] == ["doctor", "plan", "run", "status"]
    outputs = {command[1]: run(tmp_path, *command) for command in commands}
    assert "parameters" in outputs["plan"]
    assert "succeeded" in outputs["run"]
    assert "succeeded" in outputs["status"]
    # And what docs/data.md shows of the same run.
    for command in list_commands(ROOT / "docs" / "data.md"):
        run(tmp_path, *shlex.split(command))


def run(directory: Path, *command: str) -> str:
    program, *arguments = command
    assert Path(program).name == LLMTRAIN.name
    finished = subprocess.run(
        [LLMTRAIN, *arguments],
        cwd=directory,
        text=True,
        capture_output=True,
        timeout=RUN_SECONDS,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def is_llmtrain(command: str) -> bool:
    return Path(command.split()[0]).name == LLMTRAIN.name


def find_reasons(folder: Path) -> Iterator[str]:
    """Every constant that code gives as a `reason`, with CamelCase of a failure."""
    for module in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if (
                isinstance(node, ast.keyword)
                and node.arg == "reason"
                and isinstance(node.value, ast.Constant)
            ):
                yield str(node.value.value)


def find_advice() -> Iterator[str]:
    """The reasons of the platform for which the status has advice."""
    for node in ast.walk(ast.parse((PLAN / "waiting.py").read_text())):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for key in node.value.keys:
                if isinstance(key, ast.Constant):
                    yield str(key.value)
