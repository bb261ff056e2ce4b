"""Does the store really refuse to create what exists?

Below: the protocol. Above: `train`, at its start; the answer becomes the job's condition
StorageSafe. Some S3 servers ignore the condition of a conditional write and replace the object.
"""

from __future__ import annotations

import uuid

from llmtrain_trainer.store.errors import ObjectExistsError
from llmtrain_trainer.store.protocol import Store


def probe_conditional_create(store: Store) -> bool:
    """Create an object twice and return whether the second time was refused."""
    key = f"probes/{uuid.uuid4().hex}"
    try:
        store.create_bytes(key, b"first")
        try:
            store.create_bytes(key, b"second")
        except ObjectExistsError:
            return store.read_bytes(key) == b"first"
        return False
    finally:
        store.delete(key)
