"""What an evaluation reads beside the model, looked at before anything is trained.

Below: `baseline`, `suite_data`, `harness_task`, `lexicon`, `text_models`. Above: `prepare` asks at
its beginning, so that what is missing costs no training.
"""

from __future__ import annotations

from llmtrain_api.gates import parse_gate
from llmtrain_api.run import RunConfig
from llmtrain_api.suites import ENTAILMENT_METRICS, Suite, SuiteKind
from llmtrain_trainer.evaluation.baseline import read_baseline
from llmtrain_trainer.evaluation.harness_task import check_harness, read_task
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
        if suite.kind is SuiteKind.HARNESS:
            _check_task(config, suite, index)
            continue
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


def _check_task(config: RunConfig, suite: Suite, index: int) -> None:
    """Refuse a task that cannot be run, and a gate on what it does not measure."""
    field = f"spec.evaluation.suites[{index}]"
    check_harness(field=f"{field}.kind")
    context = config.training.sequence_length
    task = read_task(suite, index, config.storage, context=context)
    for metric in _list_gated(config, suite):
        if metric not in task.metrics:
            raise DataError(
                f"{field} ({suite.name}): a gate names {suite.name}.{metric}, and {suite.uri} "
                f"measures {', '.join(task.metrics)}",
                reason="SuiteInvalid",
                next_step="add it to metric_list of the task, or gate what is measured",
            )


def _check_entailment(config: RunConfig, suite: Suite, index: int) -> None:
    """Refuse a model that cannot judge, and a gate on contradiction where it knows none."""
    assert suite.entailment_model is not None
    field = f"spec.evaluation.suites[{index}].entailmentModel"
    relations = check_entailment_model(suite.entailment_model, config.storage, field=field)
    gated = _list_gated(config, suite)
    if "contradicted_share" in gated and Relation.CONTRADICTED not in relations.values():
        raise ConfigurationError(
            f"{field}: a gate names {suite.name}.contradicted_share, and no label of "
            f"{suite.entailment_model} begins with “contradict”",
            reason="EntailmentModelInvalid",
            next_step="gate entailed_share, or give a model with three labels",
        )


def _list_gated(config: RunConfig, suite: Suite) -> list[str]:
    """Return the metrics of a suite that gates name, without its name."""
    names = [name for gate in config.evaluation.gates for name in parse_gate(gate).names]
    prefix = f"{suite.name}."
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _check_sources(config: RunConfig, suite: Suite, index: int) -> None:
    """Refuse what is measured of answers with a source only, where no question has one."""
    gated = [metric for metric in _list_gated(config, suite) if metric in SOURCE_METRICS]
    if not gated and suite.entailment_model is None:
        return
    why = f"a gate names {suite.name}.{gated[0]}" if gated else "entailmentModel is given"
    if all(question.source is None for question in read_questions(suite, index, config.storage)):
        raise DataError(
            f"spec.evaluation.suites[{index}] ({suite.name}): {why}, and no line "
            f"of {suite.uri} has a source",
            reason="SuiteInvalid",
            next_step="give lines a source, the text that the answer is to be true to",
        )
