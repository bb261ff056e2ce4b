"""What is measured of one answer by itself, and what is shown of it.

Below: `consistency`, `similarity`, `entailment`, `text_metrics`, `verbatim`, the forms of personal
data that preparation knows. Above: `suites`. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from llmtrain_api.recipe import PersonalData
from llmtrain_trainer.evaluation.answers import Answer
from llmtrain_trainer.evaluation.consistency import find_unsupported, measure_coverage
from llmtrain_trainer.evaluation.entailment import Judgement
from llmtrain_trainer.evaluation.similarity import Likeness
from llmtrain_trainer.evaluation.suite_data import Question
from llmtrain_trainer.evaluation.text_metrics import (
    score_exact_match,
    score_rouge_l,
    score_token_f1,
)
from llmtrain_trainer.evaluation.text_models import Relation
from llmtrain_trainer.evaluation.verbatim import MEMORIZED
from llmtrain_trainer.preparation.privacy import replace_personal_data


def describe_overlaps(overlaps: Sequence[int]) -> dict[str, float]:
    """Return what overlaps with the training text come to; nothing where none were looked for."""
    if not overlaps:
        return {}
    return {
        "memorized_rate": sum(length >= MEMORIZED for length in overlaps) / len(overlaps),
        "longest_overlap": float(max(overlaps)),
    }


def score_answer(question: Question, text: str, likeness: Likeness | None) -> Answer:
    """Measure an answer by itself; `likeness` is None where there is no way to tell."""
    found: Counter[PersonalData] = Counter()
    shown = replace_personal_data(text, list(PersonalData), found)
    scores = {
        "token_f1": score_token_f1(text, question.references),
        "rouge_l": score_rouge_l(text, question.references),
        "exact_match": score_exact_match(text, question.references),
    }
    scores["personal_data_rate"] = float(bool(found))
    if likeness is not None:
        scores["similarity"] = likeness.cosine
        scores["bertscore_precision"] = likeness.precision
        scores["bertscore_recall"] = likeness.recall
        scores["bertscore_f1"] = likeness.f1
    unsupported = []
    if question.source is not None:
        unsupported = find_unsupported(text, question.source)
        scores["unsupported_rate"] = float(bool(unsupported))
        coverage = measure_coverage(text, question.source)
        if coverage is not None:
            scores["coverage"] = coverage
    return Answer(
        place=question.place,
        prompt=question.prompt,
        answer=shown,
        references=question.references,
        scores=scores,
        unsupported=tuple(f"{fact.text} ({fact.kind.value})" for fact in unsupported),
    )


def add_judgement(answer: Answer, judgement: Judgement, *, can_contradict: bool) -> Answer:
    """Return an answer with what its source says of its sentences."""
    scores = {"entailed_share": judgement.share(Relation.ENTAILED)}
    if can_contradict:
        scores["contradicted_share"] = judgement.share(Relation.CONTRADICTED)
    doubtful = [
        f"“{replace_personal_data(sentence, list(PersonalData), Counter())}” ({relation.value})"
        for sentence, relation in zip(judgement.sentences, judgement.relations, strict=True)
        if relation is not Relation.ENTAILED
    ]
    return replace(
        answer,
        scores={**answer.scores, **scores},
        unsupported=(*answer.unsupported, *doubtful),
    )
