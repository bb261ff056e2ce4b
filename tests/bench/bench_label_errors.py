"""How many changed labels are found in real text, and how often a shift is seen that is not there.

    git clone https://github.com/PolyAI-LDN/task-specific-datasets   # CC BY 4.0
    pip install --target contestant cleanlab==2.9.0                  # may be left out
    PYTHONPATH=contestant python tests/bench/bench_label_errors.py \
        --texts task-specific-datasets/banking_data/train.csv --output label_errors.json

The texts are questions of customers of a bank with one of 77 labels (Casanueva et al. 2020). 5 % of
the labels are changed: to any other one, or to one that the model of words takes for it, as often
as it does. What ranks the documents is compared by average precision, what chooses some of them by
precision and recall, beside cleanlab's filters on the same probabilities. Then the unchanged texts
are divided at random, again and again, of which nothing should be said; and by label or length, of
which something should.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.evaluation.classification.labelled_texts import LabelledTexts
from llmtrain_trainer.evaluation.classification.predictions import Predictions
from llmtrain_trainer.evaluation.classification.word_model import predict_out_of_fold
from llmtrain_trainer.evaluation.error_analysis.explaining import NUM_FOLDS
from llmtrain_trainer.evaluation.error_analysis.label_errors import (
    compute_doubt,
    find_label_errors,
)
from llmtrain_trainer.evaluation.error_analysis.mismatch import compare_parts
from llmtrain_trainer.evaluation.error_analysis.slices import compare_slices

CHANGED_SHARE = 0.05
CLEANLAB_FILTERS = (
    "prune_by_class", "prune_by_noise_rate", "both", "confident_learning",
    "low_normalized_margin", "low_self_confidence",
)  # fmt: skip
HELD_OUT_TEXTS, LEARNED_TEXTS = 500, 1500
SPREAD_ERRORS = 0.11


@click.command()
@click.option("--texts", "path", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--divisions", type=int, default=40)
@click.option("--only", type=click.Choice(["labels", "parts"]))
@click.option("--output", type=click.Path(path_type=Path), required=True)
def main(path: Path, divisions: int, only: str | None, output: Path) -> None:
    """Change labels, divide texts, or only one of these, and write what was found."""
    texts = read_texts(path)
    record: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "packages": {name: version(name) for name in ("numpy", "scikit-learn", "scipy")},
        "texts": len(texts),
        "labels": len(texts.labels),
    }
    if only != "parts":
        record |= measure_labels(texts)
    if only != "labels":
        random = np.random.default_rng(0)
        record["mismatch"] = measure_mismatch(texts, divisions, random)
        record["slices"] = measure_slices(texts, divisions, random)
    output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(record, indent=1))


def measure_labels(texts: LabelledTexts) -> dict[str, Any]:
    """Return how well changed labels are found."""
    random = np.random.default_rng(0)
    began = time.process_time()
    clean = predict(texts)
    seconds = time.process_time() - began
    changed = random.permutation(len(texts))[: round(CHANGED_SHARE * len(texts))]
    return {
        "outOfFoldAccuracy": round(float(clean.is_right.mean()), 4),
        "outOfFoldProcessorSeconds": round(seconds, 1),
        "foundWithoutChange": len(find_label_errors(clean)),
        "uniform": measure(change_uniformly(texts, changed, random), texts, changed),
        "similar": measure(change_to_similar(texts, changed, clean, random), texts, changed),
    }


def read_texts(path: Path) -> LabelledTexts:
    """Read a CSV with the columns text and category."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = [*csv.DictReader(lines)]
    labels = sorted({row["category"] for row in rows})
    return LabelledTexts(
        texts=[row["text"] for row in rows],
        labels=tuple(labels),
        true=np.searchsorted(labels, [row["category"] for row in rows]),
        facts=[Facts(digest=f"{number:032x}") for number in range(len(rows))],
        lengths=np.array([len(row["text"].split()) for row in rows]),
    )


def predict(texts: LabelledTexts) -> Predictions:
    """Return what the model of words says out of fold."""
    predictions = predict_out_of_fold(texts, num_folds=NUM_FOLDS, seed=0)
    assert predictions is not None
    return predictions


def change_uniformly(
    texts: LabelledTexts, changed: NDArray[np.int64], random: np.random.Generator
) -> LabelledTexts:
    """Give some documents any other label."""
    true, size = texts.true.copy(), len(texts.labels)
    true[changed] = (true[changed] + random.integers(1, size, len(changed))) % size
    return replace(texts, true=true)


def change_to_similar(
    texts: LabelledTexts,
    changed: NDArray[np.int64],
    clean: Predictions,
    random: np.random.Generator,
) -> LabelledTexts:
    """Give some documents a label that is taken for theirs, as often as it is."""
    true = texts.true.copy()
    taken = clean.confusion + 1e-9
    np.fill_diagonal(taken, 0.0)
    for number in changed:
        shares = taken[true[number]] / taken[true[number]].sum()
        true[number] = random.choice(len(shares), p=shares)
    return replace(texts, true=true)


def measure(
    noisy: LabelledTexts, texts: LabelledTexts, changed: NDArray[np.int64]
) -> dict[str, Any]:
    """Return how well the changed labels are ranked and found."""
    predictions = predict(noisy)
    is_changed = np.zeros(len(noisy), dtype=np.bool_)
    is_changed[changed] = True
    rows = np.arange(len(noisy))
    own = predictions.probabilities[rows, noisy.true]
    doubt, others = compute_doubt(predictions)
    rankings = {
        "doubt": doubt,
        "selfConfidence": -own,
        "normalizedMargin": predictions.probabilities[rows, others] - own,
    }
    errors = find_label_errors(predictions)
    right = [error.suggested == texts.true[error.document] for error in errors]
    clear = [error.is_suggestion_clear for error in errors]
    return {
        "averagePrecision": {
            name: round(float(average_precision_score(is_changed, scores)), 4)
            for name, scores in rankings.items()
        },
        "ours": score_found([error.document for error in errors], is_changed),
        "rightLabelOfFound": round(float(np.mean(right)), 4),
        "relabelled": {
            "documents": int(np.sum(clear)),
            "rightLabel": round(float(np.mean(np.array(right)[clear])), 4),
        },
        **score_cleanlab(predictions, is_changed),
    }


def score_found(found: list[int], is_changed: NDArray[np.bool_]) -> dict[str, float]:
    """Return precision, recall and F1 of what was found."""
    hits = int(is_changed[found].sum())
    precision, recall = hits / max(len(found), 1), hits / int(is_changed.sum())
    return {
        "found": len(found),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(2 * hits / (len(found) + int(is_changed.sum())), 4),
    }


def score_cleanlab(predictions: Predictions, is_changed: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the same of cleanlab's filters, if it is installed."""
    if importlib.util.find_spec("cleanlab") is None:
        return {}
    find = importlib.import_module("cleanlab.filter").find_label_issues
    return {
        f"cleanlab {name}": score_found(
            np.flatnonzero(
                find(predictions.true, predictions.probabilities, filter_by=name, n_jobs=1)
            ).tolist(),
            is_changed,
        )
        for name in CLEANLAB_FILTERS
    }


def measure_mismatch(
    texts: LabelledTexts, divisions: int, random: np.random.Generator
) -> dict[str, Any]:
    """Return how often something is said of parts divided at random, and by label and length."""
    alarms = {"tellsApart": 0, "hasOtherWords": 0, "hasOtherLengths": 0, "any": 0}
    for number in range(divisions):
        order = random.permutation(len(texts))[: HELD_OUT_TEXTS + LEARNED_TEXTS]
        said = compare_parts(
            take(texts, order[HELD_OUT_TEXTS:]), take(texts, order[:HELD_OUT_TEXTS]), seed=number
        )
        assert said is not None
        alarms["tellsApart"] += said.tells_apart
        alarms["hasOtherWords"] += said.has_other_words
        alarms["hasOtherLengths"] += said.has_other_lengths
        alarms["any"] += said.is_shifted
    shifts = {}
    for name, (learned, held_out) in (
        ("tenth of held-out texts of a label that was not learned", shift_label(texts, random)),
        ("held-out texts a fifth longer", shift_length(texts, random)),
    ):
        said = compare_parts(take(texts, learned), take(texts, held_out), seed=0)
        assert said is not None
        shifts[name] = {
            "auc": round(said.auc, 3),
            "tellsApart": said.tells_apart,
            "hasOtherWords": said.has_other_words,
            "hasOtherLengths": said.has_other_lengths,
        }
    return {"divisions": divisions, "falseAlarms": alarms, "shifts": shifts}


def shift_label(
    texts: LabelledTexts, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return training and held-out texts, a tenth of these of the commonest label alone."""
    commonest = int(np.bincount(texts.true).argmax())
    own = np.flatnonzero(texts.true == commonest)[: HELD_OUT_TEXTS // 10]
    others = random.permutation(np.flatnonzero(texts.true != commonest))
    held_out = np.concatenate([own, others[: HELD_OUT_TEXTS - len(own)]])
    return others[HELD_OUT_TEXTS : HELD_OUT_TEXTS + LEARNED_TEXTS], held_out


def shift_length(
    texts: LabelledTexts, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return training texts, and held-out texts that are chosen by their length."""
    order = random.permutation(len(texts))
    learned, rest = order[:LEARNED_TEXTS], order[LEARNED_TEXTS:]
    shares = texts.lengths[rest] / texts.lengths[rest].sum()
    return learned, random.choice(rest, HELD_OUT_TEXTS, replace=False, p=shares)


def measure_slices(
    texts: LabelledTexts, divisions: int, random: np.random.Generator
) -> dict[str, Any]:
    """Return how often a slice is said to be worse where errors are spread at random."""
    alarms = 0
    for _ in range(divisions):
        is_wrong = random.random(len(texts)) < SPREAD_ERRORS
        said = (texts.true + is_wrong) % len(texts.labels)
        predictions = Predictions(
            labels=texts.labels,
            true=texts.true,
            probabilities=np.eye(len(texts.labels))[said],
            facts=texts.facts,
            lengths=texts.lengths,
        )
        alarms += any(item.is_worse for item in compare_slices(predictions))
    return {"divisions": divisions, "falseAlarms": alarms}


def take(texts: LabelledTexts, numbers: NDArray[np.int64]) -> LabelledTexts:
    """Return some of the documents."""
    return LabelledTexts(
        texts=[texts.texts[number] for number in numbers.tolist()],
        labels=texts.labels,
        true=texts.true[numbers],
        facts=[texts.facts[number] for number in numbers.tolist()],
        lengths=texts.lengths[numbers],
    )


if __name__ == "__main__":
    main()
