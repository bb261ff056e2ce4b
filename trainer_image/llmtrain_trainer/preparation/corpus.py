"""The documents to train on: the steps of the recipe up to tokens, from top to bottom.

Below: every step. Above: `prepare` makes a dataset of what is left.

Two passes: the first, which is that of `reading`, reads and refines each document for itself; its
parts are spooled here in order. What is left out because of other documents is decided over all
that was spooled, and the second pass skips it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from llmtrain_api.data import DataSpec
from llmtrain_api.sources import Invalid
from llmtrain_trainer.dataset.leakage_record import LeakageRecord
from llmtrain_trainer.dataset.shards import SourceObject
from llmtrain_trainer.dataset.step_record import StepRecord
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.collect import Collection, check_reading
from llmtrain_trainer.preparation.contamination import Contamination, drop_contaminated
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.duplicates import drop_exact_duplicates, drop_near_duplicates
from llmtrain_trainer.preparation.leakage import find_leaks
from llmtrain_trainer.preparation.minhash import LEAKAGE_SCHEME, SCHEMES, Scheme, checks_leakage
from llmtrain_trainer.preparation.paragraphs import RepeatedParagraphs
from llmtrain_trainer.preparation.portions import shift_place, take_whole
from llmtrain_trainer.preparation.prune import drop_familiar, drop_unusual
from llmtrain_trainer.preparation.reading import (
    Part,
    iterate_documents,
    iterate_rejected,
    read_record,
)
from llmtrain_trainer.preparation.reduce import drop_surplus
from llmtrain_trainer.preparation.refine import choose_steps, divide_documents, refine_documents
from llmtrain_trainer.preparation.sources import Inputs, SourceFile
from llmtrain_trainer.preparation.splits import Part as SplitPart
from llmtrain_trainer.preparation.splits import Parts
from llmtrain_trainer.preparation.spool import Spool
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.preparation.words import Hashes, mix_bits

Report = Callable[[], None]
Prune = Callable[[Spool, NDArray[np.int64]], tuple[NDArray[np.int64], Tally]]
"""Returns the documents that stay, and counts."""


class Corpus:
    """Documents on the local disk."""

    def __init__(
        self,
        spool: Spool,
        numbers: NDArray[np.int64],
        paragraphs: RepeatedParagraphs | None,
        tallies: list[Tally],
        sources: list[SourceObject],
        leakage_keys: Hashes | None = None,
    ) -> None:
        """Take the documents of these `numbers`, without repeated `paragraphs`.

        `leakage_keys`, of all spooled documents, are there where leakage is looked for.
        """
        self._spool = spool
        self._numbers = numbers
        self._paragraphs = paragraphs
        self._tallies = tallies
        self._paragraph_tally = Tally("paragraphs")
        self._leakage_keys = leakage_keys
        self.sources = sources

    def read(self) -> Iterator[Document]:
        """Yield every document, in the order of the sources."""
        documents = self._spool.read(self._numbers)
        if self._paragraphs is None:
            yield from documents
        else:
            # It counts the newest reading.
            self._paragraph_tally = Tally("paragraphs")
            yield from self._paragraphs.drop(documents, self._paragraph_tally)

    def sample(self, count: int) -> list[Document]:
        """Return the documents with the lowest hashes, the lowest first; `count` at most.

        They are the same ones in whatever order documents come. Repeated paragraphs are in them.
        """
        numbers = self._numbers
        draws = self._spool.digests[numbers].view(np.uint64).reshape(-1, 2)
        # Mixed anew: by the first half alone the lowest ones would be those held out.
        order = np.argsort(mix_bits(draws[:, 0] ^ mix_bits(draws[:, 1])), kind="stable")
        return list(self._spool.read(numbers[order[:count]].tolist()))

    def count_characters(self) -> int:
        """Return how long the documents are together, repeated paragraphs included."""
        return int(self._spool.lengths[self._numbers].sum())

    def __len__(self) -> int:
        """Return how many documents `read` yields at most."""
        return len(self._numbers)

    def check_leakage(self, parts: Parts) -> LeakageRecord | None:
        """Return how far held-out documents are known from training; None: it is not looked for.

        Args:
            parts: of each document of `read`, or another number where it is in none [documents].
        """
        if self._leakage_keys is None:
            return None
        trained = self._numbers[parts == SplitPart.TRAIN]
        held_out = self._numbers[np.isin(parts, (SplitPart.VALIDATION, SplitPart.TEST))]
        return find_leaks(self._spool, self._leakage_keys, trained, held_out)

    def record_steps(self) -> list[StepRecord]:
        """Return what each step did; the last ones once the documents were read."""
        last = [] if self._paragraphs is None else [self._paragraph_tally]
        return [tally.record() for tally in (*self._tallies, *last)]


@contextmanager
def open_corpus(
    data: DataSpec,
    inputs: Inputs,
    scratch: Path,
    rejected: Path,
    report: Report,
    parts: Iterable[Part],
) -> Iterator[Corpus]:
    """Put the parts of the first pass together, and give the documents that the recipe leaves.

    Args:
        data: the recipe.
        inputs: the objects that it reads.
        scratch: folder for what is spooled, until the corpus is closed.
        rejected: file that lists records that cannot be read.
        report: called now and then, to say that work goes on.
        parts: what the first pass made of the documents, in their order; each is read before the
            next one is asked for.

    Raises:
        DataError: where the sources cannot be used, or nothing is left.
        StoreError: where the store fails.
    """
    scheme = SCHEMES.get(data.deduplicate.near)
    with closing(Spool(scratch / "documents")) as spool:
        keys_file = scratch / "keys"
        tallies, sources = spool_parts(spool, keys_file, rejected, parts, report)
        check_reading(inputs.documents, data.invalid, tallies[0])
        _require_documents(len(spool), tallies)

        numbers = np.arange(len(spool))
        if data.deduplicate.exact:
            numbers, tally = drop_exact_duplicates(spool)
            tallies.append(tally)
        if scheme is not None:
            report()
            keys = map_keys(keys_file, scheme)
            numbers, tally = drop_near_duplicates(spool, numbers, keys, scheme)
            tallies.append(tally)
        if inputs.against:
            report()
            known = read_contamination(data, inputs.against, scratch, report)
            numbers, tally = drop_contaminated(spool, numbers, known)
            tallies.append(tally)
            _require_documents(len(numbers), tallies)
        caps = [source.max_characters for source in data.sources]
        if any(cap is not None for cap in caps):
            numbers, tally = drop_surplus(spool, numbers, caps)
            tallies.append(tally)
            _require_documents(len(numbers), tallies)
        for prune in choose_pruning(data):
            report()
            numbers, tally = prune(spool, numbers)
            tallies.append(tally)
            _require_documents(len(numbers), tallies)
        paragraphs = None
        if data.deduplicate.paragraphs:
            report()
            shortest = data.deduplicate.paragraph_characters
            paragraphs = RepeatedParagraphs(spool.read(numbers), shortest)
        leakage_keys = map_keys(keys_file, LEAKAGE_SCHEME) if checks_leakage(data) else None
        yield Corpus(spool, numbers, paragraphs, tallies, sources, leakage_keys)


def choose_pruning(data: DataSpec) -> list[Prune]:
    """Return what leaves documents out of too much text."""
    reduce = data.reduce
    if reduce is None:
        return []
    steps: list[Prune] = []
    if reduce.typical_share is not None:
        steps.append(partial(drop_unusual, share=reduce.typical_share))
    if reduce.min_novelty is not None:
        steps.append(partial(drop_familiar, min_novelty=reduce.min_novelty))
    return steps


def spool_parts(
    spool: Spool, keys_file: Path, rejected: Path, parts: Iterable[Part], report: Report
) -> tuple[list[Tally], list[SourceObject]]:
    """Spool the documents of the parts, and their keys; list what was left out in `rejected`.

    Returns:
        Tallies of reading and of each step for single documents; what was read.
    """
    tallies: list[Tally] = []
    sources: list[SourceObject] = []
    lines = 0
    """Of the file at hand, before the part at hand."""

    with keys_file.open("wb") as keys:
        for part in parts:
            report()
            record = read_record(part)
            sources.extend(record.sources)
            lines = lines if record.goes_on else 0
            of_part = [Tally.restore(step) for step in record.steps]
            for tally in of_part:
                tally.shift_places(partial(shift_place, lines=lines))
            tallies = tallies or [Tally(tally.step) for tally in of_part]
            for tally, addend in zip(tallies, of_part, strict=True):
                tally.add(addend)
            for document in iterate_documents(part, lines):
                spool.append(document)
            append_file(part.keys, keys)
            if part.rejected.exists():
                with rejected.open("a", encoding="utf-8") as file:
                    file.writelines(iterate_rejected(part, lines))
            lines += record.num_lines
    return tallies, sources


def append_file(path: Path, target: BinaryIO) -> None:
    """Copy what a file holds to the end of another one."""
    with path.open("rb") as file:
        shutil.copyfileobj(file, target)


def map_keys(path: Path, scheme: Scheme) -> Hashes:
    """Return the keys that `spool_parts` wrote [documents, bands], without reading them yet."""
    return np.memmap(path, dtype=np.uint64, mode="r").reshape(-1, scheme.bands)


def read_contamination(
    data: DataSpec, against: list[SourceFile], scratch: Path, report: Report
) -> Contamination:
    """Read the sets to evaluate on, normalised as the documents are.

    Raises:
        DataError: where one of them cannot be used.
        StoreError: where the store fails.
    """
    folder = scratch / "against"
    folder.mkdir()
    portions = [take_whole(file) for file in against]
    sets = Collection(portions, Invalid(), data.privacy, folder, folder / "rejected")
    normalize = choose_steps(data)[:1]
    batches = divide_documents(sets.read(report))
    known = Contamination(
        document for batch in batches for document in refine_documents(batch, normalize).documents
    )
    check_reading(against, Invalid(), sets.tally)
    return known


def _require_documents(count: int, tallies: list[Tally]) -> None:
    if count == 0:
        losses = [
            tally.tell_loss() for tally in tallies if tally.documents_out < tally.documents_in
        ]
        raise DataError(
            f"spec.data leaves out every document: {'; '.join(losses)}",
            reason="DatasetEmpty",
            next_step="loosen these steps, or look at the sources",
        )
