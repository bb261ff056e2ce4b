"""What is encoded of a corpus, and what writes each part of its split.

Below: `preparation` up to pieces, `packing`, `shards`. Above: `prepare`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmtrain_api.data import DataSpec
from llmtrain_api.recipe import PersonalData
from llmtrain_trainer.data_report.survey import OTHER_LABELS, Survey
from llmtrain_trainer.dataset.document_index import DocumentIndex
from llmtrain_trainer.dataset.leakage_record import LeakageRecord
from llmtrain_trainer.dataset.shards import (
    COUNT_TYPE,
    TRAIN_COUNTS,
    ShardWriter,
    SplitManifest,
    TokenizerRecord,
    count_tokens,
)
from llmtrain_trainer.dataset.step_record import StepRecord
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.augment import augment_pieces
from llmtrain_trainer.preparation.budget import TokenBudget, plan_budget
from llmtrain_trainer.preparation.corpus import Corpus
from llmtrain_trainer.preparation.encoding import Encoded, keeps_roles
from llmtrain_trainer.preparation.packing import RowPacker
from llmtrain_trainer.preparation.privacy import replace_personal_data
from llmtrain_trainer.preparation.splits import Part, Parts, Piece, split_documents
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.tokenizer.marks import count_bytes, show_text
from llmtrain_trainer.tokenizer.tokenization import TextEncoder

MEBIBYTE = 1024 * 1024

SHOWN_LABEL_CHARACTERS = 40

NO_PART = 255
"""Of documents that are not written: a weight or a budget left them out."""


def choose_parts(data: DataSpec) -> list[Part]:
    """Return the parts of the split that a dataset has."""
    tested = [] if data.split.test_fraction is None else [Part.TEST]
    return [Part.TRAIN, Part.VALIDATION, *tested]


def open_writer(
    data: DataSpec, part: Part, encoder: TextEncoder, output: Path
) -> ShardWriter | RowPacker:
    """Return what writes a part of the split, with all that the recipe keeps of it."""
    fields = [source.fields for source in data.sources if source.fields is not None]
    size = {}
    if data.shard_mebibytes is not None:
        size["shard_tokens"] = data.shard_mebibytes * MEBIBYTE // encoder.token_type.itemsize
    writer = ShardWriter(
        output,
        part.name.lower(),
        with_roles=keeps_roles(data),
        with_facts=any(f.label or f.labels or f.language or f.id for f in fields),
        **size,
    )
    if data.pack is None or part is not Part.TRAIN:
        return writer
    pack = data.pack
    return RowPacker(writer, pack.sequence_length, encoder.end_of_text, pack.overlong)


def write_splits(
    pieces: Iterable[tuple[Piece, Encoded]],
    writers: Mapping[Part, ShardWriter | RowPacker],
    index: DocumentIndex,
    budget: TokenBudget | None = None,
) -> tuple[dict[Part, SplitManifest], int]:
    """Write the shards of every part, of pieces with their tokens.

    Args:
        pieces: to be written, in their order.
        writers: of every part.
        index: hears of every document that is written.
        budget: what may be written for training; None: everything.

    Returns:
        The splits, and the number of words of the training split.

    Raises:
        DataError: where one of them is empty.
    """
    num_words = 0
    for piece, (tokens, roles) in pieces:
        if piece.part is Part.TRAIN:
            if budget is not None and not budget.admit(piece, piece.copies * len(tokens)):
                continue
            num_words += piece.copies * len(show_text(piece.text).split())
        document = piece.document
        index.add(document.digest, document.facts.id)
        facts = replace(document.facts, source=document.source, digest=document.digest)
        for _ in range(piece.copies):
            writers[piece.part].append(
                tokens,
                num_bytes=count_bytes(piece.text),
                roles=roles,
                facts=facts,
            )
    splits: dict[Part, SplitManifest] = {}
    for part, writer in writers.items():
        split = writer.finish()
        if split is None:
            raise DataError(
                f"data.split leaves no document for {part.name.lower()}",
                reason="SplitEmpty",
                next_step="hold out the ends of documents by data.split.method: tail, or add text",
            )
        splits[part] = split
    return splits, num_words


def describe_tokenizer(
    encoder: TextEncoder, train: SplitManifest, num_words: int, output: Path
) -> TokenizerRecord:
    """Write how often each token occurs in the training split; return what that says."""
    shards = [
        np.memmap(output / shard.tokens, dtype=encoder.token_type, mode="r")
        for shard in train.shards
    ]
    counts = count_tokens(shards, encoder.vocabulary_size)
    counts[encoder.end_of_text] -= train.num_padding
    (output / TRAIN_COUNTS).write_bytes(counts.astype(COUNT_TYPE).data)
    num_tokens = int(counts.sum() - counts[encoder.end_of_text])
    num_unknown = 0 if encoder.unknown is None else int(counts[encoder.unknown])
    return TokenizerRecord(
        tokens_per_word=num_tokens / max(num_words, 1),
        bytes_per_token=train.num_bytes / max(num_tokens, 1),
        unknown_rate=num_unknown / max(num_tokens, 1),
        tokens_used=int((counts > 0).sum()),
    )


def check_labels(survey: Survey) -> list[str]:
    """Return the labels that are trained on, sorted; none where they are names, not labels.

    Raises:
        DataError: where a label is only among what is held out.
    """
    known = survey.labels[Part.TRAIN]
    if OTHER_LABELS in known:
        return []
    for part in (Part.VALIDATION, Part.TEST):
        unseen = sorted(set(survey.labels[part]) - set(known))
        if unseen:
            raise DataError(
                f"{len(unseen)} of {len(survey.labels[part])} labels in {part.name.lower()}"
                f" occur in no training document; the first: {_redact(unseen[0])!r}",
                reason="LabelUnseen",
                next_step="divide by data.split.method: stratified, or add documents of the label",
            )
    return sorted(known)


def _redact(label: str) -> str:
    """Return a label as a message may hold it."""
    return replace_personal_data(label, list(PersonalData), Counter())[:SHOWN_LABEL_CHARACTERS]


def divide_corpus(corpus: Corpus, data: DataSpec, held_out: Parts | None) -> Iterator[Piece]:
    """Yield the documents of a corpus, divided over the parts of the split."""
    weights = [source.weight for source in data.sources]
    return split_documents(corpus.read(), data.split, weights, held_out)


def list_pieces(
    corpus: Corpus, data: DataSpec, held_out: Parts | None, tally: Tally
) -> Iterator[Piece]:
    """Yield what is to be encoded; count in `tally` what was changed for training."""
    pieces = divide_corpus(corpus, data, held_out)
    return pieces if data.augment is None else augment_pieces(pieces, data.augment, tally)


class Selection:
    """What is encoded of a corpus; can be gone through several times, of which the last counts."""

    def __init__(
        self, corpus: Corpus, data: DataSpec, held_out: Parts | None, budget: TokenBudget | None
    ) -> None:
        """Take what a budget leaves; None: everything."""
        self._corpus = corpus
        self._data = data
        self._held_out = held_out
        self._budget = budget
        self.survey = Survey(data)
        self._augmented = Tally("augment")
        self._parts = bytearray()
        """Of each document of the corpus: its part, or `NO_PART`."""

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces, and begin to count anew."""
        self.survey, self._augmented = Survey(self._data), Tally("augment")
        pieces = list_pieces(self._corpus, self._data, self._held_out, self._augmented)
        if self._budget is not None:
            pieces = self._budget.choose(pieces)
        return self._note_parts(self.survey.watch(pieces))

    def check_leakage(self) -> LeakageRecord | None:
        """Return how far held-out documents are known from training, once all was written."""
        return self._corpus.check_leakage(np.frombuffer(self._parts, dtype=np.uint8))

    def _note_parts(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        self._parts = bytearray([NO_PART]) * len(self._corpus)
        for piece in pieces:
            self._parts[piece.place] = piece.part
            yield piece

    def record_steps(self) -> list[StepRecord]:
        """Return what each step did, those of the corpus first; once all was written."""
        tallies = [self._augmented] if self._data.augment is not None else []
        tallies += [self._budget.tally] if self._budget is not None else []
        return [*self._corpus.record_steps(), *(tally.record() for tally in tallies)]


def make_budget(
    corpus: Corpus, data: DataSpec, held_out: Parts | None, encoder: TextEncoder
) -> TokenBudget | None:
    """Return the budget of the training split; None where there is none."""
    if data.reduce is None or data.reduce.tokens is None:
        return None
    pieces = list_pieces(corpus, data, held_out, Tally("augment"))

    def count(texts: list[str]) -> int:
        return sum(len(tokens) for tokens, _ in encoder.encode_marked(texts))

    return plan_budget(data.reduce.tokens, pieces, count)
