"""Documents of one sequence do not see each other, and what is learned of them is as asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import CONFIG_MAPPING

from llmtrain_api.network import ModelSpec
from llmtrain_api.objective import LossOn, MaskingSpec, Objective, SpanCorruptionSpec
from llmtrain_trainer.dataset.loading import NO_DOCUMENT, Provenance
from llmtrain_trainer.model.network import (
    ISOLATING,
    build_model,
    compute_logits,
    compute_token_losses,
    create_model,
)
from llmtrain_trainer.objective.batch import NOT_A_TARGET, Batch
from llmtrain_trainer.objective.documents import NextInDocument, count_positions
from llmtrain_trainer.objective.masking import HiddenTokens
from llmtrain_trainer.objective.spans import CutSpansOfDocuments
from llmtrain_trainer.tokenizer.marks import Role

VOCABULARY = 50
DOCUMENTS = np.array([[4] * 5 + [5] * 4 + [NO_DOCUMENT] * 3, [5] * 2 + [6] * 10])
ROLES = np.array(
    [
        [Role.TEMPLATE, Role.USER, Role.TEMPLATE, Role.ASSISTANT, Role.ASSISTANT]
        + [Role.TEMPLATE, Role.ASSISTANT, Role.ASSISTANT, Role.TEMPLATE]
        + [Role.PADDING] * 3,
        [Role.ASSISTANT, Role.TEMPLATE] + [Role.TEXT] * 10,
    ],
    dtype=np.uint8,
)
PROVENANCE = Provenance(roles=ROLES, documents=DOCUMENTS)


def make_sequences() -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(5, VOCABULARY, size=DOCUMENTS.shape)


def make_network(model_type: str) -> Any:
    kind: Any = CONFIG_MAPPING[model_type]
    configuration = kind(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=VOCABULARY,
        intermediate_size=32,
        num_key_value_heads=1,
        max_position_embeddings=32,
        head_dim=8,
        **({"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0} if model_type == "gpt2" else {}),
    )
    objective = Objective.MASKED if model_type == "bert" else Objective.CAUSAL
    return create_model(configuration, objective, seed=0).eval()


def make_batch(model_type: str, sequences: NDArray[np.int64]) -> Batch:
    numbers = np.arange(len(sequences))
    if model_type == "bert":
        hidden = HiddenTokens(
            MaskingSpec(),
            seed=0,
            mask=0,
            special={0, 1},
            vocabulary_size=VOCABULARY,
            words=None,
            isolates=True,
        )
        return hidden.make_batch(sequences, numbers, is_training=True, provenance=PROVENANCE)
    return NextInDocument(LossOn.ALL, isolates=True).make_batch(
        sequences, numbers, is_training=True, provenance=PROVENANCE
    )


@pytest.mark.parametrize("model_type", sorted(ISOLATING))
def test_a_changed_document_leaves_the_others_bit_equal(model_type: str) -> None:
    model = make_network(model_type)
    sequences = make_sequences()
    changed = sequences.copy()
    is_changed = DOCUMENTS == 4
    changed[is_changed] = np.where(changed[is_changed] > 20, 7, 30)
    first, second = (
        compute_logits(model, make_batch(model_type, each)).detach().numpy()
        for each in (sequences, changed)
    )
    others = ~is_changed[:, :-1]
    assert np.array_equal(first[others], second[others])
    assert not np.array_equal(first[~others], second[~others])


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "llmtrain_lstm"])
@pytest.mark.parametrize("loss_on", list(LossOn))
def test_the_loss_is_that_of_each_document_alone(model_type: str, loss_on: LossOn) -> None:
    model = make_network(model_type)
    sequences = make_sequences()
    batch = NextInDocument(loss_on, isolates=True).make_batch(
        sequences, np.arange(2), is_training=True, provenance=PROVENANCE
    )
    losses = compute_token_losses(model, batch)

    learned = {Role.ASSISTANT, Role.TEXT} if loss_on is LossOn.ASSISTANT else set(Role)
    expected, count = 0.0, 0
    for tokens, roles, documents in zip(sequences, ROLES, DOCUMENTS, strict=True):
        for number in set(documents.tolist()) - {NO_DOCUMENT}:
            part = torch.from_numpy(tokens[documents == number])
            logits = model(part[None]).logits[0, :-1]
            each = functional.cross_entropy(logits, part[1:], reduction="none")
            is_target = [role in learned for role in roles[documents == number][1:]]
            expected += float(each[is_target].detach().sum())
            count += sum(is_target)
    assert int(batch.count_targets().sum()) == count
    assert float(losses.detach().sum()) == pytest.approx(expected, rel=1e-6)


def test_only_turns_of_the_assistant_and_texts_are_targets() -> None:
    sequences = make_sequences()
    objective = NextInDocument(LossOn.ASSISTANT, isolates=False)
    batch = objective.make_batch(sequences, np.arange(2), is_training=True, provenance=PROVENANCE)
    is_target = (batch.targets != NOT_A_TARGET).int().tolist()
    assert is_target == [
        [0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert batch.documents is None


def test_positions_count_from_the_beginning_of_each_document() -> None:
    assert count_positions(DOCUMENTS).tolist() == [
        [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2],
        [0, 1, *range(10)],
    ]


def make_spans(sequences: NDArray[np.int64]) -> Batch:
    objective = CutSpansOfDocuments(
        SpanCorruptionSpec(share=0.4, mean_span_tokens=1.5),
        seed=0,
        sequence_length=DOCUMENTS.shape[1] - 1,
        sentinels=range(VOCABULARY, VOCABULARY + 10),
        end_of_text=1,
        start=0,
    )
    return objective.make_batch(sequences, np.arange(2), is_training=True, provenance=PROVENANCE)


def test_t5_reads_each_document_by_itself() -> None:
    spec = ModelSpec(architecture="t5", layers=1, heads=2, hidden_size=32)
    model: Any = build_model(
        spec, vocabulary_size=VOCABULARY + 10, sequence_length=16, end_of_text=1, seed=0, padding=0
    ).eval()
    sequences = make_sequences()
    batch = make_spans(sequences)
    assert batch.rows is not None
    assert batch.rows.tolist() == [0, 0, 1, 1]  # padding is no document
    losses = compute_token_losses(model, batch).detach()

    changed = sequences.copy()
    changed[DOCUMENTS == 4] = np.where(changed[DOCUMENTS == 4] > 20, 7, 30)
    others = compute_token_losses(model, make_spans(changed)).detach()
    assert torch.equal(losses[1:], others[1:])
    assert not torch.equal(losses[0], others[0])

    for row, expected in enumerate(losses):
        read = batch.inputs["attention_mask"][row].bool()
        is_target = batch.targets[row] != NOT_A_TARGET
        targets = batch.targets[row][is_target][None]
        alone = model(input_ids=batch.inputs["input_ids"][row][read][None], labels=targets)
        assert float(alone.loss.detach()) == pytest.approx(
            float(expected[is_target].mean()), rel=1e-5
        )
        restored = restore_spans(batch.inputs["input_ids"][row][read], targets[0])
        assert restored in [sequences[0, :5].tolist(), sequences[0, 5:9].tolist(),
                            sequences[1, :2].tolist(), sequences[1, 2:11].tolist()]  # fmt: skip


def restore_spans(read: torch.Tensor, written: torch.Tensor) -> list[int]:
    """Put what was cut out back in its place."""
    spans: dict[int, list[int]] = {}
    for token in written.tolist()[:-1]:
        if token >= VOCABULARY:
            spans[token] = last = []
        else:
            last.append(token)
    return [part for token in read.tolist()[:-1] for part in spans.get(token, [token])]
