"""`spec.evaluation`: what a trained model must reach, and what it is compared with.

Below: `base`, `gates`. Above: `training`, whose `EvaluationSpec` embeds these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from llmtrain_api.base import Model, cel
from llmtrain_api.gates import (
    GATE_PATTERN,
    GATE_RULE,
    MAX_GATE_CHARACTERS,
    NAME,
    NUMBER,
    check_names,
    parse_gate,
)
from llmtrain_api.sources import S3Uri

METRICS = {
    "loss": "nats for each target",
    "perplexity": "exp(loss)",
    "accuracy": "share of the targets that are right at the first guess",
    "bits_per_byte": "loss in bits for each byte of UTF-8, where every token is predicted",
}
"""What every evaluation measures, on all text of evaluation.split."""

UNIGRAM_METRICS = ("unigram.loss", "unigram.perplexity", "unigram.bits_per_byte")
"""The same of a model that knows the frequencies of tokens only."""

BASELINE_METRICS = tuple(f"baseline.{name}" for name in METRICS)
"""The same of the run that evaluation.baseline names."""

GATE_METRICS = (*METRICS, *UNIGRAM_METRICS, *BASELINE_METRICS)
"""All that a gate may name."""

NAMES_RULE = f"a gate names a metric that there is not; known here: {', '.join(GATE_METRICS)}"

BASELINE_RULE = (
    "a gate that names baseline.… needs evaluation.baseline; unigram.… needs nothing, the metrics "
    "of a model that knows the frequencies of tokens only"
)

BITS_PER_BYTE_RULE = (
    "evaluation.gates: bits_per_byte is not measured for bert and t5, which predict some of the "
    "tokens; use loss, perplexity or accuracy"
)


def check_gate(text: str) -> str:
    """Return the text of a gate.

    Raises:
        ValueError: it is none, or names what is never measured; see `parse_gate`, `check_names`.
    """
    check_names(parse_gate(text), GATE_METRICS)
    return text


def names_any(gates: Sequence[str], part: str) -> bool:
    """Tell whether a metric whose name has `part` in it is named in any of the gates."""
    return any(part in name for gate in gates for name in parse_gate(gate).names)


Gate = Annotated[
    str,
    AfterValidator(check_gate),
    Field(
        min_length=3,
        max_length=MAX_GATE_CHARACTERS,
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(f"self.matches(r'{GATE_PATTERN}')", GATE_RULE),
                cel(
                    f"self.findAll(r'{NUMBER}|{NAME}').all(word, word.matches('^[0-9]') || "
                    f"word in {list(GATE_METRICS)})",
                    NAMES_RULE,
                ),
            ]
        },
    ),
]


class Baseline(Model):
    """What the model is compared with."""

    run: S3Uri
    """A run of llmtrain that has been evaluated, as its status.provenance.runUri says, in the
    same store: its metrics are baseline.loss and so on in gates."""
