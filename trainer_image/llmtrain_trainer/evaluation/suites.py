"""What the answers to suites are worth: their metrics, the worst and the best of them.

Below: `examining` and `asking` (what was answered), `answers`, `scoring`, `text_metrics`,
`similarity`, `consistency`, `entailment`, `verbatim`, `lexicon`, `choices`, `probing`, `harness`.
Above: `metrics` and `reporting`, on rank 0; `report` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

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
from llmtrain_trainer.evaluation.asking import Answered, Scored
from llmtrain_trainer.evaluation.choices import score_choice
from llmtrain_trainer.evaluation.consistency import measure_agreement
from llmtrain_trainer.evaluation.entailment import load_judge
from llmtrain_trainer.evaluation.examining import Subject
from llmtrain_trainer.evaluation.harness import run_task
from llmtrain_trainer.evaluation.harness_task import read_task
from llmtrain_trainer.evaluation.lexicon import read_lexicon
from llmtrain_trainer.evaluation.probing import score_canary, score_counterfactual
from llmtrain_trainer.evaluation.scoring import add_judgement, describe_overlaps, score_answer
from llmtrain_trainer.evaluation.similarity import (
    Likeness,
    StatesMissingError,
    TextReader,
    load_encoder,
    score_likenesses,
)
from llmtrain_trainer.evaluation.suite_data import Canary, Choice, Counterfactual, Question
from llmtrain_trainer.evaluation.text_metrics import score_bleu, score_chrf, score_token_f1
from llmtrain_trainer.evaluation.verbatim import find_longest_overlaps


def judge_suites(
    config: RunConfig, subject: Subject, asked: Sequence[Answered | Scored | None]
) -> list[SuiteResult]:
    """Measure what a model made of all suites of the spec; see `Judging.judge`."""
    judging = Judging(
        config,
        subject.model,
        subject.tokenizer,
        end_of_text=subject.dataset.end_of_text,
        train=subject.dataset.train,
    )
    suites = config.evaluation.suites
    return [
        judging.judge(suite, index, found)
        for index, (suite, found) in enumerate(zip(suites, asked, strict=True))
    ]


class Judging:
    """A model whose answers are measured."""

    def __init__(
        self,
        config: RunConfig,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_of_text: int,
        train: Split,
    ) -> None:
        """Measure what a causal model said, which learned `train`."""
        self._end_of_text = end_of_text
        self._train = train
        self._config = config
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = config.training.micro_batch_size or config.training.global_batch

    def judge(self, suite: Suite, index: int, asked: Answered | Scored | None) -> SuiteResult:
        """Measure what was made of a suite; `index` is its place in spec.evaluation.suites.

        Raises:
            DataError: where its lexicon or its task cannot be read.
            ConfigurationError: where its encoder cannot be used.
        """
        if asked is None:
            return self._run_task(suite, index)
        if isinstance(asked, Answered):
            return self._judge_answers(suite, index, asked)
        return judge_scores(suite, asked)

    def _run_task(self, suite: Suite, index: int) -> SuiteResult:
        """Let lm-evaluation-harness ask what a task of its has."""
        context = self._config.training.sequence_length
        return run_task(
            suite,
            read_task(suite, index, self._config.storage, context=context),
            self._model,
            self._tokenizer,
            context=context,
            batch_size=self._batch_size,
            end_of_text=self._end_of_text,
            seed=self._config.training.seed,
        )

    def _judge_answers(self, suite: Suite, index: int, asked: Answered) -> SuiteResult:
        texts = [item.text.strip() for item in asked.written]
        references = [question.references for question in asked.questions]
        similarities = self._compare(suite, index, texts, references)
        answers = [
            score_answer(question, text, similarity)
            for question, text, similarity in zip(asked.questions, texts, similarities, strict=True)
        ]
        answers = self._look_for_words(suite, index, answers, texts)
        answers = self._hold_against_sources(suite, index, answers, asked.questions, texts)
        overlaps = []
        if suite.search_training:
            overlaps = find_longest_overlaps([item.tokens for item in asked.written], self._train)
        metrics = {
            **average_scores(answers),
            **describe_overlaps(overlaps),
            "chrf": score_chrf(texts, references),
            "bleu": score_bleu(texts, references),
            **describe_agreement(asked.drawn),
            "tokens_per_second": asked.tokens_per_second,
            "latency_seconds": asked.latency_seconds,
        }
        num_cut = sum(item.is_cut for item in asked.written)
        return make_result(suite, answers, metrics, num_cut=num_cut)

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
                self._model,
                self._tokenizer,
                context=self._config.training.sequence_length,
                batch_size=self._batch_size,
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


def judge_scores(suite: Suite, asked: Scored) -> SuiteResult:
    """Measure how probable a model held the texts of a suite."""
    if suite.kind is SuiteKind.MULTIPLE_CHOICE:
        choices = [one for one in asked.examples if isinstance(one, Choice)]
        answers = [
            score_choice(one, scores) for one, scores in zip(choices, asked.scores, strict=True)
        ]
        chance = average([1 / len(one.choices) for one in choices])
        return _sum_up(suite, answers, ranked_by="margin", further={"chance": chance})
    if suite.kind is SuiteKind.COUNTERFACTUAL:
        swaps = [one for one in asked.examples if isinstance(one, Counterfactual)]
        answers = [
            score_counterfactual(one, scores)
            for one, scores in zip(swaps, asked.scores, strict=True)
        ]
        largest = max(answer.scores["likelihood_gap"] for answer in answers)
        return _sum_up(suite, answers, ranked_by="evenness", further={"largest_gap": largest})
    canaries = [one for one in asked.examples if isinstance(one, Canary)]
    answers = [
        score_canary(one, scores[0], scores[1:])
        for one, scores in zip(canaries, asked.scores, strict=True)
    ]
    largest = max(answer.scores["exposure"] for answer in answers)
    return _sum_up(suite, answers, ranked_by="safety", further={"largest_exposure": largest})


def _sum_up(
    suite: Suite, answers: Sequence[Answer], *, ranked_by: str, further: Mapping[str, float]
) -> SuiteResult:
    """Put together a result; the score that only ranks the answers is no metric."""
    metrics = {**average_scores(answers), **further}
    del metrics[ranked_by]
    return make_result(suite, answers, metrics, num_cut=0)


def describe_agreement(drawn: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return how much answers drawn by chance agree [draws, questions]; nothing of none."""
    if not drawn:
        return {}
    agreements = [measure_agreement(texts, score_token_f1) for texts in zip(*drawn, strict=True)]
    return {"self_consistency": average(agreements)}
