"""How near a text comes to its references.

Below: sacrebleu for BLEU and chrF. Above: `suites`. Every measure takes the best reference.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
WORD = re.compile(r"\w+")


def normalize_answer(text: str) -> str:
    """Return the text as SQuAD compares answers: small letters, no articles, no punctuation.

    As `evaluate-v1.1.py` of Rajpurkar et al. 2016, arXiv:1606.05250.
    """
    plain = text.lower().translate(PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", plain).split())


def score_exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1.0 where the normalised answer is a normalised reference, else 0.0."""
    normalized = normalize_answer(answer)
    return float(any(normalized == normalize_answer(reference) for reference in references))


def score_token_f1(answer: str, references: Sequence[str]) -> float:
    """Return F1 of the tokens that normalised answer and reference share, as SQuAD does."""
    return _take_best(_compute_token_f1, answer, references)


def score_rouge_l(answer: str, references: Sequence[str]) -> float:
    """Return ROUGE-L: F1 of the longest common subsequence of words (Lin 2004).

    Words are runs of letters and digits of any script in small letters, without stemming; for
    ASCII that is what the package rouge-score takes.
    """
    return _take_best(_compute_rouge_l, answer, references)


def score_bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return BLEU of all answers together, from 0 to 100, by sacrebleu's defaults (13a, exp)."""
    return float(BLEU().corpus_score(answers, _transpose(references)).score)


def score_chrf(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return chrF2 of all answers together, from 0 to 100, by sacrebleu's defaults."""
    return float(CHRF().corpus_score(answers, _transpose(references)).score)


def count_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by bits (Hyyrö 2004)."""
    places: Counter[str] = Counter()
    for index, word in enumerate(first):
        places[word] += 1 << index
    everything = (1 << len(first)) - 1
    row = everything
    for word in second:
        matches = row & places[word]
        row = ((row + matches) | (row - matches)) & everything
    return len(first) - row.bit_count()


def _compute_token_f1(answer: str, reference: str) -> float:
    left, right = normalize_answer(answer).split(), normalize_answer(reference).split()
    if not left or not right:
        return float(left == right)
    return _compute_f1((Counter(left) & Counter(right)).total(), len(left), len(right))


def _compute_rouge_l(answer: str, reference: str) -> float:
    left, right = WORD.findall(answer.lower()), WORD.findall(reference.lower())
    return _compute_f1(count_common(left, right), len(left), len(right))


def _compute_f1(num_common: int, num_left: int, num_right: int) -> float:
    return 2.0 * num_common / (num_left + num_right) if num_common else 0.0


def _take_best(score: Callable[[str, str], float], answer: str, references: Sequence[str]) -> float:
    return max(score(answer, reference) for reference in references)


def _transpose(references: Sequence[Sequence[str]]) -> Any:
    """Return lists of first references, second ones, and so on; None where there are fewer.

    sacrebleu takes None for a reference that there is not, and its types do not say so.
    """
    most = max(map(len, references))
    return [[own[i] if i < len(own) else None for own in references] for i in range(most)]
