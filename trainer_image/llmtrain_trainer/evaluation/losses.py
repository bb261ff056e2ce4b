"""What a loss on held-out text comes to, and what a model that knows frequencies only would have.

Below: `dataset`, `objective`. Above: `reporting`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from llmtrain_api.objective import Objective, count_spans
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Dataset, Split
from llmtrain_trainer.objective.classes import count_classes, mark_labels
from llmtrain_trainer.objective.documents import LEARNED
from llmtrain_trainer.tokenizer.marks import Role


def describe_loss(loss: float, text: Split | None, *, prefix: str = "") -> dict[str, float]:
    """Return a loss and what follows from it, as metrics by name.

    Args:
        loss: nats for each target.
        text: whose tokens are all targets; None where some are not.
        prefix: of the names.
    """
    values = {"loss": loss, "perplexity": math.exp(loss)}
    if text is not None:
        values["bits_per_byte"] = convert_to_bits_per_byte(
            loss, num_tokens=text.num_tokens, num_bytes=text.num_bytes
        )
    return {prefix + name: value for name, value in values.items()}


def convert_to_bits_per_byte(loss: float, *, num_tokens: int, num_bytes: int) -> float:
    """Turn nats per token into bits per byte of UTF-8, comparable over tokenizers."""
    return loss / math.log(2.0) * num_tokens / num_bytes


def compute_baseline_loss(config: RunConfig, dataset: Dataset, held_out: Split) -> float:
    """Return the held-out loss of a model that knows only how common tokens, or labels, are."""
    if config.objective is Objective.CLASSIFICATION and config.data.has_label_sets:
        return compute_base_rate_loss(
            mark_labels(dataset.train.label_sets, dataset.labels),
            mark_labels(held_out.label_sets, dataset.labels),
        )
    return count_text_share(config) * compute_unigram_loss(
        *count_targets(config, dataset, held_out)
    )


def compute_unigram_loss(
    train_counts: NDArray[np.int64], validation_counts: NDArray[np.int64]
) -> float:
    """Return the held-out loss of a model that knows token frequencies only, nats per token.

    Args:
        train_counts: occurrences of each token in the training split [vocabulary].
        validation_counts: the same of the held-out split.

    Frequencies are smoothed by one (Laplace), so that a token never seen costs a finite loss.
    """
    probabilities = (train_counts + 1.0) / (train_counts.sum() + len(train_counts))
    return float(-(validation_counts @ np.log(probabilities)) / validation_counts.sum())


def compute_base_rate_loss(
    train_marks: NDArray[np.int64], held_out_marks: NDArray[np.int64]
) -> float:
    """Return the held-out loss of a model that knows only how common each label is.

    Args:
        train_marks: 1 where a training document has a label [documents, labels].
        held_out_marks: the same of the held-out split.

    Returns:
        Nats for each decision; shares are smoothed by one, as those of tokens.
    """
    shares = (train_marks.sum(axis=0) + 1.0) / (len(train_marks) + 2.0)
    losses = np.where(held_out_marks == 1, -np.log(shares), -np.log1p(-shares))
    return float(losses.mean())


def count_text_share(config: RunConfig) -> float:
    """Return the share of the targets that are text.

    The others are the tokens that stand for spans, in their order, and the end: a baseline gets
    them for nothing.
    """
    if config.objective is not Objective.SPAN_CORRUPTION:
        return 1.0
    counts = count_spans(config.training.sequence_length, config.training.span_corruption)
    return counts.cut / counts.targets


def count_targets(
    config: RunConfig, dataset: Dataset, held_out: Split
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how often each token, or class, is to be learned, and to be predicted."""
    size = dataset.vocabulary_size
    if config.objective is Objective.CLASSIFICATION:
        return (
            count_classes(dataset.train.labels, dataset.labels),
            count_classes(held_out.labels, dataset.labels),
        )
    if config.objective is Objective.SEQUENCE_TO_SEQUENCE:
        answers = [Role.ASSISTANT]
        return dataset.train.count_tokens(size, answers), held_out.count_tokens(size, answers)
    if config.objective is not Objective.CAUSAL or not dataset.train.has_roles:
        return dataset.unigram_counts, held_out.count_tokens(size)
    learned = LEARNED[config.loss_on]
    return dataset.train.count_tokens(size, learned), held_out.count_tokens(size, learned)
