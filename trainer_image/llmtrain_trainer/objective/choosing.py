"""The objective of a run.

Below: the objectives, `dataset` for the tokens they need. Above: `training.run`, `evaluate`;
`trial` chooses for made-up tokens.
"""

from __future__ import annotations

from llmtrain_api.objective import Objective as Kind
from llmtrain_api.run import RunConfig
from llmtrain_api.training import TrainingSpec
from llmtrain_trainer.dataset.loading import Dataset
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.objective.answers import AnswerOfText
from llmtrain_trainer.objective.batch import NextToken, Objective
from llmtrain_trainer.objective.classes import (
    LabelOfDocument,
    LabelsOfDocument,
    weigh_classes,
    weigh_decisions,
)
from llmtrain_trainer.objective.documents import NextInDocument
from llmtrain_trainer.objective.masking import HiddenTokens
from llmtrain_trainer.objective.spans import CutSpans, CutSpansOfDocuments
from llmtrain_trainer.objective.words import WordTable, read_word_table
from llmtrain_trainer.tokenizer.special_tokens import SpecialTokens

MIN_CLASSES = 2
"""Of which a document has one; where it may have several, one class is a question already."""


def choose_objective(config: RunConfig, dataset: Dataset, *, isolates: bool = True) -> Objective:
    """Return what makes the batches of a run.

    Where it is stored whose words tokens are, documents share sequences and are kept apart, if the
    network `isolates` them.

    Raises:
        DataError: the dataset was prepared without the tokens that the objective needs.
    """
    training = config.training
    words = None
    if config.objective is Kind.MASKED and training.masking.whole_words:
        words = read_word_table(dataset.tokenizer_file, dataset.vocabulary_size)
    if config.objective is Kind.CLASSIFICATION:
        return _classify(config, dataset)
    has_roles = dataset.train.has_roles
    if config.objective is Kind.CAUSAL and has_roles:
        return NextInDocument(config.loss_on, isolates=isolates)
    objective = make_objective(
        config.objective,
        training,
        special=dataset.special,
        vocabulary_size=dataset.vocabulary_size,
        end_of_text=dataset.end_of_text,
        words=words,
        # T5 reads each document by itself; the others need a network that keeps them apart.
        isolates=has_roles and (isolates or config.objective is Kind.SPAN_CORRUPTION),
    )
    if objective is None:
        raise _explain_lack(config, dataset)
    return objective


def _classify(config: RunConfig, dataset: Dataset) -> Objective:
    start, padding, classes = dataset.special.start, dataset.special.padding, dataset.labels
    if start is None or padding is None:
        raise _explain_lack(config, dataset)
    has_sets = config.data.has_label_sets
    least = 1 if has_sets else MIN_CLASSES
    if len(classes) < least:
        raise DataError(
            f"training.objective: classification needs at least {least} labels, and at most "
            f"as many as are told from names: the training documents of dataset "
            f"{dataset.fingerprint} have {len(classes)}",
            reason="LabelsInvalid",
            next_step="name the field with the class by data.sources[].fields.label, or the one "
            "with a list of classes by fields.labels",
        )
    kind = config.training.class_weights
    if has_sets:
        weights = weigh_decisions(dataset.train.label_sets, classes, kind)
        return LabelsOfDocument(classes, start=start, padding=padding, weights=weights)
    weights = weigh_classes(dataset.train.labels, classes, kind)
    return LabelOfDocument(classes, start=start, padding=padding, weights=weights)


def _explain_lack(config: RunConfig, dataset: Dataset) -> DataError:
    return DataError(
        f"dataset {dataset.fingerprint} was prepared without the special tokens that "
        f"training.objective: {config.objective} needs",
        reason="SpecialTokensMissing",
        next_step="start a new job of this objective: its prepare stage adds them",
    )


def make_objective(
    kind: Kind,
    training: TrainingSpec,
    *,
    special: SpecialTokens,
    vocabulary_size: int,
    end_of_text: int,
    words: WordTable | None = None,
    isolates: bool = False,
) -> Objective | None:
    """Return what makes batches; None where a token that it needs is missing."""
    if kind is Kind.CAUSAL:
        return NextToken(training.sequence_length)
    if special.padding is None:
        return None
    if kind is Kind.MASKED:
        if special.mask is None:
            return None
        return HiddenTokens(
            training.masking,
            seed=training.seed,
            mask=special.mask,
            special={special.mask, special.padding, end_of_text, *special.sentinels},
            vocabulary_size=vocabulary_size,
            words=words,
            isolates=isolates,
        )
    if kind is Kind.SEQUENCE_TO_SEQUENCE:
        return AnswerOfText(
            sequence_length=training.sequence_length,
            end_of_text=end_of_text,
            padding=special.padding,
        )
    if not special.sentinels:
        return None
    cut = CutSpansOfDocuments if isolates else CutSpans
    return cut(
        training.span_corruption,
        seed=training.seed,
        sequence_length=training.sequence_length,
        sentinels=special.sentinels,
        end_of_text=end_of_text,
        start=special.padding,
    )
