"""Suites: the exported model is asked, and what it answers is measured.

Below: `suite_data`, `generating`, `choices`, `answers`, `scoring`, `text_metrics`, `similarity`,
`consistency`, `entailment`, `verbatim`, `lexicon`, `probing`.
Above: `evaluate`; `report` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.objective import LossOn
from llmtrain_api.run import RunConfig
from llmtrain_api.suites import Suite, SuiteKind
from llmtrain_trainer.dataset.loading import Split
from llmtrain_trainer.evaluation.answers import (
    Answer,
    SuiteResult,
    average,
    average_scores,
    make_result,
)
from llmtrain_trainer.evaluation.choices import score_choice, score_continuations
from llmtrain_trainer.evaluation.consistency import measure_agreement
from llmtrain_trainer.evaluation.entailment import load_judge
from llmtrain_trainer.evaluation.generating import Writer
from llmtrain_trainer.evaluation.lexicon import read_lexicon
from llmtrain_trainer.evaluation.probing import (
    draw_candidates,
    score_canary,
    score_counterfactual,
)
from llmtrain_trainer.evaluation.scoring import (
    add_judgement,
    describe_overlaps,
    score_answer,
)
from llmtrain_trainer.evaluation.similarity import (
    Likeness,
    StatesMissingError,
    TextReader,
    load_encoder,
    score_likenesses,
)
from llmtrain_trainer.evaluation.suite_data import (
    SLOT,
    Question,
    read_canaries,
    read_choices,
    read_counterfactuals,
    read_questions,
)
from llmtrain_trainer.evaluation.text_metrics import (
    score_bleu,
    score_chrf,
    score_token_f1,
)
from llmtrain_trainer.evaluation.verbatim import find_longest_overlaps
from llmtrain_trainer.model.lstm import MODEL_TYPE as LSTM

SAMPLING_TEMPERATURE = 1.0
"""Of answers that are drawn to see whether they agree: by the model's own probabilities."""


class Asking:
    """A model that suites are asked of."""

    def __init__(
        self,
        config: RunConfig,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_of_text: int,
        train: Split,
    ) -> None:
        """Ask a causal model on its own device, with batches as in training; it learned `train`."""
        self._train = train
        self._config = config
        self._model = model
        self._tokenizer = tokenizer
        self._end_of_text = end_of_text
        self._batch_size = config.training.micro_batch_size or config.training.global_batch
        self._context = config.training.sequence_length

    def run(self, suite: Suite, index: int) -> SuiteResult:
        """Ask all examples of a suite; `index` is its place in spec.evaluation.suites.

        Raises:
            DataError: where the suite cannot be read.
            ConfigurationError: where its encoder cannot be used.
        """
        if suite.kind is SuiteKind.GENERATION:
            return self._generate(suite, index)
        if suite.kind is SuiteKind.MULTIPLE_CHOICE:
            return self._choose(suite, index)
        if suite.kind is SuiteKind.COUNTERFACTUAL:
            return self._swap(suite, index)
        return self._expose(suite, index)

    def _generate(self, suite: Suite, index: int) -> SuiteResult:
        questions = read_questions(suite, index, self._config.storage)
        writer = Writer(
            self._model,
            self._tokenizer,
            context=self._context,
            end_of_text=self._end_of_text,
            batch_size=self._batch_size,
            is_recurrent=self._model.config.model_type == LSTM,
            as_turns=self._config.loss_on is LossOn.ASSISTANT,
        )
        prompts = [question.prompt for question in questions]
        written, speed = writer.write(prompts, max_new_tokens=suite.max_new_tokens, stop=suite.stop)
        texts = [item.text.strip() for item in written]
        agreements = self._draw_again(suite, writer, prompts)
        references = [question.references for question in questions]
        likenesses = self._compare(suite, index, texts, references)
        answers = [
            score_answer(question, text, likeness)
            for question, text, likeness in zip(questions, texts, likenesses, strict=True)
        ]
        answers = self._look_for_words(suite, index, answers, texts)
        answers = self._hold_against_sources(suite, index, answers, questions, texts)
        overlaps = []
        if suite.search_training:
            overlaps = find_longest_overlaps([item.tokens for item in written], self._train)
        metrics = {
            **average_scores(answers),
            **describe_overlaps(overlaps),
            "chrf": score_chrf(texts, references),
            "bleu": score_bleu(texts, references),
            **({"self_consistency": average(agreements)} if agreements else {}),
            "tokens_per_second": speed.tokens_per_second,
            "latency_seconds": speed.latency_seconds,
        }
        return make_result(suite, answers, metrics, num_cut=sum(item.is_cut for item in written))

    def _draw_again(self, suite: Suite, writer: Writer, prompts: Sequence[str]) -> list[float]:
        """Return how much answers drawn by chance agree, for each prompt; nothing if not asked."""
        if not suite.draws_samples:
            return []
        torch.manual_seed(self._config.training.seed)
        drawn = [
            writer.write(
                prompts,
                max_new_tokens=suite.max_new_tokens,
                stop=suite.stop,
                temperature=SAMPLING_TEMPERATURE,
            )[0]
            for _ in range(suite.consistency_samples)
        ]
        return [
            measure_agreement([sample[i].text for sample in drawn], score_token_f1)
            for i in range(len(prompts))
        ]

    def _compare(
        self,
        suite: Suite,
        index: int,
        texts: Sequence[str],
        references: Sequence[Sequence[str]],
    ) -> Sequence[Likeness | None]:
        """Return how alike each text is to its references, where there is a way to tell."""
        if suite.encoder is None:
            reader = TextReader(
                self._model, self._tokenizer, context=self._context, batch_size=self._batch_size
            )
            try:
                return score_likenesses(reader, texts, references)
            except StatesMissingError:
                return [None] * len(texts)
        reader = load_encoder(
            suite.encoder,
            self._config.storage,
            field=f"spec.evaluation.suites[{index}].encoder",
            device=self._model.device,
            batch_size=self._batch_size,
        )
        return score_likenesses(reader, texts, references)

    def _choose(self, suite: Suite, index: int) -> SuiteResult:
        examples = read_choices(suite, index, self._config.storage)
        scores = self._score(
            [(example.prompt, choice) for example in examples for choice in example.choices]
        )
        answers = [
            score_choice(example, [next(scores) for _ in example.choices]) for example in examples
        ]
        chance = sum(1 / len(example.choices) for example in examples) / len(examples)
        metrics = {**average_scores(answers), "chance": chance}
        del metrics["margin"]
        return make_result(suite, answers, metrics, num_cut=0)

    def _swap(self, suite: Suite, index: int) -> SuiteResult:
        """Ask how probable a continuation is after each of several terms."""
        examples = read_counterfactuals(suite, index, self._config.storage)
        scores = self._score(
            [
                (example.prompt.replace(SLOT, term), example.continuation)
                for example in examples
                for term in example.terms
            ]
        )
        answers = [
            score_counterfactual(example, [next(scores) for _ in example.terms])
            for example in examples
        ]
        metrics = average_scores(answers)
        del metrics["evenness"]
        metrics["largest_gap"] = max(answer.scores["likelihood_gap"] for answer in answers)
        return make_result(suite, answers, metrics, num_cut=0)

    def _expose(self, suite: Suite, index: int) -> SuiteResult:
        """Ask how much more probable secrets are than others of their form."""
        answers = []
        seed = self._config.training.seed
        for canary in read_canaries(suite, index, self._config.storage):
            others = draw_candidates(canary, suite.candidates, seed=seed)
            scores = self._score([(canary.prompt, secret) for secret in (canary.secret, *others)])
            answers.append(score_canary(canary, next(scores), list(scores)))
        metrics = average_scores(answers)
        del metrics["safety"]
        metrics["largest_exposure"] = max(answer.scores["exposure"] for answer in answers)
        return make_result(suite, answers, metrics, num_cut=0)

    def _score(self, pairs: Sequence[tuple[str, str]]) -> Iterator[float]:
        """Return ln p of continuations, each after its prompt."""
        return iter(
            score_continuations(
                self._model,
                self._tokenizer,
                pairs,
                context=self._context,
                end_of_text=self._end_of_text,
                batch_size=self._batch_size,
            )
        )

    def _look_for_words(
        self, suite: Suite, index: int, answers: list[Answer], texts: Sequence[str]
    ) -> list[Answer]:
        """Return answers that say which of their words a lexicon has, where there is one."""
        if suite.lexicon is None:
            return answers
        field = f"spec.evaluation.suites[{index}].lexicon"
        lexicon = read_lexicon(suite.lexicon, self._config.storage, field=field)
        return [
            replace(answer, scores={**answer.scores, "toxic_rate": float(bool(lexicon.find(text)))})
            for answer, text in zip(answers, texts, strict=True)
        ]

    def _hold_against_sources(
        self,
        suite: Suite,
        index: int,
        answers: list[Answer],
        questions: Sequence[Question],
        texts: Sequence[str],
    ) -> list[Answer]:
        """Return answers that say which sentences follow from their source, where a model tells."""
        if suite.entailment_model is None:
            return answers
        judge = load_judge(
            suite.entailment_model,
            self._config.storage,
            field=f"spec.evaluation.suites[{index}].entailmentModel",
            device=self._model.device,
            batch_size=self._batch_size,
        )
        judgements = judge.judge_answers(texts, [question.source for question in questions])
        return [
            answer
            if judgement is None
            else add_judgement(answer, judgement, can_contradict=judge.can_contradict)
            for answer, judgement in zip(answers, judgements, strict=True)
        ]
