"""What a causal model writes after prompts: the most probable tokens, many prompts at a time.

Below: the exported model and its tokenizer. Above: `suites`.

Prompts are sorted by length, so that a batch has little padding. It stands at the left, hidden by
the attention mask; a recurrent model would read it, so that its batches have prompts of one length.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

LATENCY_PROMPTS = 5
"""Prompts that are asked alone, too, to say how long one waits for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written after a prompt."""

    text: str
    tokens: tuple[int, ...]
    """Without the end; with what follows a text that was to stop it."""

    is_cut: bool
    """Whether the prompt was longer than the context has room for, and lost its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast."""

    tokens_per_second: float
    """Tokens written by all batches, ends of text included, for each second of them."""

    latency_seconds: float
    """Median time until the answer to a prompt that is asked alone is complete."""


class Writer:
    """Continues prompts by one model, always alike."""

    def __init__(
        self,
        model: Any,  # `generate` has no type that the library's own models satisfy
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int,
        end_of_text: int,
        batch_size: int,
        is_recurrent: bool,
        as_turns: bool = False,
    ) -> None:
        """Write by a model on its own device.

        Args:
            model: a causal one.
            tokenizer: its own.
            context: tokens that prompt and answer have together, at most.
            end_of_text: the token that ends an answer, and pads.
            batch_size: prompts at a time.
            is_recurrent: whether padding would be read.
            as_turns: whether prompts are what a user says, which the assistant answers.
        """
        self._model = model
        self._tokenizer = tokenizer
        self._context = context
        self._end_of_text = end_of_text
        self._batch_size = batch_size
        self._is_recurrent = is_recurrent
        self._as_turns = as_turns

    def write(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> tuple[list[Written], Speed]:
        """Return what is written after each prompt, in their order, and how fast that was.

        Args:
            prompts: texts.
            max_new_tokens: at most so many after each; less than the context.
            stop: a text ends before the first of these.
            temperature: 0.0 takes the most probable tokens; else they are drawn.
            clock: seconds.
        """
        began = clock()
        room = max(1, self._context - max_new_tokens)
        encoded = self._encode(prompts)
        kept = [ids[-room:] for ids in encoded]
        written: dict[int, Written] = {}
        num_tokens = 0
        lengths = [len(ids) for ids in kept]
        for batch in group_by_length(lengths, self._batch_size, only_equal=self._is_recurrent):
            answers = self._generate([kept[index] for index in batch], max_new_tokens, temperature)
            for index, ids in zip(batch, answers, strict=True):
                num_tokens += min(len(ids) + 1, max_new_tokens)
                text = str(self._tokenizer.decode(ids, skip_special_tokens=True))
                is_cut = len(encoded[index]) > room
                written[index] = Written(text=cut_at(text, stop), tokens=tuple(ids), is_cut=is_cut)
        seconds = clock() - began
        latencies = []
        for ids in kept[:LATENCY_PROMPTS]:
            began = clock()
            self._generate([ids], max_new_tokens, temperature)
            latencies.append(clock() - began)
        speed = Speed(
            tokens_per_second=num_tokens / seconds, latency_seconds=statistics.median(latencies)
        )
        return [written[index] for index in range(len(prompts))], speed

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        if self._as_turns:
            chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
            texts = self._tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=False
            )
            return [self._tokenizer.encode(str(t), add_special_tokens=False) for t in texts]
        return [self._tokenizer.encode(text) or [self._end_of_text] for text in prompts]

    def _generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float
    ) -> list[list[int]]:
        """Return the tokens that follow each prompt, without the end."""
        width = max(map(len, prompts))
        padded = [[self._end_of_text] * (width - len(ids)) + list(ids) for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        device = self._model.device
        generated = self._model.generate(
            torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0.0,
            temperature=temperature or None,
            pad_token_id=self._end_of_text,
        )[:, width:].tolist()
        return [
            ids[: ids.index(self._end_of_text)] if self._end_of_text in ids else ids
            for ids in generated
        ]


def group_by_length(
    lengths: Sequence[int], batch_size: int, *, only_equal: bool
) -> list[list[int]]:
    """Return batches of indices, the longest first, so that memory runs out at once or never.

    Args:
        lengths: of each item.
        batch_size: items of a batch, at most.
        only_equal: whether all items of a batch must have one length.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        last = batches[-1] if batches else []
        differs = only_equal and bool(last) and lengths[last[0]] != lengths[index]
        if not last or len(last) == batch_size or differs:
            batches.append([])
        batches[-1].append(index)
    return batches


def cut_at(text: str, stop: Sequence[str]) -> str:
    """Return what of a text lies before the first of some others."""
    places = [place for word in stop if (place := text.find(word)) >= 0]
    return text[: min(places)] if places else text
