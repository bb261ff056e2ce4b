"""What an evaluation reads beside the model, looked at before anything is trained.

Below: `baseline`, `suite_data`, `lexicon`, `text_models`. Above: `prepare` asks at its beginning,
so that what is missing costs no training.
"""

from __future__ import annotations

from llmtrain_api.evaluation import names_any
from llmtrain_api.run import RunConfig
from llmtrain_api.suites import ENTAILMENT_METRICS, Suite
from llmtrain_trainer.evaluation.baseline import read_baseline
from llmtrain_trainer.evaluation.lexicon import read_lexicon
from llmtrain_trainer.evaluation.suite_data import check_suite, read_questions
from llmtrain_trainer.evaluation.text_models import (
    Relation,
    check_encoder,
    check_entailment_model,
)
from llmtrain_trainer.failures import ConfigurationError, DataError

SOURCE_METRICS = ("unsupported_rate", "coverage", *ENTAILMENT_METRICS)


def check_inputs(config: RunConfig) -> None:
    """Refuse an evaluation that could not be carried out once the model is trained.

    Raises:
        ConfigurationError: the baseline, an encoder or a model of inference is not there.
        DataError: a suite cannot be asked; names field, file and line.
        StoreError: the store fails.
    """
    read_baseline(config)
    for index, suite in enumerate(config.evaluation.suites):
        check_suite(suite, index, config.storage)
        _check_sources(config, suite, index)
        if suite.lexicon is not None:
            field = f"spec.evaluation.suites[{index}].lexicon"
            read_lexicon(suite.lexicon, config.storage, field=field)
        if suite.encoder is not None:
            field = f"spec.evaluation.suites[{index}].encoder"
            check_encoder(suite.encoder, config.storage, field=field)
        if suite.entailment_model is not None:
            _check_entailment(config, suite, index)


def _check_entailment(config: RunConfig, suite: Suite, index: int) -> None:
    """Refuse a model that cannot judge, and a gate on contradiction where it knows none."""
    assert suite.entailment_model is not None
    field = f"spec.evaluation.suites[{index}].entailmentModel"
    relations = check_entailment_model(suite.entailment_model, config.storage, field=field)
    gated = names_any(config.evaluation.gates, f"{suite.name}.contradicted_share")
    if gated and Relation.CONTRADICTED not in relations.values():
        raise ConfigurationError(
            f"{field}: a gate names {suite.name}.contradicted_share, and no label of "
            f"{suite.entailment_model} begins with “contradict”",
            reason="EntailmentModelInvalid",
            next_step="gate entailed_share, or give a model with three labels",
        )


def _check_sources(config: RunConfig, suite: Suite, index: int) -> None:
    """Refuse what is measured of answers with a source only, where no question has one."""
    wanted = [f"{suite.name}.{metric}" for metric in SOURCE_METRICS]
    gated = [name for name in wanted if names_any(config.evaluation.gates, name)]
    if not gated and suite.entailment_model is None:
        return
    why = f"a gate names {gated[0]}" if gated else "entailmentModel is given"
    if all(question.source is None for question in read_questions(suite, index, config.storage)):
        raise DataError(
            f"spec.evaluation.suites[{index}] ({suite.name}): {why}, and no line "
            f"of {suite.uri} has a source",
            reason="SuiteInvalid",
            next_step="give lines a source, the text that the answer is to be true to",
        )
