"""What a run came to, as one digest: its losses and its weights, bit for bit.

Below: `minio`. Above: `soak_agents` and `soak_nodes`, which compare runs.
"""

from __future__ import annotations

import hashlib

from llmtrain_api import JobStatus
from testbed.minio import MinioServer


def digest_run(minio: MinioServer, bucket: str, status: JobStatus) -> str:
    """Return the sha256 over the curves and the exported tensors of a run that has succeeded."""
    assert status.results is not None
    assert status.results.export_uri is not None
    client = minio.connect()
    prefix = status.results.export_uri.removeprefix(f"s3://{bucket}/")
    keys = [
        str(found.object_name)
        for found in client.list_objects(bucket, f"{prefix}/", recursive=True)
        if str(found.object_name).endswith(".safetensors")
    ]
    digest = hashlib.sha256()
    for key in (prefix.removesuffix("export") + "curves.json", *sorted(keys)):
        with client.get_object(bucket, key) as answer:
            digest.update(answer.read())
    return digest.hexdigest()
