"""`llmtrain data diff`: what differs between two datasets, and what it did to them.

Below: `shards`, `store`. Above: `data_commands`. Manifests and tokenizers are read, no data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from llmtrain_trainer.dataset.shards import TOKENIZER, DatasetManifest
from llmtrain_trainer.inspection.datasets import read_dataset_manifest
from llmtrain_trainer.store import Store

TOKENIZER_KEY = f"{TOKENIZER}tokenizer.json"
SHOWN_TOKENS = 8
ABSENT = "–"

Facts = dict[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that is not the same in both."""

    section: str
    name: str
    first: str
    second: str


def print_differences(first: Store, second: Store, console: Console) -> int:
    """Print what differs between two datasets; the exit code is 0 where nothing does, else 1.

    Raises:
        StoreError: where there is none, or one cannot be read.
    """
    found = list(
        compare_datasets(
            read_dataset_manifest(first),
            read_dataset_manifest(second),
            read_vocabulary(first),
            read_vocabulary(second),
        )
    )
    for label, store in (("A", first), ("B", second)):
        console.print(f"{label}  {store.uri}", highlight=False, soft_wrap=True)
    if not found:
        console.print("no difference")
        return 0
    table = Table("", "what", "A", "B", box=None)
    section = ""
    for difference in found:
        shown = difference.section if difference.section != section else ""
        section = difference.section
        table.add_row(shown, difference.name, difference.first, difference.second)
    console.print("", table)
    return 1


def compare_datasets(
    first: DatasetManifest,
    second: DatasetManifest,
    vocabulary: frozenset[str],
    other_vocabulary: frozenset[str],
) -> Iterator[Difference]:
    """Yield every difference: recipe, sources, steps, splits, and vocabulary.

    Args:
        first: a dataset.
        second: the other one.
        vocabulary: tokens of the first.
        other_vocabulary: tokens of the second.
    """
    sections = {
        "recipe": (_list_recipe(first), _list_recipe(second)),
        "sources": (_list_sources(first), _list_sources(second)),
        "steps": (_list_steps(first), _list_steps(second)),
        "splits": (_list_splits(first), _list_splits(second)),
    }
    for section, (facts, others) in sections.items():
        for name in dict.fromkeys([*facts, *others]):
            if facts.get(name) != others.get(name):
                yield Difference(section, name, facts.get(name, ABSENT), others.get(name, ABSENT))
    if vocabulary != other_vocabulary:
        yield Difference(
            "vocabulary",
            "only here",
            _list_tokens(vocabulary - other_vocabulary),
            _list_tokens(other_vocabulary - vocabulary),
        )


def read_vocabulary(store: Store) -> frozenset[str]:
    """Return the tokens of a dataset's tokenizer, special ones included."""
    content = json.loads(store.read_bytes(TOKENIZER_KEY))
    tokens = content["model"]["vocab"]
    # Unigram has a list of pairs, the others a mapping.
    learned = tokens if isinstance(tokens, dict) else [token for token, _ in tokens]
    return frozenset([*learned, *(token["content"] for token in content["added_tokens"])])


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every leaf of JSON-like data with its path, as sources[0].uri."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from flatten(child, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value:
        for index, child in enumerate(value):
            yield from flatten(child, f"{name}[{index}]")
    else:
        yield name, json.dumps(value, ensure_ascii=False)


def _list_recipe(manifest: DatasetManifest) -> Facts:
    return dict(flatten(manifest.recipe.dump()))


def _list_sources(manifest: DatasetManifest) -> Facts:
    return {source.uri: source.sha256[:16] for source in manifest.sources}


def _list_steps(manifest: DatasetManifest) -> Facts:
    facts: Facts = {}
    for step in manifest.steps:
        facts[step.step] = f"{step.documents_in:,} → {step.documents_out:,} documents"
        for rule, found in step.rules.items():
            facts[f"{step.step}: {rule}"] = f"{found.count:,}"
    return facts


def _list_splits(manifest: DatasetManifest) -> Facts:
    splits = {"train": manifest.train, "validation": manifest.validation, "test": manifest.test}
    facts = {
        name: f"{split.num_documents:,} documents, {split.num_tokens:,} tokens"
        for name, split in splits.items()
        if split is not None
    }
    facts["vocabulary"] = f"{manifest.vocabulary_size:,} tokens"
    if manifest.tokenizer is not None:
        facts["tokens for each word"] = f"{manifest.tokenizer.tokens_per_word:.3f}"
    return facts


def _list_tokens(tokens: frozenset[str]) -> str:
    shown = ", ".join(repr(token) for token in sorted(tokens)[:SHOWN_TOKENS])
    more = ", …" if len(tokens) > SHOWN_TOKENS else ""
    return f"{len(tokens):,}: {shown}{more}" if tokens else "0"
