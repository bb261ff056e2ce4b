"""A task of lm-evaluation-harness that is staged in the store: one YAML file, data beside it.

Below: `store`. Above: `inputs` reads it before anything is trained, `harness` runs it.

The file is read here and not by the harness, whose loader runs Python code that a file names by
`!function`. What is allowed is listed: a task brings data, templates and numbers, and no code, and
its data are JSON lines in its own folder.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import yaml

from llmtrain_api.run import StorageConfig
from llmtrain_api.suites import SUITE_METRICS, Suite, SuiteKind
from llmtrain_trainer.failures import ConfigurationError, DataError
from llmtrain_trainer.store import ObjectMissingError, Store, open_store

KEYS = (
    *("task", "task_alias", "tag", "metadata", "dataset_path", "dataset_kwargs", "output_type"),
    *("training_split", "validation_split", "test_split", "fewshot_split", "fewshot_config"),
    *("num_fewshot", "fewshot_delimiter", "target_delimiter", "description", "gen_prefix"),
    *("doc_to_text", "doc_to_target", "doc_to_choice", "metric_list", "filter_list"),
    *("generation_kwargs", "repeats"),
)
"""What a task may say, as lm-evaluation-harness calls it."""

SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
"""Keys that name a part of the data; the first two are what a task is measured on."""

FEWSHOT_KEYS = ("sampler", "split")

DEFAULT_METRICS = {
    "generate_until": ("exact_match",),
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
}
"""What the harness measures by each output_type where metric_list is absent."""

DEFAULT_ANSWER_TOKENS = 256
"""What an answer of generate_until has at most where max_gen_toks is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessTask:
    """What a task says, read and found good."""

    name: str
    settings: Mapping[str, Any]
    """As the harness takes it, without where its data lie."""

    files: Mapping[str, tuple[str, ...]]
    """Of each part of the data, by keys below the folder of the task."""

    metrics: tuple[str, ...]
    store: Store
    """The folder of the task."""

    def download(self, folder: Path) -> dict[str, Any]:
        """Download its data, and return the settings with where they lie.

        Args:
            folder: an empty one, which also gets the harness's copies of the data.
        """
        paths = {}
        for part, keys in self.files.items():
            paths[part] = [str(folder / "data" / key) for key in keys]
            for key in keys:
                self.store.download(key, folder / "data" / key)
        return {
            **self.settings,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": paths, "cache_dir": str(folder / "cache")},
        }


def check_harness(*, field: str) -> None:
    """Refuse a suite of the harness where that is not installed.

    Raises:
        ConfigurationError: it is not; `field` is what asks for it.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigurationError(
            f"{field}: kind: harness needs lm-evaluation-harness, which this image has not",
            reason="HarnessMissing",
            next_step="build the trainer's image with --build-arg EXTRAS=harness, or install "
            "llmtrain[trainer,harness]",
        )


def read_task(suite: Suite, index: int, storage: StorageConfig, *, context: int) -> HarnessTask:
    """Read the task of a suite of kind harness.

    Args:
        suite: what to read.
        index: its place in spec.evaluation.suites, for messages.
        storage: how the store is reached.
        context: tokens that the model can read.

    Raises:
        DataError: it is not there, asks for code or for data from elsewhere, or says what it may
            not; names field, file and what is allowed.
    """
    folder, _, name = suite.uri.rpartition("/")
    reader = _Reader(f"spec.evaluation.suites[{index}] ({suite.name})", open_store(folder, storage))
    settings = reader.read_settings(name)
    for key in settings:
        if key not in KEYS:
            reader.refuse(name, f"{key} is not allowed", f"known: {', '.join(KEYS)}")
    if not isinstance(settings.get("task"), str):
        reader.refuse(name, "task must be the name of one task", "give one file for each task")
    output_type = settings.setdefault("output_type", "generate_until")
    if output_type not in DEFAULT_METRICS:
        known = ", ".join(DEFAULT_METRICS)
        reader.refuse(name, f"output_type {output_type!r} is unknown", f"known: {known}")
    if set(settings.get("fewshot_config") or {}) - set(FEWSHOT_KEYS):
        known = ", ".join(FEWSHOT_KEYS)
        reader.refuse(name, "fewshot_config has a key that is not allowed", f"known: {known}")
    longest = (settings.get("generation_kwargs") or {}).get("max_gen_toks", DEFAULT_ANSWER_TOKENS)
    if output_type == "generate_until" and longest >= context:
        what = f"answers of {longest} tokens leave no room for a prompt"
        reader.refuse(
            name,
            what,
            f"set generation_kwargs.max_gen_toks to less than sequenceLength ({context})",
        )
    return HarnessTask(
        name=settings["task"],
        settings=settings,
        files=_find_files(reader, name, settings),
        metrics=_find_metrics(reader, name, settings),
        store=reader.store,
    )


class _Reader:
    """Reads the files of a task and says what is wrong with them."""

    def __init__(self, field: str, store: Store) -> None:
        self._field = field
        self.store = store

    def refuse(
        self, key: str, why: str, next_step: str, *, reason: str = "SuiteInvalid"
    ) -> NoReturn:
        """Raise a DataError about one of the files."""
        raise DataError(
            f"{self._field}: {self.store.uri}/{key}: {why}", reason=reason, next_step=next_step
        )

    def read_settings(self, key: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return what a file says, over what the files say that it includes."""
        if key in seen:
            self.refuse(key, "includes itself", "take the include out")
        try:
            settings = yaml.safe_load(self._read(key))
        except yaml.constructor.ConstructorError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            self.refuse(
                key,
                f"line {line}: {error.problem}: code of a task is never run",
                "say it by templates, or write the values into the data",
                reason="RemoteCodeRefused",
            )
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            self.refuse(key, f"no YAML: {error}", "correct the file")
        if not isinstance(settings, dict):
            self.refuse(key, "no mapping of names to values", "correct the file")
        included = settings.pop("include", [])
        merged: dict[str, Any] = {}
        for name in included if isinstance(included, list) else [included]:
            merged |= self.read_settings(self.locate(key, name), (*seen, key))
        return merged | settings

    def locate(self, key: str, name: object) -> str:
        """Return the key of a file that another names."""
        path = PurePosixPath(str(name))
        if not isinstance(name, str) or path.is_absolute() or ".." in path.parts:
            self.refuse(key, f"{name!r} is no file beside it", "put it into the folder of the task")
        return str(path)

    def check_lines(self, key: str) -> None:
        """Refuse data that are no JSON lines."""
        number = 0
        for number, line in enumerate(self._read(key).splitlines(), start=1):
            try:
                is_record = isinstance(json.loads(line), dict)
            except ValueError:
                is_record = False
            if not is_record:
                self.refuse(f"{key}:{number}", "no JSON object", "correct the line")
        if number == 0:
            self.refuse(key, "holds no example", "give at least one line")

    def _read(self, key: str) -> bytes:
        try:
            return self.store.read_bytes(key)
        except ObjectMissingError:
            self.refuse(key, "there is no such object", "upload it there, or correct its name")


def _find_files(reader: _Reader, name: str, settings: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    path, options = settings.pop("dataset_path", None), settings.pop("dataset_kwargs", None)
    files = options.get("data_files") if isinstance(options, dict) and len(options) == 1 else None
    if path != "json" or not isinstance(files, dict) or not files:
        reader.refuse(
            name,
            f"its data are {path!r}, and can be JSON lines beside it only",
            "give dataset_path: json and dataset_kwargs: {data_files: {test: data.jsonl}}",
        )
    found = {
        str(part): tuple(
            reader.locate(name, key) for key in (keys if isinstance(keys, list) else [keys])
        )
        for part, keys in files.items()
    }
    for key in {key for keys in found.values() for key in keys}:
        reader.check_lines(key)
    named = {key: settings[key] for key in SPLITS if settings.get(key) is not None}
    if not any(key in named for key in SPLITS[:2]):
        reader.refuse(name, f"{' or '.join(SPLITS[:2])} is missing", f"one of {', '.join(found)}")
    for key, part in named.items():
        if part not in found:
            reader.refuse(name, f"{key}: no part {part!r}", f"one of {', '.join(found)}")
    return found


def _find_metrics(reader: _Reader, name: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    known = SUITE_METRICS[SuiteKind.HARNESS]
    if settings.get("metric_list") is None:
        return DEFAULT_METRICS[settings["output_type"]]
    metrics = tuple(_list_metrics(settings["metric_list"]))
    for metric in metrics:
        if metric not in known:
            reader.refuse(
                name, f"metric_list: {metric!r} cannot be measured", f"known: {', '.join(known)}"
            )
    return metrics


def _list_metrics(entries: Any) -> Iterator[str]:
    for entry in entries if isinstance(entries, list) else [entries]:
        is_plain = isinstance(entry, dict) and not entry.get("hf_evaluate")
        yield str(entry.get("metric")) if is_plain else str(entry)
