"""Keeping pods away from nodes, as a node affinity, and reading it back from a pod.

Below: nothing. Above: `pods` renders it, `world.pod_facts` reads it.

A node is named by its field and not by its host name's label, which may differ. Such a
requirement takes one name, so there is one for each node; all of them must hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NAME_FIELD = "metadata.name"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def render_avoidance(nodes: Iterable[str]) -> dict[str, Any]:
    """Return the affinity of a pod that may run on none of the nodes."""
    fields = [{"key": NAME_FIELD, "operator": "NotIn", "values": [node]} for node in nodes]
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchFields": fields}]}}}


def read_avoided_nodes(spec: dict[str, Any]) -> frozenset[str]:
    """Return the nodes that a pod's spec keeps it away from."""
    required = spec.get("affinity", {}).get("nodeAffinity", {}).get(REQUIRED, {})
    return frozenset(
        value
        for term in required.get("nodeSelectorTerms", [])
        for field in term.get("matchFields", [])
        if (field["key"], field["operator"]) == (NAME_FIELD, "NotIn")
        for value in field["values"]
    )
