"""How probable a causal model holds given continuations of a prompt.

Below: `batching`, the exported model and its tokenizer. Above: `asking`; `suites` for what was
chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_trainer.evaluation.answers import Answer
from llmtrain_trainer.evaluation.batching import divide_work, group_by_length
from llmtrain_trainer.evaluation.suite_data import Choice
from llmtrain_trainer.parallel import Ranks


def score_continuations(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    ranks: Ranks,
    pairs: Sequence[tuple[str, str]],
    *,
    key: str,
    context: int,
    end_of_text: int,
    batch_size: int,
) -> list[float]:
    """Return ln p of each continuation after its prompt, in nats, on every rank.

    Args:
        model: a causal one.
        tokenizer: its own.
        ranks: that share the work; each has the model.
        pairs: prompts, and a continuation of each.
        key: under which the ranks tell each other; new each time.
        context: tokens that the model reads at a time; a longer prompt loses its beginning.
        end_of_text: stands before a prompt without tokens.
        batch_size: pairs at a time.
    """
    encoded = [encode_pair(tokenizer, *pair, end_of_text=end_of_text) for pair in pairs]
    lengths = [len(prompt) + len(continuation) for prompt, continuation in encoded]

    def score(batch: Sequence[int]) -> list[float]:
        sequences = [(encoded[i][0] + encoded[i][1])[-(context + 1) :] for i in batch]
        width = max(map(len, sequences)) - 1
        # Nothing that a causal model reads depends on what follows: padding at the right is not
        # seen, and what is said of it does not count.
        inputs = torch.full((len(batch), width), end_of_text)
        targets = torch.full((len(batch), width), -1)
        for row, (ids, i) in enumerate(zip(sequences, batch, strict=True)):
            inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
            scored = min(len(encoded[i][1]), len(ids) - 1)
            targets[row, len(ids) - 1 - scored : len(ids) - 1] = torch.tensor(ids[-scored:])
        with torch.no_grad():
            logits = model(input_ids=inputs.to(model.device)).logits.float()
        losses = functional.cross_entropy(
            logits.flatten(0, 1),
            targets.to(model.device).flatten(),
            reduction="none",
            ignore_index=-1,
        )
        return (-losses.view(targets.shape).double().sum(dim=1)).tolist()

    batches = group_by_length(lengths, batch_size, only_equal=False)
    return divide_work(ranks, key, batches, score)


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, prompt: str, continuation: str, *, end_of_text: int
) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt and of its continuation.

    They are divided as by EleutherAI's lm-evaluation-harness (`_encode_pair`): space at the end of
    the prompt belongs to the continuation, and both are encoded together, so that tokens are those
    of running text. At least one token is the continuation's.
    """
    kept = prompt.rstrip()
    both = list(tokenizer.encode(prompt + continuation))
    first = list(tokenizer.encode(kept)) if kept else []
    count = min(len(first), len(both) - 1)
    return both[:count] or [end_of_text], both[count:]


def score_choice(example: Choice, scores: Sequence[float]) -> Answer:
    """Say which of its choices a model holds for the most probable.

    Args:
        example: what was asked.
        scores: ln p of each choice.
    """
    indices = range(len(scores))
    chosen = max(indices, key=lambda i: scores[i])
    per_byte = max(indices, key=lambda i: scores[i] / len(example.choices[i].encode()))
    others = [score for i, score in enumerate(scores) if i != example.answer]
    return Answer(
        place=example.place,
        prompt=example.prompt,
        answer=example.choices[chosen],
        references=(example.choices[example.answer],),
        scores={
            "margin": scores[example.answer] - max(others),
            "accuracy": float(chosen == example.answer),
            "accuracy_per_byte": float(per_byte == example.answer),
        },
    )
