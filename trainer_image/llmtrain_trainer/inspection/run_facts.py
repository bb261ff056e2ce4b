"""What a store knows of a run: what it was told, what it was measured by, and how it learned.

Below: `store`, and the keys under which stages leave their records. Above: `run_comparison` and
what `llmtrain next` makes of a run. Nothing of torch, so that it answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llmtrain_api.run import RUN_RECORD, RunPlace
from llmtrain_api.training import DEFAULT_BATCH_SIZE
from llmtrain_trainer.checkpoint.manifest import CURVES
from llmtrain_trainer.dataset.shards import DATASET
from llmtrain_trainer.evaluation.verdict import REPORT_DATA
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.store import ObjectMissingError, Store, open_store

SHOWN_RUNS = 10
"""Runs that are named where one is not there."""

LISTED_OBJECTS = 20_000
"""Objects that are looked through for them."""

IDENTITY = frozenset({"name", "namespace", "uid", "runUri", "parent"})
"""Fields of the record that are no part of what a run is told to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run, as far as it has come."""

    place: RunPlace

    spec: Mapping[str, Any]
    """What it was told, as camelCase data: data, model, training, evaluation and so on."""

    parent: str | None
    """The run that it was made after."""

    dataset: str | None
    """Fingerprint of its data."""

    metrics: Mapping[str, float | None]
    """As gates name them; empty where it was not evaluated."""

    intervals: Mapping[str, tuple[float, float]]
    """Of metrics that have one."""

    parameters: int | None
    steps: int | None
    """Optimizer steps of the exported weights."""

    curve: Sequence[Mapping[str, float]]
    """Points {step, loss} and {step, validationLoss}; empty where training did not end."""

    lacks: tuple[str, ...]
    """Parts that it has not, and why, as sentences."""

    @property
    def tokens_per_step(self) -> int | None:
        """Tokens of a batch."""
        training = self.spec.get("training", {})
        length = training.get("sequenceLength")
        if length is None:
            return None
        if "batchTokens" in training:
            return int(training["batchTokens"])
        return int(training.get("batchSize", DEFAULT_BATCH_SIZE) * length)

    @property
    def tokens(self) -> int | None:
        """Tokens that it was trained on, repeated ones included."""
        if self.steps is None or self.tokens_per_step is None:
            return None
        return self.steps * self.tokens_per_step


def read_run(place: RunPlace) -> RunFacts:
    """Return what the store has of a run.

    Raises:
        StoreError: there is no run; names those that there are.
    """
    store = open_store(place.uri.rstrip("/"), place.storage)
    record, report = _read_json(store, RUN_RECORD), _read_json(store, REPORT_DATA)
    dataset, curve = _read_json(store, DATASET), _read_json(store, CURVES)
    if record is None and report is None and dataset is None:
        raise StoreError(
            f"{place.uri} is no run of llmtrain; {_describe_neighbours(place)}",
            reason="RunMissing",
            next_step="give a status.provenance.runUri, or the name of a job that ran here",
        )
    lacks = []
    if record is None:
        lacks.append("it has no run.json, being of an older version: of its spec only what its "
                     "report shows is compared")  # fmt: skip
    if report is None:
        lacks.append("it was not evaluated: it has no metrics")
    if curve is None:
        lacks.append("its training did not end: it has no curve")
    if place.usage is None:
        lacks.append("its ledger is in the status of its job, in the cluster: it has no times")
    report = report or {}
    told = record or {key: report[key] for key in ("model", "training") if key in report}
    return RunFacts(
        place=place,
        spec={key: value for key, value in told.items() if key not in IDENTITY},
        parent=told.get("parent"),
        dataset=None if dataset is None else dataset["fingerprint"],
        metrics=report.get("metrics", {}),
        intervals=_read_intervals(report),
        parameters=report.get("parameters"),
        steps=report.get("step"),
        curve=curve or report.get("curve", []),
        lacks=tuple(lacks),
    )


def _read_intervals(report: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    found = report.get("classification", {}).get("intervals", {})
    return {name: (low, high) for name, (low, high) in found.items()}


def _read_json(store: Store, key: str) -> Any:
    try:
        return json.loads(store.read_bytes(key))
    except ObjectMissingError:
        return None


def _describe_neighbours(place: RunPlace) -> str:
    """Say which runs lie beside one that is not there, or in its storage."""
    parts = place.uri.rstrip("/").split("/")
    # s3: / / bucket / … / runs / namespace / name: two up is where the runs of all namespaces lie.
    above = "/".join(parts[: max(3, len(parts) - 2)])
    store = open_store(above, place.storage)
    keys = (item.key for item in islice(store.list_objects(), LISTED_OBJECTS))
    found = (key.removesuffix(f"/{DATASET}") for key in keys if key.endswith(f"/{DATASET}"))
    runs = [f"{above}/{run}" for run in islice(found, SHOWN_RUNS)]
    return f"below {above} there are: {', '.join(runs)}" if runs else f"below {above} there is none"
