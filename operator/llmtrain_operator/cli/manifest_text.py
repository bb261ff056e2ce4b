"""A job as the YAML that a person would have written: without defaults, with comments that say why.

Below: the contract, PyYAML, `manifest` for where a field stands. Above: `search` and `next`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

import yaml

from llmtrain_api import LLMTrainingJob
from llmtrain_api.base import API_VERSION, KIND
from llmtrain_operator.cli.manifest import Document, Location

COMMENT_CHARACTERS = 96
"""Comments are broken here."""

_PART = re.compile(r"([A-Za-z][A-Za-z0-9]*)|\[(\d+)\]")


def write_manifest(job: LLMTrainingJob, reasons: Sequence[tuple[Location, str]] = ()) -> str:
    """Return the YAML of a job, without its status and what is as by default.

    Args:
        job: what to write.
        reasons: comments, each for above the field at a location, as ("spec", "model", "size").
    """
    names = {"name", "namespace", "annotations", "labels"}
    data = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": job.metadata.model_dump(include=names, exclude_defaults=True),
        "spec": job.spec.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
        ),
    }
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert node is not None
    document = Document(node=node, data=data)
    comments: dict[int, list[str]] = {}
    for location, reason in reasons:
        comments.setdefault(document.find_line(location), []).append(reason)
    return insert_comments(text, comments)


def insert_comments(text: str, comments: Mapping[int, Sequence[str]]) -> str:
    """Return a text with comments above lines, which are counted from 1, as far indented."""
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        indent = line[: len(line) - len(line.lstrip(" "))]
        for comment in comments.get(number, ()):
            width = COMMENT_CHARACTERS - len(indent)
            lines += [f"{indent}# {part}" for part in textwrap.wrap(comment, width)]
        lines.append(line)
    return "\n".join(lines) + "\n"


def parse_path(path: str) -> tuple[str | int, ...]:
    """Return the parts of a path, as ("data", "sources", 0, "weight") of data.sources[0].weight."""
    return tuple(int(index) if index else name for name, index in _PART.findall(path))
