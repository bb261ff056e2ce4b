"""Whether an object of the API is already what it should be."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrain_operator.world.kube import has_fields

PORT = {"name": "metrics", "port": 9090}


@pytest.mark.parametrize(
    ("present", "wanted", "expected"),
    [
        ({"data": {"run.json": "1"}, "metadata": {"uid": "u"}}, {"data": {"run.json": "1"}}, True),
        ({"data": {"run.json": "2"}}, {"data": {"run.json": "1"}}, False),
        ({"metadata": {}}, {"data": {"run.json": "1"}}, False),
        ({"ports": [PORT | {"protocol": "TCP"}]}, {"ports": [PORT]}, True),
        ({"ports": [PORT, PORT]}, {"ports": [PORT]}, False),
        ({"data": None}, {"data": {"run.json": "1"}}, False),
    ],
)
def test_an_object_may_have_more_than_is_wanted(
    present: dict[str, Any], wanted: dict[str, Any], *, expected: bool
) -> None:
    assert has_fields(present, wanted) is expected
