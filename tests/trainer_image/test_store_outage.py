"""A real MinIO is killed under real ranks: training goes on, and nothing is lost."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from llmtrain_api.run import RunConfig
from llmtrain_trainer.failures import PreemptedError
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from testbed.fault_log import FaultWatch
from testbed.minio import MinioServer
from testbed.ranks import RankLog, RunningRanks
from testbed.tiny_run import configure_tiny_run

BUCKET = "tiny-bucket"
STEPS = 1_000_000
"""More than any of these runs does: each is stopped when it has shown what it should."""
TWO_RANKS = {"replicas": 1, "processes_per_worker": 2}


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


def configure(server: MinioServer, keys: Path, run: str) -> RunConfig:
    keys.mkdir(exist_ok=True)
    (keys / "accessKey").write_text(server.access_key)
    (keys / "secretKey").write_text(server.secret_key)
    config = configure_tiny_run(
        keys,
        run=run,
        training={**configure_tiny_run(keys).training.dump(), "steps": STEPS},
        evaluation={"everySteps": STEPS},
        checkpoint={"everySteps": 50},
        storage={
            "uri": f"s3://{BUCKET}",
            "localRoot": None,
            "endpoint": server.endpoint,
            "credentialsDirectory": str(keys),
        },
        **TWO_RANKS,
    )
    run_prepare(config, Reporter(0, lambda update: None))
    return config


def find_failure(log: RankLog) -> str:
    """What a rank last said of its saves."""
    told = [u.facts["checkpoint_failure"] for u in log.updates if "checkpoint_failure" in u.facts]
    return str(told[-1]) if told else ""


@pytest.mark.fault(13, world="ranks")
def test_training_goes_on_without_the_store_and_saves_when_it_is_back(
    server: MinioServer, tmp_path: Path, fault: FaultWatch
) -> None:
    config = configure(server, tmp_path / "keys", "outage")
    ranks = RunningRanks(config)
    log = ranks.logs[0]
    ranks.watch(lambda: bool(log.list_facts("checkpoint_step")))
    server.kill()
    fault.strikes()
    ranks.watch(lambda: find_failure(log) != "")
    fault.said(find_failure(log), server.endpoint)
    lost_at, saved = log.step, log.list_facts("checkpoint_step")[-1]
    ranks.watch(lambda: log.step > lost_at + 10)
    server.start()
    ranks.watch(lambda: log.list_facts("checkpoint_step")[-1] > saved)
    assert find_failure(log) == ""
    ranks.request_stop()
    ranks.watch()
    assert all(isinstance(each.error, PreemptedError) for each in ranks.logs)
    assert log.list_facts("checkpoint_step")[-1] >= log.step


def test_the_last_save_waits_for_the_store(server: MinioServer, tmp_path: Path) -> None:
    config = configure(server, tmp_path / "keys", "waiting")
    ranks = RunningRanks(config)
    log = ranks.logs[0]
    ranks.watch(lambda: log.step > 0)
    server.kill()
    ranks.request_stop()
    ranks.watch(lambda: find_failure(log) != "")
    server.start()
    ranks.watch()
    (saved,) = log.list_facts("checkpoint_step")
    assert saved >= log.step

    resumed = RunningRanks(config, round_number=2)
    resumed.watch(lambda: bool(resumed.logs[0].list_facts("resumed_step")))
    assert resumed.logs[0].list_facts("resumed_step") == [saved]
    resumed.kill()


def test_killed_ranks_resume_from_memory_without_the_store(
    server: MinioServer, tmp_path: Path
) -> None:
    """Bit for bit, and what was only in memory is in the store once that is back."""
    config = configure(server, tmp_path / "keys", "memory")
    staging = tmp_path / "staging"
    ranks = RunningRanks(config, staging=staging)
    log = ranks.logs[0]
    ranks.watch(lambda: bool(log.list_facts("checkpoint_step")))
    server.kill()
    ranks.watch(lambda: find_failure(log) != "")
    saved = log.list_facts("checkpoint_step")[-1]
    ranks.watch(lambda: log.step > saved + 300)
    ranks.kill()
    losses = dict(zip(list_loss_steps(log), log.list_facts("loss"), strict=True))

    resumed = RunningRanks(config, round_number=2, staging=staging)
    again = resumed.logs[0]
    resumed.watch(lambda: again.step > log.step)
    (step,) = again.list_facts("resumed_step")
    assert saved < step <= log.step
    repeated = dict(zip(list_loss_steps(again), again.list_facts("loss"), strict=True))
    common = sorted(losses.keys() & repeated.keys())
    assert common
    assert [repeated[each] for each in common] == [losses[each] for each in common]
    assert again.list_facts("checkpoint_step") == []
    server.start()
    resumed.watch(lambda: bool(again.list_facts("checkpoint_step")))
    resumed.kill()


def list_loss_steps(log: RankLog) -> list[int]:
    return [u.step for u in log.updates if "loss" in u.facts]
