"""What every model of the contract is built from: naming, strictness and CEL rules.

Below: pydantic. Above: every other module of this package.

YAML is camelCase, Python is snake_case. Models refuse unknown fields, so that a typo in a
manifest is an error and not a silence; what comes back from a cluster, possibly written by a
newer version, is read by `read_lenient`, which ignores them.
"""

from __future__ import annotations

from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

GROUP = "llmtrain.dev"
VERSION = "v1alpha1"
API_VERSION: Final = "llmtrain.dev/v1alpha1"
KIND: Final = "LLMTrainingJob"
PLURAL = "llmtrainingjobs"

MAX_NAME_CHARACTERS = 52
"""Longest job name: a worker's host name, as `<job>-train-9999` or `<job>-prepare-99`, must fit
in the 63 characters of a DNS label."""


class Model(BaseModel):
    """Base of every model of the contract."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    def dump(self) -> dict[str, Any]:
        """Return the model as JSON-ready camelCase data, without absent fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def read_lenient(cls, data: dict[str, Any]) -> Self:
        """Read data that a newer version may have written: unknown fields are ignored.

        Raises:
            pydantic.ValidationError: where a known field is invalid.
        """
        return cls.model_validate(data, extra="ignore")


def cel(rule: str, message: str, *, field: str | None = None) -> dict[str, Any]:
    """Return one `x-kubernetes-validations` entry for `json_schema_extra`.

    Pydantic enforces the same rule in a validator; a test holds the two together.

    Args:
        rule: A CEL expression over `self`, and `oldSelf` where it is about a change.
        message: What is allowed, for people.
        field: The field to blame, below the model that carries the rule; absent: the model.
    """
    entry: dict[str, Any] = {"rule": rule, "message": message}
    if field is not None:
        entry["fieldPath"] = f".{field}"
    return entry
