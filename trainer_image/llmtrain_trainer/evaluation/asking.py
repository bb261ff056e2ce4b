"""Suites are asked: every rank asks its share of the questions, and all hear every answer.

Below: `suite_data` (the questions), `generating` and `choices` (the model), `probing` (the secrets
that a secret is held against). Above: `examining`; what the answers are worth, rank 0 finds out in
`suites`, when the others have left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.objective import LossOn
from llmtrain_api.run import RunConfig
from llmtrain_api.suites import Suite, SuiteKind
from llmtrain_trainer.evaluation.choices import score_continuations
from llmtrain_trainer.evaluation.generating import Writer, Written
from llmtrain_trainer.evaluation.probing import draw_candidates
from llmtrain_trainer.evaluation.suite_data import (
    SLOT,
    Canary,
    Choice,
    Counterfactual,
    Question,
    read_canaries,
    read_choices,
    read_counterfactuals,
    read_questions,
)
from llmtrain_trainer.model.lstm import MODEL_TYPE as LSTM
from llmtrain_trainer.parallel import Ranks

PROMPTS_PER_SEQUENCE = 4
"""Prompts that are answered at a time, for each sequence of a micro-batch in training. A token that
nothing is learned from leaves its key and its value in a layer, two vectors; one that is learned
from leaves at least seventeen (Korthikanti et al. 2022, arXiv:2205.05198, section 4.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Questions, and what the model wrote."""

    questions: Sequence[Question]
    written: Sequence[Written]
    drawn: Sequence[Sequence[str]]
    """Further answers to all questions, drawn by chance."""

    tokens_per_second: float
    latency_seconds: float | None
    """Median time until the whole answer to a prompt that is asked alone; rank 0 measures it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Examples, and ln p of the texts of each."""

    examples: Sequence[Choice | Counterfactual | Canary]
    scores: Sequence[Sequence[float]]


class Asking:
    """A causal model that suites are asked of, on the device of each rank."""

    def __init__(
        self,
        config: RunConfig,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        ranks: Ranks,
        *,
        end_of_text: int,
        key: str = "suite",
    ) -> None:
        """Ask by batches as they fit in training.

        `key` begins what the ranks tell each other under, and is new for each model of a round.
        """
        self._key = key
        self._config = config
        self._model = model
        self._tokenizer = tokenizer
        self._ranks = ranks
        self._end_of_text = end_of_text
        self._batch_size = config.training.micro_batch_size or config.training.global_batch
        self._context = config.training.sequence_length

    def ask(self, suite: Suite, index: int) -> Answered | Scored | None:
        """Ask all examples of a suite; `index` is its place in spec.evaluation.suites.

        Every rank must call it. None: the suite is a task of lm-evaluation-harness, which asks by
        itself, on rank 0.

        Raises:
            DataError: where the suite cannot be read.
        """
        storage = self._config.storage
        if suite.kind is SuiteKind.GENERATION:
            return self._answer(suite, read_questions(suite, index, storage))
        if suite.kind is SuiteKind.HARNESS:
            return None
        if suite.kind is SuiteKind.MULTIPLE_CHOICE:
            choices = read_choices(suite, index, storage)
            return self._score(
                suite, choices, [[(one.prompt, text) for text in one.choices] for one in choices]
            )
        if suite.kind is SuiteKind.COUNTERFACTUAL:
            swaps = read_counterfactuals(suite, index, storage)
            return self._score(
                suite,
                swaps,
                [
                    [(one.prompt.replace(SLOT, term), one.continuation) for term in one.terms]
                    for one in swaps
                ],
            )
        canaries = read_canaries(suite, index, storage)
        seed = self._config.training.seed
        return self._score(
            suite,
            canaries,
            [
                [
                    (one.prompt, secret)
                    for secret in (one.secret, *draw_candidates(one, suite.candidates, seed=seed))
                ]
                for one in canaries
            ],
        )

    def _answer(self, suite: Suite, questions: Sequence[Question]) -> Answered:
        writer = Writer(
            self._model,
            self._tokenizer,
            self._ranks,
            context=self._context,
            end_of_text=self._end_of_text,
            batch_size=PROMPTS_PER_SEQUENCE * self._batch_size,
            is_recurrent=self._model.config.model_type == LSTM,
            as_turns=self._config.loss_on is LossOn.ASSISTANT,
        )
        prompts = [question.prompt for question in questions]
        room, stop = suite.max_new_tokens, suite.stop
        written, rate = writer.write(
            prompts, key=f"{self._key}-{suite.name}", max_new_tokens=room, stop=stop
        )
        drawn = []
        for number in range(suite.consistency_samples if suite.draws_samples else 0):
            key, seeds = f"{self._key}-{suite.name}-{number}", (self._config.training.seed, number)
            drawn.append(writer.draw(prompts, key=key, max_new_tokens=room, stop=stop, seeds=seeds))
        latency = None
        if self._ranks.is_first:
            latency = writer.measure_latency(prompts, max_new_tokens=room, stop=stop)
        return Answered(
            questions=questions,
            written=written,
            drawn=drawn,
            tokens_per_second=rate,
            latency_seconds=latency,
        )

    def _score(
        self,
        suite: Suite,
        examples: Sequence[Choice | Counterfactual | Canary],
        pairs: Sequence[Sequence[tuple[str, str]]],
    ) -> Scored:
        """Return ln p of continuations, each after its prompt.

        `pairs` has those of each example.
        """
        flat = score_continuations(
            self._model,
            self._tokenizer,
            self._ranks,
            [pair for own in pairs for pair in own],
            key=f"{self._key}-{suite.name}",
            context=self._context,
            end_of_text=self._end_of_text,
            batch_size=self._batch_size,
        )
        scores = iter(flat)
        return Scored(examples=examples, scores=[[next(scores) for _ in own] for own in pairs])
