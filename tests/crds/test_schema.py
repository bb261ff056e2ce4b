"""The generator: what it carries over, what it refuses, and that its files are up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from llmtrain_api.__main__ import main
from llmtrain_api.base import Model
from llmtrain_api.schema import SchemaError, build_crd, build_job_schema, convert_model


def walk_fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from walk_fields(child, f"{path}.{name}")
    if "items" in schema:
        yield from walk_fields(schema["items"], f"{path}[]")


SPEC_AND_STATUS = [
    (path, schema)
    for path, schema in walk_fields(build_job_schema())
    if path.startswith((".spec", ".status"))
]


def test_committed_files_are_what_the_models_say() -> None:
    assert main(["--check"]) == 0


def test_check_fails_on_a_difference_and_a_run_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    assert "crds/llmtrainingjobs.yaml is not what the models say" in capsys.readouterr().out
    assert main([]) == 0
    assert main(["--check"]) == 0


def test_every_field_is_described() -> None:
    assert [path for path, schema in SPEC_AND_STATUS if not schema.get("description")] == []


def test_descriptions_end_in_range_and_default() -> None:
    fields = dict(SPEC_AND_STATUS)
    assert fields[".spec.training.sequenceLength"]["description"].endswith(
        "Allowed: at least 8, at most 1048576. Default: 256."
    )
    assert fields[".spec.data.split.validationFraction"]["description"].endswith(
        "Allowed: more than 0.0, at most 0.5. Default: 0.05."
    )


def test_parents_default_to_full_objects_so_that_their_children_default() -> None:
    """The server descends into an object's defaults only where the object exists."""
    for path, schema in SPEC_AND_STATUS:
        if path.startswith(".spec") and schema.get("type") == "object" and "default" in schema:
            children = schema.get("properties", {})
            defaulted = {name for name, child in children.items() if "default" in child}
            assert defaulted <= set(schema["default"]), path


def test_status_says_only_that_nobody_has_looked_yet() -> None:
    status = build_job_schema()["properties"]["status"]
    assert status["default"] == {"observedGeneration": -1}
    assert not [path for path, schema in walk_fields(status) if "default" in schema]


def test_conditions_are_a_map_by_type() -> None:
    conditions = dict(SPEC_AND_STATUS)[".status.conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_columns_that_people_see_without_asking() -> None:
    columns = build_crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == [
        "Status",
        "Stage",
        "Step",
        "Percent",
        "Loss",
        "Workers",
        "Restarts",
        "Age",
    ]


class Bounds(Model):
    share: float = Field(default=0.5, gt=0.0, lt=1.0)
    count: int | None = Field(default=None, ge=3)
    labels: dict[str, str] = Field(default={}, max_length=4)


class Choice(Model):
    value: int | str


class Tree(Model):
    children: list[Tree] = Field(default=[])


class Anything(Model):
    value: Any


class Pair(Model):
    value: tuple[int, str]


def test_exclusive_bounds_become_flags_and_null_becomes_absence() -> None:
    assert convert_model(Bounds)["properties"] == {
        "share": {
            "type": "number",
            "format": "double",
            "default": 0.5,
            "minimum": 0.0,
            "exclusiveMinimum": True,
            "maximum": 1.0,
            "exclusiveMaximum": True,
        },
        "count": {"type": "integer", "format": "int64", "minimum": 3},
        "labels": {
            "type": "object",
            "default": {},
            "additionalProperties": {"type": "string"},
            "maxProperties": 4,
        },
    }


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (Choice, r"Choice\.value: a union of 2 types"),
        (Tree, r"Tree\.children\[\]: Tree contains itself"),
        (Anything, r"Anything\.value: has no type"),
        (Pair, r"Pair\.value: prefixItems has no counterpart"),
    ],
)
def test_what_a_structural_schema_cannot_say_is_refused(model: type[Model], complaint: str) -> None:
    with pytest.raises(SchemaError, match=complaint):
        convert_model(model)
