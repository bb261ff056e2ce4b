"""Corrupted text: what is cut out, what is left, and that nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from llmtrain_api.objective import SpanCorruptionSpec, count_spans
from llmtrain_trainer.objective.draws import Draws
from llmtrain_trainer.objective.spans import CutSpans, divide

END_OF_TEXT, START = 500, 501
SENTINELS = list(range(600, 700))
LENGTH, COUNT = 128, 50


def make(spec: SpanCorruptionSpec | None = None, length: int = LENGTH) -> CutSpans:
    return CutSpans(
        spec or SpanCorruptionSpec(),
        seed=3,
        sequence_length=length,
        sentinels=SENTINELS,
        end_of_text=END_OF_TEXT,
        start=START,
    )


def make_sequences(length: int = LENGTH) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(500, size=(COUNT, length + 1))


def mend(read: list[int], written: list[int]) -> list[int]:
    """Put what was written back into its places."""
    spans: dict[int, list[int]] = {}
    for token in written[:-1]:
        if token in SENTINELS:
            spans[token] = []
            newest = spans[token]
        else:
            newest.append(token)
    return [each for token in read[:-1] for each in spans.get(token, [token])]


@pytest.mark.parametrize(
    ("length", "spec"),
    [
        (LENGTH, SpanCorruptionSpec()),
        (8, SpanCorruptionSpec()),
        (9, SpanCorruptionSpec(share=0.9, mean_span_tokens=1.0)),
        (100, SpanCorruptionSpec(share=0.5, mean_span_tokens=10.0)),
    ],
)
def test_the_text_can_be_put_together_again(length: int, spec: SpanCorruptionSpec) -> None:
    sequences = make_sequences(length)
    batch = make(spec, length).make_batch(sequences, np.arange(COUNT), is_training=True)
    counts = count_spans(length, spec)
    inputs, targets = batch.inputs["input_ids"].tolist(), batch.targets.tolist()
    assert {len(row) for row in inputs} == {counts.inputs}
    assert {len(row) for row in targets} == {counts.targets}
    for row, read, written in zip(sequences, inputs, targets, strict=True):
        assert read[-1] == written[-1] == END_OF_TEXT
        assert [t for t in read if t in SENTINELS] == SENTINELS[: counts.spans]
        assert written[0] == SENTINELS[0]
        assert mend(read, written) == row[:-1].tolist()


def test_the_decoder_reads_what_it_wrote_before() -> None:
    batch = make().make_batch(make_sequences(), np.arange(COUNT), is_training=True)
    read = batch.inputs["decoder_input_ids"]
    assert (read[:, 0] == START).all()
    assert (read[:, 1:] == batch.targets[:, :-1]).all()


def test_counts_of_the_paper() -> None:
    """512 tokens, of which 15 % are cut out in spans of 3."""
    counts = count_spans(512, SpanCorruptionSpec())
    assert (counts.cut, counts.spans) == (77, 26)
    assert counts.inputs + counts.targets == 512 + 2 * 26 + 2


def test_spans_are_as_long_as_asked_for_and_anywhere() -> None:
    objective = make()
    cut = [objective.choose(LENGTH, Draws(0, n, is_training=True)) for n in range(400)]
    assert all(each.sum() == objective.counts.cut for each in cut)
    shares = np.mean(cut, axis=0)
    assert shares[0] == 0.0
    assert shares[2:].min() > 0.05


def test_every_division_occurs() -> None:
    lengths = {tuple(divide(5, 3, Draws(0, n, is_training=True))) for n in range(200)}
    assert lengths == {(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)}


def test_a_sample_depends_on_its_number_alone() -> None:
    objective, sequences, numbers = make(), make_sequences(), np.arange(COUNT)
    whole = objective.make_batch(sequences, numbers, is_training=True)
    part = objective.make_batch(sequences[7:9], numbers[7:9], is_training=True)
    assert (whole.targets[7:9] == part.targets).all()
    other = objective.make_batch(sequences[7:9], numbers[7:9] + 100, is_training=True)
    assert (other.targets != part.targets).any()
