"""From pydantic models to the CustomResourceDefinition that the apiserver enforces.

Below: the models. Above: `__main__`, which writes the YAML.

The apiserver takes *structural* schemas: a subset of OpenAPI 3.0 without references, unions or
`additionalProperties: false`. Pydantic speaks JSON Schema 2020-12. `convert_schema` walks from
one to the other and refuses what it cannot carry over without loss, so that a model that the
server could not enforce fails here and not in a cluster. The rules are those of
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from llmtrain_api.base import GROUP, KIND, PLURAL, VERSION
from llmtrain_api.job import LLMTrainingJob

CARRIED_OVER = frozenset(
    {
        "description",
        "enum",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "pattern",
        "required",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-validations",
    }
)
"""Keywords that mean the same on both sides."""

DROPPED = frozenset({"title"})
"""Keywords that say nothing to the server."""

FORMATS = {"integer": "int64", "number": "double"}

PRINTER_COLUMNS: tuple[dict[str, Any], ...] = (
    {"name": "Status", "type": "string", "jsonPath": ".status.phase"},
    {"name": "Stage", "type": "string", "jsonPath": ".status.stage"},
    {"name": "Step", "type": "integer", "jsonPath": ".status.progress.step"},
    {"name": "Percent", "type": "integer", "jsonPath": ".status.progress.percent"},
    {"name": "Loss", "type": "number", "jsonPath": ".status.progress.loss"},
    {"name": "Workers", "type": "string", "jsonPath": ".status.workers.summary"},
    {"name": "Restarts", "type": "integer", "jsonPath": ".status.restarts"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {
        "name": "Validation",
        "type": "number",
        "jsonPath": ".status.progress.validationLoss",
        "description": "Newest loss on held-out text, nats per token.",
        "priority": 1,
    },
    {
        "name": "Tokens/s",
        "type": "number",
        "jsonPath": ".status.progress.tokensPerSecond",
        "priority": 1,
    },
    {
        "name": "Remaining",
        "type": "integer",
        "jsonPath": ".status.progress.remainingSeconds",
        "description": "Seconds until the last step, at the present speed.",
        "priority": 1,
    },
    {
        "name": "Checkpoint",
        "type": "integer",
        "jsonPath": ".status.checkpoint.step",
        "description": "Step of the newest committed checkpoint.",
        "priority": 1,
    },
    {
        "name": "Reason",
        "type": "string",
        "jsonPath": '.status.conditions[?(@.type=="Succeeded")].reason',
        "priority": 1,
    },
    {"name": "Message", "type": "string", "jsonPath": ".status.message", "priority": 1},
)
"""What `kubectl get` shows; priority 1 only with `-o wide`."""


SCALE = {
    "specReplicasPath": ".spec.workers.replicas",
    "statusReplicasPath": ".status.size.workers",
    "labelSelectorPath": ".status.size.selector",
}
"""What `kubectl scale` reads and writes."""


class SchemaError(ValueError):
    """A model says what a structural schema cannot; the message names the field."""


def build_crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of `LLMTrainingJob`."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": PLURAL.removesuffix("s"),
                "shortNames": ["llmjob"],
                "categories": ["llmtrain"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}, "scale": SCALE},
                    "additionalPrinterColumns": list(PRINTER_COLUMNS),
                    "schema": {"openAPIV3Schema": build_job_schema()},
                }
            ],
        },
    }


def build_job_schema() -> dict[str, Any]:
    """Return the structural schema of `LLMTrainingJob`."""
    schema = convert_model(LLMTrainingJob)
    properties = schema["properties"]
    # The server itself checks these three, and allows a schema to restrict a name, no more.
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    name = properties["metadata"]["properties"]["name"]
    properties["metadata"] = {"type": "object", "properties": {"name": name}}
    # Only the operator knows a status. That it has not spoken yet is all the server may say:
    # without this default, tools that wait for a job take one that nobody has seen for ready.
    properties["status"] = _without_defaults(properties["status"])
    properties["status"]["default"] = {"observedGeneration": -1}
    conditions = properties["status"]["properties"]["conditions"]
    conditions["x-kubernetes-list-type"] = "map"
    conditions["x-kubernetes-list-map-keys"] = ["type"]
    schema["required"] = ["metadata", "spec"]
    return _explain(schema)


def convert_model(model: type[BaseModel]) -> dict[str, Any]:
    """Return the structural schema of a pydantic model, with every reference inlined.

    Raises:
        SchemaError: the model has a union, a recursion, or a keyword without a counterpart.
    """
    schema = model.model_json_schema(by_alias=True)
    return convert_schema(schema, schema.get("$defs", {}), path=model.__name__)


def convert_schema(
    node: dict[str, Any],
    definitions: dict[str, Any],
    *,
    path: str,
    inside: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Convert one JSON Schema node.

    Args:
        node: The JSON Schema.
        definitions: What its `$ref`s refer to, by name.
        path: Where the node is, for messages.
        inside: Names of the definitions that the node lies in, against recursion.

    Raises:
        SchemaError: see `convert_model`.
    """
    node = _merge_nullable(node, path)
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        if name in inside:
            raise SchemaError(f"{path}: {name} contains itself; a CRD has no references")
        beside = {key: value for key, value in node.items() if key != "$ref"}
        merged = definitions[name] | beside
        return convert_schema(merged, definitions, path=path, inside=(*inside, name))

    converted: dict[str, Any] = {}
    for keyword, value in node.items():
        if keyword in CARRIED_OVER:
            converted[keyword] = value
        elif keyword == "properties":
            converted["properties"] = {
                name: convert_schema(child, definitions, path=f"{path}.{name}", inside=inside)
                for name, child in value.items()
            }
        elif keyword == "items":
            converted["items"] = convert_schema(value, definitions, path=f"{path}[]", inside=inside)
        elif keyword == "additionalProperties":
            # False is the server's rule anyway: it prunes, and refuses under strict validation.
            if isinstance(value, dict):
                converted[keyword] = convert_schema(
                    value, definitions, path=f"{path}.*", inside=inside
                )
        elif keyword == "const":
            converted["enum"] = [value]
        elif keyword == "exclusiveMinimum":
            converted |= {"minimum": value, "exclusiveMinimum": True}
        elif keyword == "exclusiveMaximum":
            converted |= {"maximum": value, "exclusiveMaximum": True}
        elif keyword == "default":
            if value is not None:
                converted["default"] = _without_none(value)
        elif keyword not in DROPPED and keyword != "$defs":
            raise SchemaError(f"{path}: {keyword} has no counterpart in a CRD")
    if converted.get("x-kubernetes-int-or-string"):
        # The server refuses a type beside it.
        del converted["type"]
        return converted
    if "type" not in converted:
        raise SchemaError(f"{path}: has no type; a CRD needs one everywhere")
    if converted["type"] in FORMATS:
        converted["format"] = FORMATS[converted["type"]]
    return converted


def _merge_nullable(node: dict[str, Any], path: str) -> dict[str, Any]:
    """Take the null out of `anyOf: [X, null]`: on the server, null is the same as absent."""
    if "anyOf" not in node:
        return node
    alternatives = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
    if len(alternatives) != 1:
        raise SchemaError(
            f"{path}: a union of {len(alternatives)} types; a CRD has none. "
            "Use one optional field for each and a CEL rule for exactly one of them"
        )
    merged: dict[str, Any] = dict(alternatives[0])
    return merged | {key: value for key, value in node.items() if key != "anyOf"}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def _without_defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema without any default, at any depth."""
    kept = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in kept:
        kept["properties"] = {
            name: _without_defaults(child) for name, child in kept["properties"].items()
        }
    if "items" in kept:
        kept["items"] = _without_defaults(kept["items"])
    return kept


def _explain(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with one-line descriptions that end in range and default.

    `kubectl explain` shows a field's description, and neither its bounds nor its default.
    """
    parts = [" ".join(schema.get("description", "").split())]
    if schema.get("type") in FORMATS:
        parts.append(_describe_range(schema))
    default = schema.get("default")
    if isinstance(default, bool):
        parts.append(f"Default: {str(default).lower()}.")
    elif isinstance(default, int | float) or (isinstance(default, str) and default):
        parts.append(f"Default: {default}.")
    explained = {"description": " ".join(part for part in parts if part)} | {
        key: value for key, value in schema.items() if key != "description"
    }
    if "properties" in explained:
        explained["properties"] = {
            name: _explain(child) for name, child in explained["properties"].items()
        }
    for keyword in ("items", "additionalProperties"):
        if keyword in explained:
            explained[keyword] = _explain(explained[keyword])
    if not explained["description"]:
        del explained["description"]
    return explained


def _describe_range(schema: dict[str, Any]) -> str:
    bounds = []
    if "minimum" in schema:
        word = "more than" if schema.get("exclusiveMinimum") else "at least"
        bounds.append(f"{word} {schema['minimum']}")
    if "maximum" in schema:
        word = "less than" if schema.get("exclusiveMaximum") else "at most"
        bounds.append(f"{word} {schema['maximum']}")
    return f"Allowed: {', '.join(bounds)}." if bounds else ""
