"""What an older run reached, to compare with.

Below: `store`. Above: `prepare` asks whether it is there before anything is trained, `evaluate`
judges gates by it.
"""

from __future__ import annotations

import json

from llmtrain_api.gates import parse_gate
from llmtrain_api.run import RunConfig
from llmtrain_trainer.evaluation.verdict import REPORT_DATA, Metrics
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.store import ObjectMissingError, open_store

NEXT_STEP = "give the status.provenance.runUri of a job that was evaluated to its end"


def read_baseline(config: RunConfig) -> Metrics:
    """Return the metrics of the run that evaluation.baseline names, as baseline.loss and so on.

    Raises:
        ConfigurationError: the run was not evaluated, or not by what a gate wants of it.
    """
    if config.evaluation.baseline is None:
        return {}
    uri = config.evaluation.baseline.run.rstrip("/")
    try:
        report = json.loads(open_store(uri, config.storage).read_bytes(REPORT_DATA))
    except ObjectMissingError:
        raise _refuse(f"{uri} has no {REPORT_DATA}: it was not evaluated") from None
    if "metrics" not in report:
        raise _refuse(f"{uri}/{REPORT_DATA} has no metrics: it was written by an older version")
    metrics = {f"baseline.{name}": value for name, value in report["metrics"].items()}
    for index, gate in enumerate(config.evaluation.gates):
        for name in parse_gate(gate).names:
            if name.startswith("baseline.") and metrics.get(name) is None:
                raise _refuse(f"{uri} has no {name} for spec.evaluation.gates[{index}]")
    return metrics


def _refuse(what: str) -> ConfigurationError:
    message = f"spec.evaluation.baseline.run: {what}"
    return ConfigurationError(message, reason="BaselineInvalid", next_step=NEXT_STEP)
