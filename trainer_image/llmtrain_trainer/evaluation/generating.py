"""What a causal model writes after prompts: the most probable tokens, many prompts at a time.

Below: `decoding`, `batching`, and the tokenizer of the exported model. Above: `asking`.

Prompts are sorted by length, so that a batch has little padding. A recurrent model would read it:
its batches have prompts of one length. Each rank answers its share of the batches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.random import SeedSequence
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_trainer.evaluation.batching import divide_work, group_by_length
from llmtrain_trainer.evaluation.decoding import decode
from llmtrain_trainer.parallel import Ranks

LATENCY_PROMPTS = 5
"""Prompts that are asked alone, too, to say how long one waits for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written after a prompt."""

    text: str
    tokens: tuple[int, ...]
    """Without the end; with a few that follow a text that stopped it."""

    is_cut: bool
    """Whether the prompt was longer than the context has room for, and lost its beginning."""


class Writer:
    """Continues prompts by one model, always alike."""

    def __init__(
        self,
        model: Any,  # `generate` has no type that the library's own models satisfy
        tokenizer: PreTrainedTokenizerBase,
        ranks: Ranks,
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
            ranks: that share the work; each has the model.
            context: tokens that prompt and answer have together, at most.
            end_of_text: the token that ends an answer, and pads.
            batch_size: prompts at a time.
            is_recurrent: whether padding would be read.
            as_turns: whether prompts are what a user says, which the assistant answers.
        """
        self._model = model
        self._tokenizer = tokenizer
        self._ranks = ranks
        self._context = context
        self._end_of_text = end_of_text
        self._batch_size = batch_size
        self._is_recurrent = is_recurrent
        self._as_turns = as_turns

    def write(
        self,
        prompts: Sequence[str],
        *,
        key: str,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> tuple[list[Written], float]:
        """Return the most probable answer to each prompt, in their order, and how fast that was.

        Args:
            prompts: texts.
            key: under which the ranks tell each other; new each time.
            max_new_tokens: at most so many after each; less than the context.
            stop: a text ends before the first of these.
            clock: seconds.

        Returns:
            The answers; tokens that all ranks wrote, ends included, for each second.
        """
        began = clock()
        encoded = self._encode(prompts)
        kept = self._cut(encoded, max_new_tokens)
        answers = self._answer(kept, key, max_new_tokens, stop, seeds=None)
        num_tokens = sum(min(len(ids) + 1, max_new_tokens) for ids in answers)
        rate = num_tokens / (clock() - began)
        return [
            Written(
                text=cut_at(self._read(ids), stop),
                tokens=tuple(ids),
                is_cut=len(prompt) > len(part),
            )
            for ids, prompt, part in zip(answers, encoded, kept, strict=True)
        ], rate

    def draw(
        self,
        prompts: Sequence[str],
        *,
        key: str,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        seeds: Sequence[int],
    ) -> list[str]:
        """Return an answer to each prompt that is drawn by the model's own probabilities.

        What is drawn depends on the prompts, the batch size and `seeds` alone; else as `write`.
        """
        kept = self._cut(self._encode(prompts), max_new_tokens)
        answers = self._answer(kept, key, max_new_tokens, stop, seeds=seeds)
        return [cut_at(self._read(ids), stop) for ids in answers]

    def measure_latency(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> float:
        """Return the median of the seconds until an answer is complete, of the first few prompts.

        Each is asked alone, by this rank.
        """
        seconds = []
        for ids in self._cut(self._encode(prompts[:LATENCY_PROMPTS]), max_new_tokens):
            began = clock()
            self._answer_batch([ids], max_new_tokens, stop, temperature=0.0)
            seconds.append(clock() - began)
        return statistics.median(seconds)

    def _answer(
        self,
        prompts: Sequence[Sequence[int]],
        key: str,
        max_new_tokens: int,
        stop: Sequence[str],
        *,
        seeds: Sequence[int] | None,
    ) -> list[list[int]]:
        """Return the tokens that follow each prompt; with seeds they are drawn."""

        def answer(batch: Sequence[int]) -> list[list[int]]:
            if seeds is not None:
                torch.manual_seed(int(SeedSequence([*seeds, batch[0]]).generate_state(1)[0]))
            return self._answer_batch(
                [prompts[index] for index in batch],
                max_new_tokens,
                stop,
                temperature=0.0 if seeds is None else 1.0,
            )

        batches = group_by_length(
            [len(ids) for ids in prompts], self._batch_size, only_equal=self._is_recurrent
        )
        return divide_work(self._ranks, key, batches, answer)

    def _answer_batch(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop: Sequence[str],
        *,
        temperature: float,
    ) -> list[list[int]]:
        def has_ended(ids: list[int]) -> bool:
            text = self._read(ids)
            return any(word in text for word in stop)

        return decode(
            self._model,
            prompts,
            end_of_text=self._end_of_text,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            has_ended=has_ended if stop else None,
        )

    def _read(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _cut(self, prompts: Sequence[list[int]], max_new_tokens: int) -> list[list[int]]:
        """Return what of each prompt the context has room for."""
        room = max(1, self._context - max_new_tokens)
        return [ids[-room:] for ids in prompts]

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        if self._as_turns:
            chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
            texts = self._tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=False
            )
            return [self._tokenizer.encode(str(t), add_special_tokens=False) for t in texts]
        return [self._tokenizer.encode(text) or [self._end_of_text] for text in prompts]


def cut_at(text: str, stop: Sequence[str]) -> str:
    """Return what of a text lies before the first of some others."""
    places = [place for word in stop if (place := text.find(word)) >= 0]
    return text[: min(places)] if places else text
