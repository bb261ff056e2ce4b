"""What was found out, as sentences for people and as actions for the next manifest.

Below: the analyses beside it, the contract's findings. Above: `explaining`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmtrain_api.findings import Drop, Finding, FindingKind, Part, Relabel, Weigh
from llmtrain_trainer.evaluation.classification.predictions import Predictions
from llmtrain_trainer.evaluation.error_analysis.gaps import Gap, PartError
from llmtrain_trainer.evaluation.error_analysis.label_errors import LabelError
from llmtrain_trainer.evaluation.error_analysis.mismatch import Mismatch
from llmtrain_trainer.evaluation.error_analysis.slices import Slice, SliceKind

MAX_SHARE = 0.25
"""Where more labels than these seem to be wrong, it is the model that does not know them."""

SLICE_FACTOR = 2.0
"""A source on which the model is worse is used so many times as often."""

BIAS_ERROR_RATE = 0.05
"""Of what was learned; less needs no finding."""

WHY_TRAINING = (
    "Confident learning (Northcutt et al. 2021) with logistic regression on words, each document "
    "judged by a model that had not seen it. It cannot tell a wrong label from a document whose "
    "words mislead, and misses errors that follow a pattern which words can learn."
)
WHY_HELD_OUT = (
    "Confident learning (Northcutt et al. 2021) with the trained model, which had not seen these "
    "documents. Labels must not be changed by what the model says before the model is measured by "
    "them: read them first."
)
WHY_SLICE = (
    "Fisher's exact test of the slice against all other documents, corrected for the number of "
    "slices (Holm). It says that the model errs more often there, not why."
)
WHY_MISMATCH = (
    "A classifier of words tells, out of fold, which part a document is of (adversarial "
    "validation); words are compared by the Jensen-Shannon distance against parts that are mixed "
    "by chance, lengths by the test of Kolmogorov and Smirnov. What no word and no length shows is "
    "not seen."
)
WHY_GAP = (
    "Errors on the parts after Ng, compared by the z-test of two shares. What people reach is not "
    "known here, so how much of the error could be avoided is not, either."
)


def compile_label_errors(
    part: Part, predictions: Predictions, errors: Sequence[LabelError]
) -> Iterator[Finding]:
    """Yield what to do about documents whose label is probably wrong.

    Args:
        part: that they are of.
        predictions: by which they were found.
        errors: what was found.
    """
    if not errors:
        return
    total = len(predictions)
    is_training = part is Part.TRAIN
    relabel, drop = [], []
    seen: set[str] = set()
    for error in errors if len(errors) <= MAX_SHARE * total else ():
        document = predictions.facts[error.document].digest
        if not document or document in seen:
            continue
        seen.add(document)
        if error.is_suggestion_clear or not is_training:
            relabel.append(
                Relabel(
                    document=document,
                    from_label=predictions.labels[error.given],
                    to_label=predictions.labels[error.suggested],
                    confidence=error.confidence,
                )
            )
        else:
            drop.append(Drop(document=document, confidence=error.confidence))
    summary = f"{len(errors):,} of {total:,} {part.value} documents are probably mislabelled."
    advice = "Read some of them before they are changed."
    if not seen:
        summary += " So many cannot be told from a model that does not know the labels."
        advice = "Read some of them; nothing is to be changed by machine."
    yield Finding(
        kind=FindingKind.MISLABELLED,
        part=part,
        summary=summary,
        why=WHY_TRAINING if is_training else WHY_HELD_OUT,
        advice=advice,
        drop=drop,
        relabel=relabel,
    )


def compile_slices(part: Part, slices: Sequence[Slice], num_sources: int) -> Iterator[Finding]:
    """Yield the slices on which the model is significantly worse."""
    for item in slices:
        if not item.is_worse:
            continue
        weigh = []
        if item.kind is SliceKind.SOURCE and num_sources > 1:
            weigh = [Weigh(source=int(item.name), factor=SLICE_FACTOR)]
        yield Finding(
            kind=FindingKind.WEAK_SLICE,
            part=part,
            summary=(
                f"The model is worse on {item.kind.value} {item.name}: it errs on "
                f"{item.error_rate:.1%} of {item.documents:,} documents, and on "
                f"{item.rest_error_rate:.1%} of the others (p = {item.p_value:.2g})."
            ),
            why=WHY_SLICE,
            advice="More training documents like these; labels of theirs that are wrong or vague.",
            weigh=weigh,
        )


def compile_mismatch(part: Part, mismatch: Mismatch | None) -> Iterator[Finding]:
    """Yield how held-out documents differ from training documents, and which are among them."""
    if mismatch is None:
        return
    if mismatch.leaked:
        yield Finding(
            kind=FindingKind.MISMATCH,
            part=part,
            summary=f"{len(mismatch.leaked):,} {part.value} documents were learned, too.",
            why="Their texts have the same digest. What is nearly the same is not seen.",
            advice="Set data.deduplicate.exact: what was learned by heart measures nothing.",
        )
    if not mismatch.is_shifted:
        return
    what = []
    if mismatch.tells_apart:
        words = ", ".join([*mismatch.held_out_words[:3], *mismatch.learned_words[:3]])
        what.append(f"words tell them apart (AUC {mismatch.auc:.2f}; {words})")
    if mismatch.has_other_words:
        what.append(
            f"their words are {mismatch.word_distance:.2f} apart, by chance "
            f"{mismatch.chance_distance:.2f}"
        )
    if mismatch.has_other_lengths:
        what.append(
            f"half of them have more than {mismatch.held_out_length:,.0f} tokens, of the training "
            f"documents {mismatch.learned_length:,.0f}"
        )
    yield Finding(
        kind=FindingKind.MISMATCH,
        part=part,
        summary=f"Training and {part.value} documents differ: {'; '.join(what)}.",
        why=WHY_MISMATCH,
        advice=(
            "Collect training documents like those that the model is for; where the held-out ones "
            "are not, divide the data otherwise (data.split)."
        ),
    )


def compile_gaps(parts: Sequence[PartError], gaps: Sequence[Gap]) -> Iterator[Finding]:
    """Yield what the errors of the parts say."""
    first = parts[0]
    if first.part is Part.TRAIN and first.error_rate >= BIAS_ERROR_RATE:
        yield Finding(
            kind=FindingKind.GAP,
            part=Part.TRAIN,
            summary=f"The model errs on {first.error_rate:.1%} of what it has learned (bias).",
            why=WHY_GAP,
            advice=(
                "A larger model, more steps, another learning rate; or labels that can be told "
                "from the texts."
            ),
        )
    for gap in gaps:
        if not gap.is_significant:
            continue
        summary = (
            f"Errors rise from {gap.before.error_rate:.1%} on {gap.before.part.value} to "
            f"{gap.after.error_rate:.1%} on {gap.after.part.value} documents "
            f"(p = {gap.p_value:.2g})"
        )
        is_variance = gap.before.part is Part.TRAIN
        yield Finding(
            kind=FindingKind.GAP,
            part=gap.after.part,
            summary=f"{summary}: {'variance' if is_variance else 'choices fit validation'}.",
            why=WHY_GAP,
            advice=(
                "More training documents, fewer steps or early stopping, more dropout or weight "
                "decay, a smaller model."
                if is_variance
                else "A larger validation part; fewer choices by it."
            ),
        )
