"""What an older run reached, to compare with.

Below: `store`. Above: `prepare` asks whether it is there before anything is trained, `evaluate`
judges gates by it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from typing import Any

from llmtrain_api.evaluation import Baseline, names_any
from llmtrain_api.gates import parse_gate
from llmtrain_api.run import RunConfig
from llmtrain_trainer.evaluation.verdict import REPORT_DATA, Metrics
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.store import ObjectMissingError, open_store

SHOWN_LABELS = 10

NEXT_STEP = "give the status.provenance.runUri of a job that was evaluated to its end"


def read_baseline(config: RunConfig) -> Metrics:
    """Return the metrics of the run that evaluation.baseline names, as baseline.loss and so on.

    Raises:
        ConfigurationError: the run was not evaluated, or not by what a gate wants of it.
    """
    if config.evaluation.baseline is None:
        return {}
    uri, report = _read_report(config, config.evaluation.baseline)
    if "metrics" not in report:
        raise _refuse(f"{uri}/{REPORT_DATA} has no metrics: it was written by an older version")
    metrics = {f"baseline.{name}": value for name, value in report["metrics"].items()}
    for index, gate in enumerate(config.evaluation.gates):
        for name in parse_gate(gate).names:
            if name.startswith("baseline.") and metrics.get(name) is None:
                raise _refuse(f"{uri} has no {name} for spec.evaluation.gates[{index}]")
    return metrics


def check_baseline_labels(config: RunConfig, labels: Sequence[str]) -> None:
    """Refuse gates on an older run that chose among other labels than there are now.

    Args:
        config: the run.
        labels: of its prepared data; none where no documents are classified.

    Raises:
        ConfigurationError: names the labels that only one of them has.
    """
    baseline = config.evaluation.baseline
    if baseline is None or not names_any(config.evaluation.gates, "baseline."):
        return
    uri, report = _read_report(config, baseline)
    others = {label["label"] for label in report.get("classification", {}).get("labels", [])}
    if others == set(labels):
        return
    only = [_show(others - set(labels)), _show(set(labels) - others)]
    raise _refuse(
        f"its metrics are of other labels: only {uri} has {only[0]}, only the data of this job "
        f"{only[1]}"
    )


def _show(labels: Set[str]) -> str:
    shown = ", ".join(sorted(labels)[:SHOWN_LABELS]) or "no label"
    return f"{shown}, …" if len(labels) > SHOWN_LABELS else shown


def _read_report(config: RunConfig, baseline: Baseline) -> tuple[str, dict[str, Any]]:
    uri = baseline.run.rstrip("/")
    try:
        return uri, json.loads(open_store(uri, config.storage).read_bytes(REPORT_DATA))
    except ObjectMissingError:
        raise _refuse(f"{uri} has no {REPORT_DATA}: it was not evaluated") from None


def _refuse(what: str) -> ConfigurationError:
    message = f"spec.evaluation.baseline.run: {what}"
    return ConfigurationError(message, reason="BaselineInvalid", next_step=NEXT_STEP)
