"""An upload cut at every boundary between objects and in the middle of each, then damaged objects.

Two real ranks save to a real MinIO through a proxy that sees every object pass. The cut is made at
a named moment of the second save; the next round, on a host that has nothing in memory, must go on
from the newest checkpoint that is whole, and nothing else.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from llmtrain_api.run import RunConfig
from llmtrain_trainer.manifest import MANIFEST, read_step
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from testbed.fault_log import FaultWatch
from testbed.minio import MinioServer
from testbed.ranks import RunningRanks
from testbed.store_proxy import StoreProxy
from testbed.tiny_run import configure_tiny_run

BUCKET = "tiny-bucket"
STEPS = 1_000_000
"""More than any of these runs does."""
CHECKPOINT_STEPS = 10
OBJECTS = ("part-00000", "part-00001", "curve.json", MANIFEST)
"""What a save of two ranks consists of, by the beginning of its name; the manifest is the last."""
MOMENTS = ("before", "middle", "after")
DEADLINE_SECONDS = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MinioServer]:
    """A MinIO of this test's own, to be killed."""
    server = MinioServer(tmp_path / "minio")
    try:
        server.start()
        server.create_bucket(BUCKET)
        text = "\n".join(list(topics.values())[:12]).encode()
        server.connect().put_object(BUCKET, "topics.txt", io.BytesIO(text), len(text))
        yield server
    finally:
        server.kill()


@pytest.fixture
def proxy(server: MinioServer) -> Iterator[StoreProxy]:
    proxy = StoreProxy(server)
    yield proxy
    proxy.close()


@pytest.fixture
def config(server: MinioServer, proxy: StoreProxy, tmp_path: Path) -> RunConfig:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "accessKey").write_text(server.access_key)
    (keys / "secretKey").write_text(server.secret_key)
    config = configure_tiny_run(
        tmp_path,
        run="torn",
        training={**configure_tiny_run(tmp_path).training.dump(), "steps": STEPS},
        evaluation={"everySteps": STEPS},
        checkpoint={"everySteps": CHECKPOINT_STEPS},
        storage={
            "uri": f"s3://{BUCKET}",
            "localRoot": None,
            "endpoint": proxy.endpoint,
            "credentialsDirectory": str(keys),
        },
        processes_per_worker=2,
    )
    run_prepare(config, Reporter(0, lambda update: None))
    return config


class Scissors:
    """Waits for a moment of the second save, does something there once, and says when it has."""

    def __init__(self, proxy: StoreProxy, name: str, moment: str) -> None:
        self.is_cut = threading.Event()
        self.steps: list[int] = []
        """Steps of which something was saved, in order."""
        self._cut = (name, moment)
        self._act: list[Callable[[], None]] = []
        proxy.on_put = self._see

    def arm(self, act: Callable[[], None]) -> None:
        """Do this at the moment."""
        self._act.append(act)

    def _see(self, path: str, moment: str) -> bool:
        _, is_checkpoint, key = path.partition("/checkpoints/")
        step = read_step(f"checkpoints/{key}") if is_checkpoint else None
        if step is None:
            return False
        if step not in self.steps:
            self.steps.append(step)
        name, at = self._cut
        is_it = path.rpartition("/")[2].startswith(name) and moment == at
        if is_it and self.steps.index(step) == 1 and not self.is_cut.is_set():
            for act in self._act:
                act()
            self.is_cut.set()
            return True
        return False


def resume(config: RunConfig) -> int | None:
    """Start another round on an empty host; returns the step that it goes on from."""
    ranks = RunningRanks(config, round_number=2)
    log = ranks.logs[0]
    ranks.watch(lambda: log.step > (log.list_facts("resumed_step") or [0])[0])
    ranks.kill()
    resumed = log.list_facts("resumed_step")
    return int(resumed[0]) if resumed else None


def list_committed(server: MinioServer, config: RunConfig) -> list[int]:
    """Return the steps that have a manifest, oldest first, by the store's own word."""
    prefix = f"{config.run_uri.removeprefix(f's3://{BUCKET}/')}/checkpoints/"
    found = server.connect().list_objects(BUCKET, prefix, recursive=True)
    names = [str(item.object_name) for item in found]
    keys = [name[name.index("checkpoints/") :] for name in names if name.endswith(f"/{MANIFEST}")]
    return sorted(step for key in keys if (step := read_step(key)) is not None)


@pytest.mark.fault(15, world="ranks")
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", OBJECTS)
def test_ranks_killed_amid_an_upload(
    server: MinioServer,
    proxy: StoreProxy,
    config: RunConfig,
    fault: FaultWatch,
    name: str,
    moment: str,
) -> None:
    scissors = Scissors(proxy, name, moment)
    ranks = RunningRanks(config)
    scissors.arm(ranks.kill)
    ranks.watch()
    fault.strikes()
    assert scissors.is_cut.wait(DEADLINE_SECONDS)
    proxy.on_put = None
    first, second = scissors.steps[:2]
    committed = list_committed(server, config)
    assert committed == ([first, second] if (name, moment) == (MANIFEST, "after") else [first])
    assert resume(config) == committed[-1]
    fault.is_over()
    fault.said(f"killed {moment} {name} of step {second}: went on from step {committed[-1]}")


@pytest.mark.fault(15, world="ranks")
@pytest.mark.parametrize("moment", ["before", "middle"])
@pytest.mark.parametrize("name", OBJECTS)
def test_store_killed_amid_an_upload(
    server: MinioServer,
    proxy: StoreProxy,
    config: RunConfig,
    fault: FaultWatch,
    name: str,
    moment: str,
) -> None:
    scissors = Scissors(proxy, name, moment)
    ranks = RunningRanks(config)
    log = ranks.logs[0]
    scissors.arm(server.kill)
    ranks.watch(scissors.is_cut.is_set)
    fault.strikes()
    ranks.watch(lambda: bool(log.list_facts("checkpoint_failure")))
    server.start()
    saved = max(log.list_facts("checkpoint_step"))
    ranks.watch(lambda: max(log.list_facts("checkpoint_step")) > saved)
    fault.is_over()
    ranks.kill()
    proxy.on_put = None
    committed = list_committed(server, config)
    assert resume(config) == committed[-1]
    fault.said(f"store killed {moment} {name}: step {committed[-1]} was saved when it was back")


@pytest.mark.fault(16, world="ranks")
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
@pytest.mark.parametrize("name", OBJECTS[:3])
def test_damaged_objects(
    server: MinioServer,
    proxy: StoreProxy,
    config: RunConfig,
    fault: FaultWatch,
    name: str,
    damage: str,
) -> None:
    ranks = RunningRanks(config)
    log = ranks.logs[0]
    ranks.watch(lambda: len(log.list_facts("checkpoint_step")) >= 2)
    ranks.kill()
    *_, before, newest = list_committed(server, config)
    client = server.connect()
    prefix = f"{config.run_uri.removeprefix(f's3://{BUCKET}/')}/checkpoints/step-{newest:08d}/"
    (key,) = (
        str(item.object_name)
        for item in client.list_objects(BUCKET, prefix, recursive=True)
        if str(item.object_name).rpartition("/")[2].startswith(name)
    )
    with client.get_object(BUCKET, key) as answer:
        content = bytearray(answer.read())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        del content[len(content) // 2 :]
    client.put_object(BUCKET, key, io.BytesIO(bytes(content)), len(content))
    fault.strikes()
    assert resume(config) == before
    fault.is_over()
    fault.said(f"{name} of step {newest} {damage}: went on from step {before}")
