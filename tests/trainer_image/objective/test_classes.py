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
from llmtrain_trainer.objective.classes import LabelOfDocument, weigh_classes
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
