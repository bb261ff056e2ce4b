"""Uploads killed at every boundary and in the middle of every object: nothing whole is ever lost.

A real MinIO, real ranks and real uploading processes; what strikes is a proxy between them.
"""

from __future__ import annotations

import io
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch

from llmtrain_api.network import ModelSpec
from llmtrain_api.run import RunConfig, StorageConfig
from llmtrain_trainer.checkpoint.manifest import (
    CURVE,
    MANIFEST,
    CheckpointManifest,
    locate_round,
    locate_step,
)
from llmtrain_trainer.checkpoint.restore import fetch_newest_checkpoint
from llmtrain_trainer.checkpoint.uploader import Staged, Uploader
from llmtrain_trainer.checkpoint.verification import list_steps
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.inspection.checkpoints import verify_checkpoints
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import Store, open_store
from llmtrain_trainer.store.described import describe_file
from testbed.fault_log import FaultWatch
from testbed.interceptor import Interceptor, Moment
from testbed.minio import MinioServer
from testbed.ranks import RankLog, RunningRanks
from testbed.tiny_run import configure_tiny_run

BUCKET = "tiny-bucket"
STEPS = 1_000_000
OBJECTS_OF_A_SAVE = 4
"""Two parts, the curve and the manifest, in whatever order."""

LARGE_HIDDEN_SIZE = 384
"""Makes a state of 42 MB, which is more than a rank uploads by itself."""

STRIKE_SECONDS = 30.0

PART_BYTES = 64 * 1024 * 1024
LARGE_BYTES = 3 * PART_BYTES + 1
"""Four parts, of which each is a PUT of its own."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """A MinIO of this module's own, to be killed."""
    server = MinioServer(tmp_path_factory.mktemp("minio"))
    try:
        server.start()
        server.create_bucket(BUCKET)
        text = "\n".join(list(topics.values())[:12]).encode()
        server.connect().put_object(BUCKET, "topics.txt", io.BytesIO(text), len(text))
        yield server
    finally:
        server.kill()


@pytest.fixture
def interceptor(server: MinioServer) -> Iterator[Interceptor]:
    interceptor = Interceptor(server.address, server.port)
    yield interceptor
    interceptor.close()


def reach(server: MinioServer, endpoint: str, keys: Path) -> StorageConfig:
    keys.mkdir(exist_ok=True)
    (keys / "accessKey").write_text(server.access_key)
    (keys / "secretKey").write_text(server.secret_key)
    return StorageConfig(uri=f"s3://{BUCKET}", endpoint=endpoint, credentials_directory=str(keys))


def configure(storage: StorageConfig, run: str) -> RunConfig:
    base = configure_tiny_run(Path("unused"), run=run)
    config = configure_tiny_run(
        Path("unused"),
        run=run,
        training={**base.training.dump(), "steps": STEPS},
        evaluation={"everySteps": STEPS},
        checkpoint={"everySteps": 20, "keepLast": 3},
        processes_per_worker=2,
    )
    return config.model_copy(update={"storage": storage})


@pytest.mark.fault(15, world="ranks")
def test_ranks_killed_at_any_moment_of_a_save_resume_from_the_newest_whole_one(
    server: MinioServer, interceptor: Interceptor, tmp_path: Path, fault: FaultWatch
) -> None:
    config = configure(reach(server, interceptor.endpoint, tmp_path / "keys"), "boundaries")
    run_prepare(config, Reporter(0, lambda update: None))
    store = open_store(config.run_uri, reach(server, server.endpoint, tmp_path / "keys"))
    expected: list[int] = []
    rounds = 0
    for number in range(1, OBJECTS_OF_A_SAVE + 1):
        for moment in Moment:
            rounds += 1
            ranks = RunningRanks(config, round_number=rounds)
            strike_within_a_save(ranks, interceptor, number, moment)
            assert ranks.logs[0].list_facts("resumed_step") == expected
            expected = list_steps(store)[:1]
    damages = {found.step: found.damage for found in verify_checkpoints(store)}
    assert damages
    assert set(damages.values()) == {None}
    fault.said(f"{rounds} of {rounds} rounds resumed from the newest whole checkpoint")


def strike_within_a_save(
    ranks: RunningRanks, interceptor: Interceptor, number: int, moment: Moment
) -> None:
    """Kill all ranks amid the save after the first one of this round, or a later one."""
    log = ranks.logs[0]
    ranks.watch(lambda: bool(log.list_facts("loss")))
    begun = len(log.list_facts("checkpoint_step"))
    ranks.watch(lambda: len(log.list_facts("checkpoint_step")) > begun)
    interceptor.arm(number, moment, ranks.kill)
    ranks.watch()
    assert interceptor.struck.wait(STRIKE_SECONDS)


@pytest.mark.fault(15, world="ranks")
@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("number", [1, 4])
def test_killed_uploader_costs_one_save_and_leaves_no_parts(
    server: MinioServer, interceptor: Interceptor, tmp_path: Path, number: int, moment: Moment
) -> None:
    storage = reach(server, interceptor.endpoint, tmp_path / "keys")
    uri = f"s3://{BUCKET}/runs/killed-{secrets.token_hex(4)}"
    store = open_store(uri, reach(server, server.endpoint, tmp_path / "keys"))
    staged = tmp_path / "part"
    staged.write_bytes(secrets.token_bytes(1024 * 1024) * (LARGE_BYTES // 1024**2) + b"x")
    uploader = Uploader(uri, storage)

    def kill() -> None:
        assert uploader.process_id is not None
        os.kill(uploader.process_id, signal.SIGKILL)

    interceptor.arm(number, moment, kill)
    try:
        with pytest.raises(StoreError, match="SIGKILL"):
            uploader.upload([Staged(path=staged, key="part")], on_digest=lambda objects: None)
        assert interceptor.struck.wait(STRIKE_SECONDS)
        assert list(store.list_objects()) == []
        assert store.abort_uploads() == 1  # what every start of a run does
        (item,) = uploader.upload([Staged(path=staged, key="part")], on_digest=lambda objects: None)
    finally:
        uploader.close()
    store.download("part", tmp_path / "copy")
    assert describe_file(tmp_path / "copy", "part") == item


@pytest.mark.fault(15, world="ranks")
def test_killed_uploader_of_a_rank_costs_one_save_and_training_goes_on(
    server: MinioServer, interceptor: Interceptor, tmp_path: Path
) -> None:
    base = configure(reach(server, interceptor.endpoint, tmp_path / "keys"), "uploader-killed")
    model = ModelSpec(layers=2, heads=2, hidden_size=LARGE_HIDDEN_SIZE)
    config = base.model_copy(update={"model": model, "processes_per_worker": 1})
    run_prepare(config, Reporter(0, lambda update: None))
    ranks = RunningRanks(config)
    log = ranks.logs[0]
    ranks.watch(lambda: bool(log.list_facts("checkpoint_step")))
    interceptor.arm(1, Moment.MIDDLE, lambda: kill_uploaders(ranks.process_ids))
    ranks.watch(lambda: "SIGKILL" in find_failure(log))
    saved = log.list_facts("checkpoint_step")[-1]
    ranks.watch(lambda: log.list_facts("checkpoint_step")[-1] > saved)
    assert find_failure(log) == ""
    assert all(log.error is None for log in ranks.logs)
    ranks.kill()


def kill_uploaders(parents: Sequence[int]) -> None:
    """Kill every child of these processes; a rank has no other."""
    for parent in parents:
        for task in Path(f"/proc/{parent}/task").iterdir():
            for child in (task / "children").read_text().split():
                os.kill(int(child), signal.SIGKILL)


def find_failure(log: RankLog) -> str:
    """What a rank last said of its saves."""
    told = [u.facts["checkpoint_failure"] for u in log.updates if "checkpoint_failure" in u.facts]
    return str(told[-1]) if told else ""


def test_store_killed_amid_an_upload_costs_saves_and_no_checkpoint(
    server: MinioServer, interceptor: Interceptor, tmp_path: Path
) -> None:
    config = configure(reach(server, interceptor.endpoint, tmp_path / "keys"), "store-killed")
    run_prepare(config, Reporter(0, lambda update: None))
    store = open_store(config.run_uri, reach(server, server.endpoint, tmp_path / "keys"))
    ranks = RunningRanks(config)
    log = ranks.logs[0]
    ranks.watch(lambda: bool(log.list_facts("checkpoint_step")))
    interceptor.arm(1, Moment.MIDDLE, server.kill)
    ranks.watch(interceptor.struck.is_set)
    saved = log.list_facts("checkpoint_step")[-1]
    server.start()
    assert saved in list_steps(store)
    ranks.watch(lambda: log.list_facts("checkpoint_step")[-1] > saved)
    ranks.kill()
    resumed = RunningRanks(config, round_number=2)
    resumed.watch(lambda: bool(resumed.logs[0].list_facts("loss")))
    assert resumed.logs[0].list_facts("resumed_step") == [list_steps(store)[0]]
    resumed.kill()


def truncate(data: bytes) -> bytes | None:
    return data[: len(data) // 2]


def flip_bit(data: bytes) -> bytes | None:
    return data[:-1] + bytes([data[-1] ^ 1])


def remove(data: bytes) -> bytes | None:
    return None


@pytest.mark.fault(16, world="ranks")
@pytest.mark.parametrize("damage", [truncate, flip_bit, remove])
@pytest.mark.parametrize("name", ["part-0", "part-1", CURVE, MANIFEST])
def test_damaged_objects_are_refused_and_the_one_before_taken(
    server: MinioServer,
    tmp_path: Path,
    name: str,
    damage: Callable[[bytes], bytes | None],
) -> None:
    uri = f"s3://{BUCKET}/runs/damaged-{secrets.token_hex(4)}"
    store = open_store(uri, reach(server, server.endpoint, tmp_path / "keys"))
    for step in (10, 20):
        write_checkpoint(store, step, tmp_path)
    key = locate_step(20) + name if name == MANIFEST else locate_round(20, 1) + name
    damaged = damage(store.read_bytes(key))
    if damaged is None:
        store.delete(key)
    else:
        store.write_bytes(key, damaged)
    ranks = Ranks(group=RankGroup(), device=torch.device("cpu"), store=None)
    for _ in range(2):
        checkpoint = fetch_newest_checkpoint(store, ranks)
        assert checkpoint is not None
        assert checkpoint.manifest.step == 10
    assert list_steps(store) == [10]
    if (name, damage) != (MANIFEST, remove):  # that leaves no checkpoint to refuse
        (record,) = [i.key for i in store.list_objects() if "/refused-" in i.key]
        assert record.startswith(locate_step(20))


def write_checkpoint(store: Store, step: int, folder: Path) -> None:
    objects = []
    for name, content in (("part-0", b"left"), ("part-1", b"right"), (CURVE, b"[ ]")):
        (folder / name).write_bytes(content * step)
        if name == CURVE:
            (folder / name).write_bytes(content)
        key = locate_round(step, 1) + name
        objects.append(describe_file(folder / name, key))
        store.upload(key, folder / name)
    manifest = CheckpointManifest(
        step=step,
        round=1,
        world_size=2,
        created=0.0,
        dataset="d",
        arithmetic={},
        versions={},
        objects=objects,
    )
    data = manifest.model_dump_json(by_alias=True).encode()
    store.create_bytes(locate_step(step) + MANIFEST, data)
