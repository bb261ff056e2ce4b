"""A real corpus from text that every Python installation carries: its manual and its docstrings.

Below: the standard library. Above: `llmtrain demo`, which trains on it without any download.
"""

from __future__ import annotations

import ast
import inspect
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIN_DOCUMENT_CHARACTERS = 200
"""Shorter docstrings say little; `Return self.` is none of the things to learn."""

MIN_CHARACTERS = 500_000
"""Less is no corpus: some distributions strip docstrings and the manual's topics."""

SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})


class CorpusMissingError(Exception):
    """This Python carries too little text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What was written."""

    path: Path
    documents: int
    characters: int


def write_corpus(path: Path) -> Corpus:
    """Write the corpus as JSON lines with fields `source` and `text`, always in the same order.

    Raises:
        CorpusMissingError: this Python's text has been stripped.
    """
    seen: set[str] = set()
    lines, characters = [], 0
    for source, text in _read_texts():
        if len(text) < MIN_DOCUMENT_CHARACTERS or text in seen:
            continue
        seen.add(text)
        characters += len(text)
        lines.append(json.dumps({"source": source, "text": text}, ensure_ascii=False) + "\n")
    if characters < MIN_CHARACTERS:
        raise CorpusMissingError(
            f"this Python carries only {characters:,} characters of documentation; the demo needs "
            f"{MIN_CHARACTERS:,}: run it with another one, as from python.org or uv"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".tmp")
    whole.write_text("".join(lines), encoding="utf-8")
    whole.replace(path)
    return Corpus(path=path, documents=len(lines), characters=characters)


def carries_corpus() -> bool:
    """Tell whether this Python carries enough text, without reading more than it takes."""
    characters = 0
    for _, text in _read_texts():
        characters += len(text)
        if characters >= MIN_CHARACTERS:
            return True
    return False


def _read_texts() -> Iterator[tuple[str, str]]:
    yield from _read_topics()
    library = Path(sysconfig.get_path("stdlib"))
    for module in sorted(library.rglob("*.py")):
        parts = module.relative_to(library).parts
        if SKIPPED_FOLDERS.isdisjoint(parts):
            yield from _read_docstrings("/".join(parts), module)


def _read_topics() -> Iterator[tuple[str, str]]:
    """Give the chapters of the language reference that `help()` shows."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    for topic, text in sorted(topics.items()):
        yield f"pydoc/{topic}", text


def _read_docstrings(name: str, module: Path) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(module.read_bytes())
    except SyntaxError:  # templates and tests of the parser are not all Python
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield name, inspect.cleandoc(text)
