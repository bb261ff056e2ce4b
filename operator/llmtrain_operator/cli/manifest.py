"""Reading a job from a YAML file, with errors that name file, line, field and what is allowed.

Below: the contract, PyYAML. Above: `llmtrain run` and `llmtrain submit`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from llmtrain_api import KIND, LLMTrainingJob

Location = Sequence[int | str]

SHOWN_VALUE_CHARACTERS = 80


class ManifestError(click.ClickException):
    """The manifest is not a job; the message says where and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One object of a YAML file, and the lines that its fields are on."""

    node: yaml.Node
    data: dict[str, Any]

    def find_line(self, location: Location) -> int:
        """Return the line, from 1, of the field, or of the nearest one above it."""
        node, line = self.node, self.node.start_mark.line
        for part in location:
            child = _find_child(node, part)
            if child is None:
                break
            line, node = child
        return line + 1


def load_job(
    path: Path, *, namespace: str | None = None, replicas: int | None = None
) -> LLMTrainingJob:
    """Return the one job of a manifest. Other kinds in the file, as Secrets, are passed over.

    Args:
        path: A YAML file.
        namespace: Takes the place of the manifest's.
        replicas: Takes the place of spec.workers.replicas.

    Raises:
        ManifestError: names file, line, field and what is allowed.
    """
    document = find_job_document(path)
    data = {key: value for key, value in document.data.items() if key != "status"}
    if namespace is not None:
        data["metadata"] = {**_take_mapping(data, "metadata"), "namespace": namespace}
    if replicas is not None:
        spec = _take_mapping(data, "spec")
        workers = {**_take_mapping(spec, "workers"), "replicas": replicas}
        data["spec"] = {**spec, "workers": workers}
    try:
        return LLMTrainingJob.model_validate(data)
    except ValidationError as error:
        raise ManifestError(_explain(path, document, error)) from None


def find_job_document(path: Path) -> Document:
    """Return the one document of kind LLMTrainingJob of a file.

    Raises:
        ManifestError: not YAML, no such document, or several.
    """
    try:
        documents = list(_read_documents(path))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ManifestError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not valid YAML: {error}") from None
    jobs = [document for document in documents if document.data.get("kind") == KIND]
    if len(jobs) == 1:
        return jobs[0]
    if jobs:
        lines = ", ".join(str(job.find_line(())) for job in jobs)
        raise ManifestError(f"{path}: {len(jobs)} jobs (lines {lines}); give each its own file")
    kinds = ", ".join(str(document.data.get("kind")) for document in documents) or "nothing"
    raise ManifestError(f"{path}: no object of kind {KIND}; the file holds: {kinds}")


def list_other_objects(path: Path) -> list[str]:
    """Return kind and name of what a file holds beside its job, as `Secret credentials`."""
    return [
        f"{document.data.get('kind')} {_take_mapping(document.data, 'metadata').get('name')}"
        for document in _read_documents(path)
        if document.data.get("kind") != KIND
    ]


def _read_documents(path: Path) -> Iterator[Document]:
    loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    while loader.check_node():
        node = loader.get_node()
        assert node is not None
        _refuse_duplicates(path, node)
        data = loader.construct_document(node)
        if isinstance(data, dict):
            yield Document(node=node, data=data)


def _refuse_duplicates(path: Path, node: yaml.Node) -> None:
    """Refuse a key that stands twice: YAML readers would silently take the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(path, item)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ManifestError(f"{path}:{line}: {key.value} stands on line {lines[key.value]} too")
        lines[key.value] = line
        _refuse_duplicates(path, value)


def _find_child(node: yaml.Node, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item.start_mark.line, item
    return None


def _take_mapping(data: dict[str, Any], field: str) -> dict[str, Any]:
    value = data.get(field)
    return value if isinstance(value, dict) else {}


def _explain(path: Path, document: Document, error: ValidationError) -> str:
    problems = sorted(
        (document.find_line(details["loc"]), _explain_problem(details))
        for details in error.errors(include_url=False)
    )
    return "\n".join(f"{path}:{line}: {problem}" for line, problem in problems)


def _explain_problem(details: ErrorDetails) -> str:
    location = details["loc"]
    name = _format_location(location)
    if details["type"] == "extra_forbidden":
        return f"{name}: {_explain_unknown(location)}"
    field = _find_field(location)
    about = f"\n    {field.description}" if field is not None and field.description else ""
    about = about.replace("\n", "\n    ").replace("\n        ", "\n    ")
    if details["type"] == "missing":
        return f"{name}: required, and not there{about}"
    message = details["msg"].removeprefix("Value error, ").replace("Input should", "should")
    given = details["input"]
    if isinstance(given, dict | list):
        return f"{name}: {message}"
    return f"{name}: {message}; given: {str(given)[:SHOWN_VALUE_CHARACTERS]!r}{about}"


def _explain_unknown(location: Location) -> str:
    model = _find_model(location[:-1])
    known = [field.alias or name for name, field in model.model_fields.items()] if model else []
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"unknown field; known here: {', '.join(known)}.{hint}"


def _format_location(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the document"


def _find_model(location: Location) -> type[BaseModel] | None:
    """Return the model at a location, where there is one."""
    if not location:
        return LLMTrainingJob
    if isinstance(location[-1], int):
        return _find_model(location[:-1])
    field = _find_field(location)
    return _find_model_in(field.annotation) if field is not None else None


def _find_field(location: Location) -> FieldInfo | None:
    model = _find_model(location[:-1]) if location else None
    if model is None:
        return None
    fields = model.model_fields.items()
    return next((field for name, field in fields if location[-1] in (name, field.alias)), None)


def _find_model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for part in get_args(annotation) if (m := _find_model_in(part))), None)
