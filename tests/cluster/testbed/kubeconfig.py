"""Kubeconfig files: one cluster, one identity, everything embedded.

`control_plane` writes one for its administrator and one for each component.
"""

from __future__ import annotations

import base64
from pathlib import Path

import yaml

from testbed.certificates import Identity


def write_kubeconfig(path: Path, *, url: str, authority: Path, identity: Identity) -> Path:
    """Write a kubeconfig whose only context reaches ``url`` as ``identity``; returns ``path``."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "testbed",
                "cluster": {"server": url, "certificate-authority-data": _encode(authority)},
            }
        ],
        "users": [
            {
                "name": "testbed",
                "user": {
                    "client-certificate-data": _encode(identity.certificate),
                    "client-key-data": _encode(identity.key),
                },
            }
        ],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
        "current-context": "testbed",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
    return path


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
