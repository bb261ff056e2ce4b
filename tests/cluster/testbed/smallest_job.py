"""The smallest manifest that is a job, what becomes of it by changes, and sending it as it is.

Below: `control_plane`. Above: the tests of the definition.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from testbed.control_plane import ControlPlane

COLLECTION = "/apis/llmtrain.dev/v1alpha1/namespaces/{namespace}/llmtrainingjobs"
DRY_RUN = "?dryRun=All&fieldValidation=Strict"

SMALLEST: dict[str, Any] = {
    "apiVersion": "llmtrain.dev/v1alpha1",
    "kind": "LLMTrainingJob",
    "metadata": {"name": "tiny"},
    "spec": {
        "data": {"sources": [{"uri": "s3://corpus/books/"}]},
        "training": {"steps": 100},
        "storage": {"uri": "s3://models/tiny"},
    },
}


def change(manifest: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Copy the manifest and set fields; `spec__workers__replicas` is spec.workers.replicas."""
    changed = copy.deepcopy(manifest)
    for path, value in changes.items():
        *parents, field = path.split("__")
        place = changed
        for parent in parents:
            place = place.setdefault(parent, {})
        place[field] = value
    return changed


def create(server: ControlPlane, namespace: str, manifest: dict[str, Any], query: str) -> Any:
    """Send the manifest to the apiserver as it is; return what it answers."""
    collection = COLLECTION.format(namespace=namespace)
    answer = server.kubectl(
        "create", "--raw", collection + query, "-f", "-", input=json.dumps(manifest)
    )
    return json.loads(answer)


def patch(server: ControlPlane, namespace: str, body: dict[str, Any], *flags: str) -> None:
    """Merge `body` into the smallest job on the apiserver; `flags` are kubectl's."""
    server.kubectl(
        *("-n", namespace, "patch", "llmjob", "tiny", "--type=merge"),
        *("-p", json.dumps(body), *flags),
    )
