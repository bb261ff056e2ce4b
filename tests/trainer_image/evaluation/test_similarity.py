"""BERTScore against an example by hand and against its definition, on a real encoder."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import BertConfig, BertModel

from llmtrain_trainer.evaluation.similarity import (
    States,
    TextReader,
    compare_states,
    score_likenesses,
)
from testbed.tiny_judge import CONTEXT, make_tokenizer


def make_states(vectors: list[list[float]], weights: list[float]) -> States:
    return States(
        torch.tensor(vectors, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    )


def test_tokens_match_the_nearest_of_the_other_text() -> None:
    """By hand: cosines of (3,4), (0,2) with (1,0), (0,5), (1,1) are the rows below.

             (1,0)  (0,5)  (1,1)
    (3,4)     0.6    0.8    7/√50 = 0.989949    nearest 0.989949
    (0,2)     0      1      1/√2  = 0.707107    nearest 1
    nearest   0.6    1      0.989949
    """
    answer = make_states([[3, 4], [0, 2]], [1, 1])
    reference = make_states([[1, 0], [0, 5], [1, 1]], [1, 1, 1])
    precision, recall = (7 / math.sqrt(50) + 1) / 2, (0.6 + 1 + 7 / math.sqrt(50)) / 3
    found = compare_states(answer, reference)
    assert found.precision == pytest.approx(precision, abs=1e-12)
    assert found.recall == pytest.approx(recall, abs=1e-12)
    assert found.f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)
    assert found.cosine == pytest.approx((1.5 * 2 + 3 * 6) / math.hypot(1.5, 3) / math.hypot(2, 6))


def test_what_stands_around_a_text_is_matched_and_does_not_count() -> None:
    answer = make_states([[1, 0], [0, 1]], [0, 1])
    reference = make_states([[0, 1], [1, 1]], [0, 1])
    found = compare_states(answer, reference)
    assert (found.precision, found.recall) == pytest.approx((1.0, 1 / math.sqrt(2)))
    empty = compare_states(make_states([[1, 0]], [0]), reference)
    assert (empty.precision, empty.recall, empty.f1) == (0.0, 0.0, 0.0)


def test_an_encoder_gives_what_the_definition_says() -> None:
    """Equations of section 3 of Zhang et al. 2020, token by token, as `bert-score` 0.3.13 does.

    That package gives [CLS] and [SEP] no weight, and lets other tokens match them.
    """
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=CONTEXT,
    )
    model = BertModel(config).eval()
    pairs = [("it is red .", "so it is green"), ("then blue", "and then it is blue and red")]
    reader = TextReader(model, tokenizer, context=CONTEXT, batch_size=3)
    found = score_likenesses(reader, [a for a, _ in pairs], [[b] for _, b in pairs])
    for (text, reference), likeness in zip(pairs, found, strict=True):
        x, y = (
            torch.nn.functional.normalize(
                model(**tokenizer(own, return_tensors="pt")).last_hidden_state[0].double(), dim=1
            ).detach()
            for own in (text, reference)
        )
        precision = sum(max(float(t @ o) for o in y) for t in x[1:-1]) / (len(x) - 2)
        recall = sum(max(float(t @ o) for o in x) for t in y[1:-1]) / (len(y) - 2)
        expected = 2 * precision * recall / (precision + recall)
        assert likeness.f1 == pytest.approx(expected, abs=1e-6)
        assert likeness.precision == pytest.approx(precision, abs=1e-6)
        assert likeness.recall == pytest.approx(recall, abs=1e-6)
