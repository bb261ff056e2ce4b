"""What is encoded of a corpus, and what writes each part of its split.

Below: `preparation` up to pieces, `packing`, `shards`. Above: `prepare`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from llmtrain_api.data import DataSpec
from llmtrain_api.recipe import PersonalData
from llmtrain_trainer.data_report.survey import OTHER_LABELS, Survey
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.packing import RowPacker
from llmtrain_trainer.preparation.augment import augment_pieces
from llmtrain_trainer.preparation.budget import TokenBudget, plan_budget
from llmtrain_trainer.preparation.corpus import Corpus
from llmtrain_trainer.preparation.privacy import replace_personal_data
from llmtrain_trainer.preparation.splits import Part, Parts, Piece, split_documents
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.shards import RoleArray, ShardWriter, TokenArray
from llmtrain_trainer.tokenization import TextEncoder, list_special_tokens

MEBIBYTE = 1024 * 1024

SHOWN_LABEL_CHARACTERS = 40


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
        with_roles=data.pack is not None or bool(list_special_tokens(data)),
        with_facts=any(f.label or f.language or f.id for f in fields),
        **size,
    )
    if data.pack is None or part is not Part.TRAIN:
        return writer
    pack = data.pack
    return RowPacker(writer, pack.sequence_length, encoder.end_of_text, pack.overlong)


def encode_texts(
    encoder: TextEncoder, texts: list[str], *, with_roles: bool
) -> Iterator[tuple[TokenArray, RoleArray | None]]:
    """Yield the tokens of each text, and their roles where they are kept."""
    if with_roles:
        yield from encoder.encode_marked(texts)
    else:
        yield from ((tokens, None) for tokens in encoder.encode(texts))


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
                f"{len(unseen)} labels of {part.name.lower()} are not trained on; the first:"
                f" {_redact(unseen[0])!r}",
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
