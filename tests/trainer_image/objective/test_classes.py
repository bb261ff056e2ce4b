"""What is learned of labelled documents, against plain references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import CONFIG_MAPPING

from llmtrain_api.objective import ClassWeights, Objective
from llmtrain_trainer.dataset.loading import Provenance
from llmtrain_trainer.model.network import compute_logits, compute_token_losses, create_model
from llmtrain_trainer.objective.batch import Batch
from llmtrain_trainer.objective.classes import (
    LabelOfDocument,
    LabelsOfDocument,
    weigh_classes,
    weigh_decisions,
)
from llmtrain_trainer.tokenizer.marks import Role

CLASSES = ("bad", "fair", "good")
START, PADDING, END = 0, 1, 2
TEXTS: tuple[list[int], ...] = ([7, 8, 9, 10, END], [11, END], [12, 13, 14, END])
LABELS: tuple[str, ...] = ("good", "bad", "good")


def make_batch(rows: slice = slice(None), *, weights: Any = None) -> Batch:
    texts = TEXTS[rows]
    width = max(map(len, texts))
    sequences = np.array([text + [END] * (width - len(text)) for text in texts])
    is_text = np.arange(width) < np.array([[len(text)] for text in texts])
    provenance = Provenance(
        roles=np.where(is_text, Role.TEXT, Role.PADDING).astype(np.uint8),
        documents=np.where(is_text, 0, -1),
        labels=LABELS[rows],
    )
    objective = LabelOfDocument(CLASSES, start=START, padding=PADDING, weights=weights)
    numbers = np.arange(len(texts))
    return objective.make_batch(sequences, numbers, is_training=True, provenance=provenance)


def make_network(model_type: str) -> Any:
    kind: Any = CONFIG_MAPPING[model_type]
    configuration = kind(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=20,
        max_position_embeddings=16,
        pad_token_id=PADDING,
        bos_token_id=START,
        eos_token_id=END,
        num_labels=len(CLASSES),
    )
    return create_model(configuration, Objective.CLASSIFICATION, seed=0).eval()


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_padding_changes_nothing_and_the_loss_is_the_plain_one(model_type: str) -> None:
    model = make_network(model_type)
    batch = make_batch()
    logits = compute_logits(model, batch)
    for number, text in enumerate(TEXTS):
        alone = model(input_ids=torch.tensor([[START, *text]])).logits
        torch.testing.assert_close(logits[number], alone)
    targets = torch.tensor([CLASSES.index(label) for label in LABELS])
    expected = functional.cross_entropy(logits[:, 0], targets, reduction="none")
    torch.testing.assert_close(compute_token_losses(model, batch)[:, 0], expected)


def test_balanced_classes_weigh_alike() -> None:
    labels = ["good"] * 6 + ["bad"] * 3 + ["fair"]
    weights = weigh_classes(labels, CLASSES, ClassWeights.BALANCED)
    assert weights is not None
    sums = [weights[CLASSES.index(label)] * labels.count(label) for label in CLASSES]
    assert sums == pytest.approx([len(labels) / 3] * 3)
    assert weigh_classes(labels, CLASSES, ClassWeights.NONE) is None

    model = make_network("bert")
    plain, weighted = make_batch(), make_batch(weights=weights)
    torch.testing.assert_close(
        compute_token_losses(model, weighted),
        compute_token_losses(model, plain) * torch.from_numpy(weights)[plain.targets],
    )


LABEL_SETS: tuple[tuple[str, ...], ...] = (("bad", "good"), (), ("good",))
MARKS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def make_set_batch(*, weights: Any = None) -> Batch:
    width = max(map(len, TEXTS))
    sequences = np.array([text + [END] * (width - len(text)) for text in TEXTS])
    is_text = np.arange(width) < np.array([[len(text)] for text in TEXTS])
    provenance = Provenance(
        roles=np.where(is_text, Role.TEXT, Role.PADDING).astype(np.uint8),
        documents=np.where(is_text, 0, -1),
        label_sets=LABEL_SETS,
    )
    objective = LabelsOfDocument(CLASSES, start=START, padding=PADDING, weights=weights)
    assert objective.fixed_targets == len(CLASSES)
    numbers = np.arange(len(TEXTS))
    return objective.make_batch(sequences, numbers, is_training=True, provenance=provenance)


def test_the_loss_of_label_sets_is_that_of_transformers() -> None:
    model = make_network("bert")
    model.config.problem_type = "multi_label_classification"
    batch = make_set_batch()
    losses = compute_token_losses(model, batch)
    assert losses.shape == batch.targets.shape == MARKS.shape
    torch.testing.assert_close(losses.mean(), model(**batch.inputs, labels=MARKS).loss)
    smoothed = compute_token_losses(model, batch, label_smoothing=0.2)
    logits = compute_logits(model, batch)[:, 0]
    expected = functional.binary_cross_entropy_with_logits(
        logits, MARKS * 0.8 + 0.1, reduction="none"
    )
    torch.testing.assert_close(smoothed, expected)


def test_balanced_decisions_weigh_alike() -> None:
    weights = weigh_decisions(LABEL_SETS, CLASSES, ClassWeights.BALANCED)
    assert weights is not None
    # "bad" is one of three documents' labels, "good" of two, "fair" of none.
    np.testing.assert_allclose(weights, [[1.5, 1.5, 0.75], [0.75, 0.5, 1.5]])
    assert weigh_decisions(LABEL_SETS, CLASSES, ClassWeights.NONE) is None
    model = make_network("bert")
    factors = torch.from_numpy(np.where(MARKS == 1, weights[0], weights[1]))
    torch.testing.assert_close(
        compute_token_losses(model, make_set_batch(weights=weights)),
        compute_token_losses(model, make_set_batch()) * factors,
    )
