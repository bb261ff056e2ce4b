"""A sample of a dataset's documents: their languages, groups of people, examples and a map.

Below: `groups`, `plane`, `preparation.workers`. Above: `prepare` begins it before the pass that
encodes; `publishing` puts it into the report.

The sample is redacted first of all, so that nothing below sees a value of personal data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from llmtrain_api.data import DataSpec
from llmtrain_api.recipe import PersonalData
from llmtrain_trainer.data_report.groups import describe_groups
from llmtrain_trainer.data_report.plane import MAX_DOCUMENTS, place_documents
from llmtrain_trainer.data_report.record import GroupRecord, Point
from llmtrain_trainer.data_report.survey import read_label
from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.preparation.corpus import Corpus
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.privacy import replace_personal_data
from llmtrain_trainer.preparation.selection import identify_language
from llmtrain_trainer.preparation.workers import call_aside
from llmtrain_trainer.tokenizer.marks import show_text

SAMPLE_DOCUMENTS = 2000
SAMPLE_CHARACTERS = 4000
"""Of each document of the sample, its beginning: 8 million characters in all."""

NUM_EXAMPLES = 4
EXAMPLE_CHARACTERS = 700

UNSURE = "unsure"
MIN_LANGUAGE_PROBABILITY = 0.65
"""As FineWeb; below, a document is counted as unsure."""

PLACEHOLDER = re.compile("|".join(f"<{kind.name}>" for kind in PersonalData))
"""What stands for personal data, and is no word of its document."""

MAP_FROM_DOCUMENTS = 1000
"""A smaller corpus gets no map: that would be ten seconds, most of its preparation, while training
waits."""

MAX_KINDS = 8
"""Of points on the maps, so that their colours can be told apart."""

OTHER_KINDS = "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFindings:
    """What a sample is like, as the fields of the same names of a `DataReport` say it."""

    sample_documents: int
    languages: dict[str, int]
    groups: list[GroupRecord]
    points_show: str
    points: list[Point]
    examples: list[str]


@contextmanager
def describe_aside(corpus: Corpus, data: DataSpec) -> Iterator[Callable[[], SampleFindings]]:
    """Give what waits for the findings, which a large corpus has by a process beside this one."""
    is_large = len(corpus) >= MAP_FROM_DOCUMENTS
    describe = partial(describe_sample, corpus.sample(SAMPLE_DOCUMENTS), data, with_map=is_large)
    if is_large and count_usable_cores() > 1:
        with call_aside(describe) as wait:
            yield wait
    else:
        yield describe


def describe_sample(
    documents: Sequence[Document], data: DataSpec, *, with_map: bool
) -> SampleFindings:
    """Return what documents are like, `with_map` where they lie on the two maps, too."""
    sample = [redact_document(shorten_document(document)) for document in documents]
    texts = [document.text for document in sample]
    languages = [_tell_language(text) for text in texts]
    words = [PLACEHOLDER.sub(" ", text) for text in texts]
    shown, kinds = _choose_kinds(sample[:MAX_DOCUMENTS], languages, data)
    placed = place_documents(words[:MAX_DOCUMENTS]) if with_map else None
    points = [] if placed is None else zip(kinds, *placed, strict=True)
    return SampleFindings(
        sample_documents=len(sample),
        languages=dict(Counter(languages).most_common()),
        groups=describe_groups(words),
        points_show="" if placed is None else shown,
        points=[
            Point(kind=kind, pca=_round(flat), tsne=_round(spread)) for kind, flat, spread in points
        ],
        examples=[_shorten(text) for text in texts[:NUM_EXAMPLES]],
    )


def shorten_document(document: Document) -> Document:
    """Return the beginning of a document, without the marks of a conversation."""
    return replace(document, text=show_text(document.text[:SAMPLE_CHARACTERS]))


def redact_document(document: Document) -> Document:
    """Return a document with a placeholder for each value of personal data that has a form."""
    text = replace_personal_data(document.text, list(PersonalData), Counter())
    return replace(document, text=text)


def _tell_language(text: str) -> str:
    name, probability = identify_language(text)
    return name if probability >= MIN_LANGUAGE_PROBABILITY else UNSURE


def _choose_kinds(
    sample: Sequence[Document], languages: Sequence[str], data: DataSpec
) -> tuple[str, list[str]]:
    """Return what tells documents apart on the maps, and the kind of each."""
    labels = [read_label(document, data) for document in sample]
    if any(labels):
        name, kinds = "label", [label or "none" for label in labels]
    elif len(data.sources) > 1:
        uris = [source.uri for source in data.sources]
        name, kinds = "source", [uris[document.source] for document in sample]
    else:
        name, kinds = "language", list(languages[: len(sample)])
    common = {kind for kind, _ in Counter(kinds).most_common(MAX_KINDS)}
    return name, [kind if kind in common else OTHER_KINDS for kind in kinds]


def _round(point: NDArray[np.float64]) -> tuple[float, float]:
    return round(float(point[0]), 3), round(float(point[1]), 3)


def _shorten(text: str) -> str:
    return text if len(text) <= EXAMPLE_CHARACTERS else text[:EXAMPLE_CHARACTERS].rstrip() + " …"
