"""Who may write what: older attempts, other runs, stores without conditions, artefacts with code.

Rows 17, 18, 22 and 26. Real ranks on a real MinIO.
"""

from __future__ import annotations

import io
import json
import pickle
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from llmtrain_api.run import RunConfig
from llmtrain_trainer.checkpoint.manifest import MANIFEST, CheckpointManifest
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.store import Store, open_store
from llmtrain_trainer.store.described import describe_file
from llmtrain_trainer.store.folder import FolderStore
from llmtrain_trainer.tokenizer.tokenization import fetch_tokenizer, make_tokenizer
from testbed.fault_log import FaultWatch
from testbed.interceptor import Interceptor
from testbed.minio import MinioServer
from testbed.ranks import RunningRanks
from testbed.tiny_run import configure_tiny_run

BUCKET = "tiny-bucket"
STEPS = 1_000_000
CHECKPOINT_STEPS = 10


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MinioServer]:
    server = MinioServer(tmp_path / "minio")
    try:
        server.start()
        server.create_bucket(BUCKET)
        text = "\n".join(list(topics.values())[:12]).encode()
        server.connect().put_object(BUCKET, "topics.txt", io.BytesIO(text), len(text))
        yield server
    finally:
        server.kill()


def configure(server: MinioServer, root: Path, run: str, **storage: Any) -> RunConfig:
    keys = root / "keys"
    keys.mkdir(exist_ok=True)
    (keys / "accessKey").write_text(server.access_key)
    (keys / "secretKey").write_text(server.secret_key)
    config = configure_tiny_run(
        root,
        run=run,
        training={**configure_tiny_run(root).training.dump(), "steps": STEPS},
        evaluation={"everySteps": STEPS},
        checkpoint={"everySteps": CHECKPOINT_STEPS},
        storage={
            "uri": f"s3://{BUCKET}",
            "localRoot": None,
            "endpoint": server.endpoint,
            "credentialsDirectory": str(keys),
            **storage,
        },
    )
    run_prepare(config, Reporter(0, lambda update: None))
    return config


def has_saved(ranks: RunningRanks, *, times: int) -> bool:
    return len(ranks.logs[0].list_facts("checkpoint_step")) >= times


def read_manifests(store: Store) -> dict[str, bytes]:
    return {
        item.key: store.read_bytes(item.key)
        for item in store.list_objects("checkpoints/")
        if item.key.endswith(f"/{MANIFEST}")
    }


@pytest.mark.fault(17, world="ranks")
def test_an_older_attempt_that_wakes_up_changes_nothing(
    server: MinioServer, tmp_path: Path, fault: FaultWatch
) -> None:
    config = configure(server, tmp_path, "zombie")
    store = open_store(config.run_uri, config.storage)
    old = RunningRanks(config)
    old.watch(lambda: bool(old.logs[0].list_facts("checkpoint_step")))
    old.signal(signal.SIGSTOP)

    new = RunningRanks(config, round_number=2)
    steps = new.logs[0]
    new.watch(lambda: len(steps.list_facts("checkpoint_step")) > 3)
    new.signal(signal.SIGSTOP)
    committed = read_manifests(store)
    newest = max(committed)
    assert CheckpointManifest.model_validate_json(committed[newest]).round == 2

    old.signal(signal.SIGCONT)
    fault.strikes()
    last = max(int(step) for step in steps.list_facts("checkpoint_step"))
    old.watch(lambda: old.logs[0].step > last + CHECKPOINT_STEPS)
    old.kill()
    left = read_manifests(store)
    changed = {key for key in committed.keys() & left.keys() if committed[key] != left[key]}
    assert changed == set()
    assert newest in left
    new.signal(signal.SIGCONT)
    new.watch(lambda: max(steps.list_facts("checkpoint_step")) > last + CHECKPOINT_STEPS)
    new.kill()
    fault.is_over()
    fault.said(f"{len(committed)} manifests of round 2 as they were; round 2 went on")


@pytest.mark.fault(18, world="ranks")
def test_a_store_that_ignores_conditions_is_found_out_before_the_first_step(
    server: MinioServer, tmp_path: Path, fault: FaultWatch
) -> None:
    interceptor = Interceptor(server.address, server.port)
    try:
        config = configure(server, tmp_path, "unsafe", endpoint=interceptor.endpoint)
        interceptor.forgets_conditions = True
        fault.strikes()
        ranks = RunningRanks(config)
        ranks.watch(lambda: bool(ranks.logs[0].list_facts("storage_safe")))
        assert ranks.logs[0].list_facts("storage_safe") == [False]
        assert ranks.logs[0].step == 0
        fault.said("storageSafe: false, before the first step")
        ranks.kill()
    finally:
        interceptor.close()


class Bomb:
    """What is unpickled as an act."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self._path), "w"))


@pytest.mark.fault(22, world="ranks")
def test_a_pickle_in_place_of_a_shard_is_not_unpickled(
    server: MinioServer, tmp_path: Path, fault: FaultWatch
) -> None:
    """Whoever can write to the store can make the manifest agree with it as well."""
    config = configure(server, tmp_path, "pickled")
    store = open_store(config.run_uri, config.storage)
    ranks = RunningRanks(config)
    ranks.watch(lambda: bool(ranks.logs[0].list_facts("checkpoint_step")))
    ranks.kill()
    exploded, bomb = tmp_path / "exploded", tmp_path / "bomb"
    bomb.write_bytes(pickle.dumps(Bomb(exploded)))
    for key, data in read_manifests(store).items():
        manifest = json.loads(data)
        shard = next(o for o in manifest["objects"] if o["key"].endswith(".safetensors"))
        store.upload(shard["key"], bomb)
        shard |= describe_file(bomb, shard["key"]).dump()
        store.write_bytes(key, json.dumps(manifest).encode())
    fault.strikes()
    again = RunningRanks(config, round_number=2)
    with pytest.raises(ConfigurationError) as failed:
        again.finish()
    error = failed.value
    fault.said(f"{error.reason}: {error.message}; {error.next_step}", "UnsafeArtifact", "pickles")
    assert not exploded.exists()


@pytest.mark.fault(22, world="ranks")
def test_code_beside_a_tokenizer_is_neither_fetched_nor_run(
    tmp_path: Path, fault: FaultWatch
) -> None:
    from llmtrain_api.data import Tokenizer, TokenizerKind

    store = FolderStore(tmp_path / "root", "bucket", "gpt")
    make_tokenizer(Tokenizer(kind=TokenizerKind.BYTE), [], tmp_path / "byte")
    for path in (tmp_path / "byte").iterdir():
        store.write_bytes(path.name, path.read_bytes())
    config = json.loads((tmp_path / "byte" / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", None]}
    store.write_bytes("tokenizer_config.json", json.dumps(config).encode())
    exploded = tmp_path / "exploded"
    store.write_bytes("evil.py", f"open({str(exploded)!r}, 'w')".encode())
    fetch_tokenizer(store, tmp_path / "fetched")
    fetched = {path.name for path in (tmp_path / "fetched").iterdir()}
    assert "evil.py" not in fetched
    assert not exploded.exists()
    fault.said(f"only {', '.join(sorted(fetched))} are fetched")


@pytest.mark.fault(26, world="ranks")
def test_two_runs_below_one_prefix_do_not_meet(
    server: MinioServer, tmp_path: Path, fault: FaultWatch
) -> None:
    first = configure(server, tmp_path, "tiny")
    second = configure(server, tmp_path, "tiny-2")
    both = [RunningRanks(first), RunningRanks(second)]
    for ranks in both:
        ranks.watch(partial(has_saved, ranks, times=3))
        ranks.kill()
    stores = [open_store(config.run_uri, config.storage) for config in (first, second)]
    kept = read_manifests(stores[0])
    again = RunningRanks(second, round_number=2)
    again.watch(lambda: bool(again.logs[0].list_facts("resumed_step")))
    again.kill()
    assert read_manifests(stores[0]) == kept
    assert read_manifests(stores[1])
    fault.said(f"{first.run_uri} and {second.run_uri}: each has its own")
