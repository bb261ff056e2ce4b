"""What the next run does differently: findings as lists in the store, and advice by the curve.

Below: `run_facts`, `advice`, the contract's findings. Above: `run_commands`, which hands the
changes to `llmtrain next`.

Only findings about training text become changes: what a model is measured by must not be changed
by what the model holds for right.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from llmtrain_api.data import DataSpec
from llmtrain_api.findings import (
    FINDINGS,
    Change,
    Finding,
    Findings,
    Part,
    RelabelLine,
)
from llmtrain_api.network import ModelSpec
from llmtrain_api.run import RunPlace
from llmtrain_api.training import TrainingSpec
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.inspection.advice import advise_training
from llmtrain_trainer.inspection.run_facts import RunFacts, read_run
from llmtrain_trainer.store import ObjectMissingError, Store, open_store

LISTS = "next/"
"""Prefix below a run of the lists that its successor reads."""

DIGEST_CHARACTERS = 12
"""Lists are named by their content, so that the same findings give the same manifest."""


def plan_successor(place: RunPlace, *, min_confidence: float, keeps_training: bool) -> list[Change]:
    """Return what to change of a run's spec; lists that the changes name are in the store then.

    Args:
        place: the run.
        min_confidence: findings about single documents that are less sure are left out.
        keeps_training: whether only the data is changed.

    Raises:
        ConfigurationError: the run does not say what it was told.
        StoreError: there is no such run, or the store fails.
    """
    facts = read_run(place)
    if "data" not in facts.spec:
        raise ConfigurationError(
            f"{place.uri} has no run.json, being of an older version",
            reason="RunMissing",
            next_step="run its job again with this version",
        )
    store = open_store(place.uri, place.storage)
    changes = change_data(store, read_findings(store), facts.spec["data"], min_confidence)
    return changes if keeps_training else [*changes, *change_training(facts)]


def read_findings(store: Store) -> list[Finding]:
    """Return what the evaluation of the run at the root of `store` found out about training text.

    Raises:
        StoreError: the store fails.
    """
    try:
        data = json.loads(store.read_bytes(FINDINGS))
    except ObjectMissingError:
        return []
    return [f for f in Findings.read_lenient(data).findings if f.part is Part.TRAIN]


def change_data(
    store: Store, findings: Sequence[Finding], data: dict[str, Any], min_confidence: float
) -> list[Change]:
    """Return the changes of spec.data, after writing the lists that they name.

    Args:
        store: rooted at the run.
        findings: about training text.
        data: the run's spec.data, as camelCase data.
        min_confidence: of findings about single documents.
    """
    spec = DataSpec.read_lenient(data)
    dropped = dict.fromkeys(
        drop.document
        for finding in findings
        for drop in finding.drop
        if drop.confidence >= min_confidence
    )
    relabelled = {
        one.document: RelabelLine(
            document=one.document, from_label=one.from_label, to_label=one.to_label
        ).model_dump_json(by_alias=True)
        for finding in findings
        for one in finding.relabel
        if one.confidence >= min_confidence and one.document not in dropped
    }
    sure = f"with a confidence of at least {min_confidence:g}"
    changes = []
    if dropped:
        lists = [source.dump() for source in spec.privacy.erase]
        uri = _write_list(store, "erase", list(dropped))
        why = f"{len(dropped)} documents to leave out, {sure}. {_explain(findings, 'drop')}"
        value = [*lists, {"uri": uri}]
        changes.append(Change(path="data.privacy.erase", value=value, reason=why))
    if relabelled:
        lists = [source.dump() for source in spec.relabel]
        uri = _write_list(store, "relabel", list(relabelled.values()))
        why = f"{len(relabelled)} documents get another label, {sure}. "
        why += _explain(findings, "relabel")
        changes.append(Change(path="data.relabel", value=[*lists, {"uri": uri}], reason=why))
    return [*changes, *_weigh_sources(findings, spec)]


def change_training(facts: RunFacts) -> list[Change]:
    """Return the changes of spec.model and spec.training that the curve suggests."""
    model = ModelSpec.read_lenient(facts.spec["model"])
    training = TrainingSpec.read_lenient(facts.spec["training"])
    return advise_training(facts.curve, model, training)


def _weigh_sources(findings: Sequence[Finding], spec: DataSpec) -> list[Change]:
    """Return the weights of sources; where several findings are about one, their factors meet."""
    changes = []
    for number, source in enumerate(spec.sources):
        found = [(f, w) for f in findings for w in f.weigh if w.source == number]
        if found:
            weight = math.prod([source.weight, *(weigh.factor for _, weigh in found)])
            why = " ".join(finding.summary for finding, _ in found)
            path = f"data.sources[{number}].weight"
            changes.append(Change(path=path, value=weight, reason=why))
    return changes


def _write_list(store: Store, kind: str, lines: Sequence[str]) -> str:
    """Write a list to the store, and return its URI."""
    content = "".join(f"{line}\n" for line in lines).encode()
    digest = hashlib.sha256(content).hexdigest()[:DIGEST_CHARACTERS]
    suffix = "jsonl" if kind == "relabel" else "txt"
    key = f"{LISTS}{kind}-{digest}.{suffix}"
    store.write_bytes(key, content)
    return f"{store.uri}/{key}"


def _explain(findings: Sequence[Finding], action: str) -> str:
    return " ".join(finding.summary for finding in findings if getattr(finding, action))
