"""Whether a model satisfies the gates of its job, kept beside its export.

Below: the contract's gates, `store`. Above: `evaluate`; `report` shows it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtrain_api.gates import describe_result, judge_gate
from llmtrain_api.records import GateResult
from llmtrain_trainer.store import Store

REPORT_DATA = "evaluation/report.json"

VERDICT = "export/verdict.json"
"""Beside the weights, so that whoever takes the export finds out what it failed."""

Metrics = Mapping[str, float | None]
"""What was measured by the names that gates use; None: there is no such number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedGate:
    """A gate, and what came of it."""

    text: str
    result: GateResult

    @property
    def explanation(self) -> str:
        """What decided, in words."""
        return describe_result(self.text, self.result)

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data."""
        return {"gate": self.text, **self.result.dump(), "explanation": self.explanation}


def clean_metrics(metrics: Metrics) -> dict[str, float | None]:
    """Return the metrics with None for what JSON has no number for."""
    return {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in metrics.items()
    }


def judge_gates(gates: Sequence[str], metrics: Metrics) -> list[JudgedGate]:
    """Judge every gate, in their order."""
    return [JudgedGate(text=text, result=judge_gate(text, metrics)) for text in gates]


def write_verdict(store: Store, gates: Sequence[JudgedGate]) -> None:
    """Mark the export by what came of the gates, where there are any."""
    if not gates:
        return
    verdict = {
        "passed": all(gate.result.passed for gate in gates),
        "gates": [gate.dump() for gate in gates],
    }
    store.write_bytes(VERDICT, json.dumps(verdict, indent=1).encode())
