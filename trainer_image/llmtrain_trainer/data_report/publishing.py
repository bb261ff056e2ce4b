"""The report of a dataset, from what was seen to the two objects in the store.

Below: `survey`, `groups`, `plane`, `vocabulary`, `page`. Above: `prepare`, before it commits.

The sample is redacted first of all, so that nothing below sees a value of personal data.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmtrain_api.recipe import PersonalData
from llmtrain_trainer.data_report.groups import describe_groups
from llmtrain_trainer.data_report.plane import MAX_DOCUMENTS, place_documents
from llmtrain_trainer.data_report.record import (
    REPORT,
    REPORT_PAGE,
    DataReport,
    Lengths,
    PartRecord,
    Point,
    SourceRecord,
)
from llmtrain_trainer.data_report.survey import Survey
from llmtrain_trainer.data_report.vocabulary import describe_vocabulary
from llmtrain_trainer.dataset.shards import OFFSET_TYPE, DatasetManifest, SplitManifest
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.privacy import replace_personal_data
from llmtrain_trainer.preparation.selection import identify_language
from llmtrain_trainer.preparation.splits import Part
from llmtrain_trainer.store import Store

logger = logging.getLogger(__name__)

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

DUPLICATE_STEPS = ("exact duplicates", "near duplicates", "contamination", "paragraphs")
PRIVACY_STEP = "privacy"


def publish_report(
    store: Store,
    survey: Survey,
    manifest: DatasetManifest,
    folder: Path,
    report: Callable[[], None],
) -> None:
    """Make the report of a dataset and write it beside it.

    A report that cannot be made is a line in the log: it is not worth the hours of a dataset.

    Args:
        store: rooted at the dataset.
        survey: what was seen on the way to the tokenizer.
        manifest: of the dataset, not yet committed.
        folder: its files.
        report: called now and then, to say that work goes on.

    Raises:
        StoreError: where the store fails.
    """
    try:
        from llmtrain_trainer.data_report.page import render_page  # seconds that a reuse saves

        record = make_report(survey, manifest, folder, report)
        page = render_page(record, manifest)
    except Exception:
        logger.exception("no report of the dataset %s", manifest.fingerprint)
        return
    text = json.dumps(record.dump(), indent=1, ensure_ascii=False)
    store.write_bytes(REPORT, text.encode())
    store.write_bytes(REPORT_PAGE, page.encode())


def make_report(
    survey: Survey, manifest: DatasetManifest, folder: Path, report: Callable[[], None]
) -> DataReport:
    """Return what a dataset is like; see `publish_report`."""
    sample = [redact_document(document) for document in survey.sample]
    report()
    texts = [document.text for document in sample]
    languages = [_tell_language(text) for text in texts]
    words = [PLACEHOLDER.sub(" ", text) for text in texts]
    groups = describe_groups(words)
    report()
    shown, kinds = _choose_kinds(sample[:MAX_DOCUMENTS], languages, survey, manifest)
    is_large = survey.documents.total() >= MAP_FROM_DOCUMENTS
    placed = place_documents(words[:MAX_DOCUMENTS]) if is_large else None
    report()
    splits = {"train": manifest.train, "validation": manifest.validation, "test": manifest.test}
    return DataReport(
        fingerprint=manifest.fingerprint,
        steps=manifest.steps,
        sources=[
            SourceRecord(
                uri=source.uri,
                documents=survey.documents[index],
                characters=survey.characters[index],
                weight=source.weight,
            )
            for index, source in enumerate(manifest.recipe.sources)
        ],
        parts=[
            PartRecord(
                name=part.name.lower(),
                documents=split.num_documents,
                tokens=split.num_tokens,
                bytes=split.num_bytes,
                token_lengths=describe_lengths(read_lengths(split, folder)),
                labels=dict(survey.labels[part].most_common()),
            )
            for part in Part
            if (split := splits[part.name.lower()]) is not None
        ],
        duplicates={
            step.step: sum(found.count for found in step.rules.values())
            for step in manifest.steps
            if step.step in DUPLICATE_STEPS
        },
        leakage=manifest.leakage,
        personal_data=_count_personal_data(manifest),
        sample_documents=len(sample),
        languages=dict(Counter(languages).most_common()),
        groups=groups,
        vocabulary=describe_vocabulary(manifest, folder),
        points_show=shown if placed is not None else "",
        points=[
            Point(kind=kind, pca=_round(flat), tsne=_round(spread))
            for kind, flat, spread in zip(kinds, *placed, strict=True)
        ]
        if placed is not None
        else [],
        examples=[_shorten(text) for text in texts[:NUM_EXAMPLES]],
    )


def redact_document(document: Document) -> Document:
    """Return a document with a placeholder for each value of personal data that has a form."""
    text = replace_personal_data(document.text, list(PersonalData), Counter())
    return replace(document, text=text)


def read_lengths(split: SplitManifest, folder: Path) -> NDArray[np.int64]:
    """Return the tokens of each document of a split [documents]."""
    starts = [np.fromfile(folder / shard.offsets, dtype=OFFSET_TYPE) for shard in split.shards]
    ends = np.concatenate([*starts, [np.uint64(split.num_tokens)]]).astype(np.int64)
    return np.diff(ends)


def describe_lengths(lengths: NDArray[np.int64]) -> Lengths:
    """Return what is to be said of lengths [at least one]."""
    exponents = np.frexp(lengths.astype(np.float64))[1] - 1
    found, counts = np.unique(np.maximum(exponents, 0), return_counts=True)
    return Lengths(
        smallest=int(lengths.min()),
        median=float(np.median(lengths)),
        ninety_fifth=float(np.percentile(lengths, 95.0)),
        largest=int(lengths.max()),
        histogram={2 ** int(e): int(count) for e, count in zip(found, counts, strict=True)},
    )


def _tell_language(text: str) -> str:
    name, probability = identify_language(text)
    return name if probability >= MIN_LANGUAGE_PROBABILITY else UNSURE


def _count_personal_data(manifest: DatasetManifest) -> dict[str, int] | None:
    for step in manifest.steps:
        if step.step == PRIVACY_STEP:
            return {kind: found.count for kind, found in step.rules.items()}
    return None


def _choose_kinds(
    sample: Sequence[Document], languages: Sequence[str], survey: Survey, manifest: DatasetManifest
) -> tuple[str, list[str]]:
    """Return what tells documents apart on the maps, and the kind of each."""
    labels = [survey.read_label(document) for document in sample]
    if any(labels):
        name, kinds = "label", [label or "none" for label in labels]
    elif len(manifest.recipe.sources) > 1:
        uris = [source.uri for source in manifest.recipe.sources]
        name, kinds = "source", [uris[document.source] for document in sample]
    else:
        name, kinds = "language", list(languages[: len(sample)])
    common = {kind for kind, _ in Counter(kinds).most_common(MAX_KINDS)}
    return name, [kind if kind in common else OTHER_KINDS for kind in kinds]


def _round(point: NDArray[np.float64]) -> tuple[float, float]:
    return round(float(point[0]), 3), round(float(point[1]), 3)


def _shorten(text: str) -> str:
    return text if len(text) <= EXAMPLE_CHARACTERS else text[:EXAMPLE_CHARACTERS].rstrip() + " …"
