"""Overlaps with the training text are found exactly, whatever the chunks and shards."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from llmtrain_trainer.dataset.loading import Split
from llmtrain_trainer.dataset.shards import ShardWriter
from llmtrain_trainer.evaluation.scoring import describe_overlaps
from llmtrain_trainer.evaluation.verbatim import SHORTEST, find_longest_overlaps

END_OF_TEXT = 9


def write_split(folder: Path, documents: list[list[int]]) -> Split:
    writer = ShardWriter(folder, "train", shard_tokens=100)
    for document in documents:
        writer.append(np.array([*document, END_OF_TEXT], dtype="<u2"), num_bytes=len(document))
    manifest = writer.finish()
    assert manifest is not None
    return Split(folder, manifest, "<u2", END_OF_TEXT)


def find_by_trying(answer: list[int], documents: list[list[int]]) -> int:
    """The longest overlap, by all substrings."""
    texts = ["".join(map(str, document)) for document in documents]
    told = "".join(map(str, answer))
    lengths = [
        end - start
        for start in range(len(told))
        for end in range(start + SHORTEST, len(told) + 1)
        if any(told[start:end] in text for text in texts)
    ]
    return max(lengths, default=0)


@pytest.mark.parametrize("chunk_tokens", [SHORTEST, 37, 10_000])
def test_the_longest_overlap_is_that_of_all_substrings(tmp_path: Path, chunk_tokens: int) -> None:
    rng = Random(chunk_tokens)
    documents = [[rng.randrange(3) for _ in range(rng.randrange(60))] for _ in range(20)]
    answers = [
        *([rng.randrange(3) for _ in range(24)] for _ in range(20)),
        [*documents[3][5:30], 7, *documents[4][:20]],
        [0] * 30,  # one run that stands at many places of itself
        documents[7],
        [],
        [1, 2],
    ]
    split = write_split(tmp_path, documents)
    found = find_longest_overlaps(answers, split, chunk_tokens=chunk_tokens)
    assert found == [find_by_trying(answer, documents) for answer in answers]
    assert max(found) > SHORTEST


def test_a_long_overlap_is_memorised() -> None:
    assert describe_overlaps([0, 49, 50, 120]) == {"memorized_rate": 0.5, "longest_overlap": 120.0}
    assert describe_overlaps([]) == {}
