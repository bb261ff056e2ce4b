"""What an evaluation reads beside the model, looked at before anything is trained.

Below: `baseline`, `suite_data`, `lexicon`, `store`. Above: `prepare` asks at its beginning, so that
what is missing costs no training; `similarity` loads the encoder.
"""

from __future__ import annotations

from pathlib import Path

from llmtrain_api.evaluation import names_any
from llmtrain_api.run import RunConfig, StorageConfig
from llmtrain_api.suites import Suite
from llmtrain_trainer.evaluation.baseline import read_baseline
from llmtrain_trainer.evaluation.lexicon import read_lexicon
from llmtrain_trainer.evaluation.suite_data import check_suite, read_questions
from llmtrain_trainer.failures import ConfigurationError, DataError
from llmtrain_trainer.store import Store, open_store

SOURCE_METRICS = ("unsupported_rate", "coverage")

ENCODER_CONFIG = "config.json"
TENSORS = ".safetensors"


def check_inputs(config: RunConfig) -> None:
    """Refuse an evaluation that could not be carried out once the model is trained.

    Raises:
        ConfigurationError: the baseline or an encoder is not there.
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
            _open_encoder(suite.encoder, config.storage, field=field)


def _check_sources(config: RunConfig, suite: Suite, index: int) -> None:
    """Refuse a gate on what only answers with a source have, where no question has one."""
    wanted = [f"{suite.name}.{metric}" for metric in SOURCE_METRICS]
    if not any(names_any(config.evaluation.gates, name) for name in wanted):
        return
    if all(question.source is None for question in read_questions(suite, index, config.storage)):
        raise DataError(
            f"spec.evaluation.suites[{index}] ({suite.name}): a gate names {' or '.join(wanted)}, "
            f"and no line of {suite.uri} has a source",
            reason="SuiteInvalid",
            next_step="give lines a source, the text that the answer is to be true to",
        )


def download_encoder(uri: str, storage: StorageConfig, folder: Path, *, field: str) -> None:
    """Download a model of texts into a folder.

    Raises:
        ConfigurationError: there is none; `field` is what named it.
    """
    store, keys = _open_encoder(uri, storage, field=field)
    for key in keys:
        store.download(key, folder / key)


def _open_encoder(uri: str, storage: StorageConfig, *, field: str) -> tuple[Store, list[str]]:
    store = open_store(uri.rstrip("/"), storage)
    keys = [item.key for item in store.list_objects() if "/" not in item.key]
    if ENCODER_CONFIG not in keys or not any(key.endswith(TENSORS) for key in keys):
        raise ConfigurationError(
            f"{field}: {uri} has no {ENCODER_CONFIG} beside a file of tensors ({TENSORS}); "
            f"it holds: {', '.join(keys[:10]) or 'nothing'}",
            reason="EncoderInvalid",
            next_step="upload the directory of a Hugging Face model with its tokenizer there",
        )
    return store, keys
