"""The report of a dataset, from what was seen to the two objects in the store.

Below: `survey`, `sample`, `vocabulary`, `page`. Above: `prepare`, before it commits.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.data_report.record import (
    REPORT,
    REPORT_PAGE,
    DataReport,
    Lengths,
    PartRecord,
    SourceRecord,
)
from llmtrain_trainer.data_report.sample import SampleFindings
from llmtrain_trainer.data_report.survey import Survey
from llmtrain_trainer.data_report.vocabulary import describe_vocabulary
from llmtrain_trainer.dataset.shards import OFFSET_TYPE, DatasetManifest, SplitManifest
from llmtrain_trainer.preparation.splits import Part
from llmtrain_trainer.store import Store

logger = logging.getLogger(__name__)

DUPLICATE_STEPS = ("exact duplicates", "near duplicates", "contamination", "paragraphs")
PRIVACY_STEP = "privacy"


def publish_report(
    store: Store,
    survey: Survey,
    manifest: DatasetManifest,
    folder: Path,
    describe: Callable[[], SampleFindings],
) -> None:
    """Make the report of a dataset and write it beside it.

    A report that cannot be made is a line in the log: it is not worth the hours of a dataset.

    Args:
        store: rooted at the dataset.
        survey: what was seen on the way to the tokenizer.
        manifest: of the dataset, not yet committed.
        folder: its files.
        describe: returns what a sample of it is like.

    Raises:
        StoreError: where the store fails.
    """
    try:
        from llmtrain_trainer.data_report.page import render_page  # seconds that a reuse saves

        record = make_report(survey, manifest, folder, describe())
        page = render_page(record, manifest)
    except Exception:
        logger.exception("no report of the dataset %s", manifest.fingerprint)
        return
    text = json.dumps(record.dump(), indent=1, ensure_ascii=False)
    store.write_bytes(REPORT, text.encode())
    store.write_bytes(REPORT_PAGE, page.encode())


def make_report(
    survey: Survey, manifest: DatasetManifest, folder: Path, findings: SampleFindings
) -> DataReport:
    """Return what a dataset is like; see `publish_report`."""
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
        sample_documents=findings.sample_documents,
        languages=findings.languages,
        groups=findings.groups,
        vocabulary=describe_vocabulary(manifest, folder),
        points_show=findings.points_show,
        points=findings.points,
        examples=findings.examples,
    )


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


def _count_personal_data(manifest: DatasetManifest) -> dict[str, int] | None:
    for step in manifest.steps:
        if step.step == PRIVACY_STEP:
            return {kind: found.count for kind, found in step.rules.items()}
    return None
