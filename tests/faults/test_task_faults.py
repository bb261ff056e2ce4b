"""Tasks of preparation killed in each phase: pods of two nodes, a real operator and store."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from llmtrain_api.naming import locate_dataset
from llmtrain_api.run import StorageConfig
from llmtrain_api.status import Phase
from llmtrain_trainer.preparation.claims import ALIVE
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.store import open_store
from testbed.agent_world import AgentWorld
from testbed.small_job import BUCKET
from testbed.tiny_run import configure_tiny_run

STEPS = 100_000
"""More than the test waits for."""

NUM_TASKS = 4
NUM_FILES = 5
COPIES = 19
"""Of each topic in a file, each with other words: a file holds what is a unit of work by itself."""

DATA: dict[str, Any] = {
    "sources": [{"uri": f"s3://{BUCKET}/topics/"}],
    "privacy": {"action": "replace"},
    "tokenizer": {"kind": "bpe"},
    "split": {"method": "document", "validationFraction": 0.1},
}


def write_files(world: AgentWorld) -> None:
    """Put a corpus of many files into the store."""
    client = world.minio.connect()
    for number in range(NUM_FILES):
        lines = [
            json.dumps({"text": text.replace(" ", f" {number}{copy} ", 200)})
            for copy in range(COPIES)
            for text in topics.values()
        ]
        data = "\n".join(lines).encode()
        client.put_object(BUCKET, f"topics/{number:02d}.jsonl", io.BytesIO(data), len(data))


def read_digests(uri: str, fingerprint: str, storage: StorageConfig) -> dict[str, str]:
    """Return the digest of each object that the manifest of a dataset lists, and what lies there
    beside them. The last sign of life of a task may outlast the sweep: its pod is deleted once
    task 0 is done, and a pod that is killed deletes nothing. The next job with this data does.
    """
    store = open_store(locate_dataset(uri, fingerprint), storage)
    manifest = json.loads(store.read_bytes("manifest.json"))
    listed = {item["key"]: item["sha256"] for item in manifest["objects"]}
    others = {
        item.key: ""
        for item in store.list_objects()
        if item.key not in listed and not item.key.startswith(ALIVE)
    }
    return {**listed, **others}


def test_tasks_killed_in_each_phase_make_the_same_dataset(
    world: AgentWorld, tmp_path: Path
) -> None:
    def says(pod: str, words: str) -> bool:
        found = world.jobs.list_pods().get(pod)
        has_begun = found is not None and found["status"]["phase"] != "Pending"
        return has_begun and words in world.nodes.read_log(pod)

    def kill_when(pod: str, words: str) -> None:
        world.await_condition(lambda: says(pod, words), f"{pod} to say {words}")
        world.nodes.kill_agent(pod)

    write_files(world)
    world.apply(steps=STEPS, data={**DATA, "tasks": NUM_TASKS})
    kill_when("tiny-prepare-1-0", "begins read/")
    kill_when("tiny-prepare-0-0", "begins with the tokenizer")
    nodes = {pod["spec"].get("nodeName") for pod in world.jobs.list_pods().values()} - {None}
    assert nodes == set(world.nodes.names)
    kill_when("tiny-prepare-2-0", "begins tokens/")
    job = world.await_job(lambda j: j.status.phase is Phase.TRAINING, "training to begin")
    assert {(a.index, a.incarnation) for a in job.status.attempts} == {(0, 0), (1, 0), (2, 0)}

    # Pods that came too late to do anything have been deleted; their logs are there.
    logs = [path.read_text() for path in (tmp_path / "pods").glob("tiny-prepare-*/log")]
    lines = "\n".join(logs).splitlines()
    units = Counter(line.partition(" did ")[2] for line in lines if " did " in line)
    assert set(units.values()) == {1}
    # A task may be killed when it has put a record and not yet said so.
    assert sum(name.startswith("read/") for name in units) in (NUM_FILES - 1, NUM_FILES)
    assert sum(name.startswith("tokens/") for name in units) > 2

    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "accessKey").write_text(world.minio.access_key)
    (keys / "secretKey").write_text(world.minio.secret_key)
    config = configure_tiny_run(
        tmp_path,
        run="reference",
        run_uri=f"s3://{BUCKET}/reference/run",
        data=DATA,
        storage={
            "uri": f"s3://{BUCKET}/reference",
            "localRoot": None,
            "endpoint": world.minio.endpoint,
            "credentialsDirectory": str(keys),
        },
    )
    alone = run_prepare(config, Reporter(0, lambda update: None))
    assert job.status.results is not None
    assert job.status.results.dataset == alone.dataset
    made = [
        read_digests(uri, str(alone.dataset), config.storage)
        for uri in (job.spec.storage.uri, config.storage.uri)
    ]
    assert made[0] == made[1]
