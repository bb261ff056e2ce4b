"""Whether a model that is trained and evaluated is what was asked for.

Below: the contract's gates; the evaluation has judged them. Above: `endings`. A gate that failed
ends the run like a failure that is not retried: the same model would be judged alike.
"""

from __future__ import annotations

from llmtrain_api.evaluation import EvaluationSpec
from llmtrain_api.gates import describe_result
from llmtrain_api.records import StageResult
from llmtrain_operator.plan.ladder import End

MAX_MESSAGE_CHARACTERS = 2048
"""What a condition and the status take."""

MAX_GATES_NAMED = 4
"""Failed gates that the message explains; the report has all of them."""


def find_failed_gates(evaluation: EvaluationSpec, results: StageResult | None) -> End | None:
    """Return why the model is not good enough; None where every gate holds, or there is none."""
    if not evaluation.gates:
        return None
    if results is None or results.gates is None or len(results.gates) != len(evaluation.gates):
        return _end(
            "The model is trained and exported, and spec.evaluation.gates were not judged: use an "
            "operator and a trainer image of the same version"
        )
    failed = [
        f"spec.evaluation.gates[{index}] ({gate}): {describe_result(gate, result)}"
        for index, (gate, result) in enumerate(zip(evaluation.gates, results.gates, strict=True))
        if not result.passed
    ]
    if not failed:
        return None
    named = "; ".join(failed[:MAX_GATES_NAMED])
    if len(failed) > MAX_GATES_NAMED:
        named += f"; and {len(failed) - MAX_GATES_NAMED} more"
    report = f"; {results.report_uri} shows where it fails" if results.report_uri else ""
    return _end(
        f"The model is trained and exported, but fails {len(failed)} of {len(results.gates)} "
        f"gates. {named}{report}. The export stays, marked by its verdict.json: mend data or "
        "training, or the gates, in a job of another name"
    )


def _end(message: str) -> End:
    return End(reason="GateFailed", message=message[:MAX_MESSAGE_CHARACTERS])
