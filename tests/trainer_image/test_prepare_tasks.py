"""Preparation by several tasks: real processes that share a folder or a MinIO, and are killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from llmtrain_api.naming import locate_dataset
from llmtrain_api.run import RunConfig
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.store import open_store
from testbed.minio import MinioServer
from testbed.task_process import READ_BYTES, Tasks
from testbed.tiny_run import configure_tiny_run

NUM_FILES = 7
RUN_URI = "s3://tasks-bucket/runs/"

ConfigureAt = Callable[..., RunConfig]


def write_sources(config: RunConfig) -> None:
    """Put the topics into several files, with copies, nearly copies, people and broken lines."""
    store = open_store("s3://tasks-bucket/topics", config.storage)
    texts = [topics[name] for name in sorted(topics)]
    texts += [text.replace("the ", "that ", 3) for text in texts[:20]]
    texts[5] += "\nWrite to jane.roe@example.org."
    for number in range(NUM_FILES):
        lines = [json.dumps({"text": text}) for text in texts[number::NUM_FILES]]
        if number % 3 == 1:
            lines.insert(-2, '{"body": 1}')
        store.write_bytes(f"{number}.jsonl", "\n".join(lines).encode())


def describe_data(**data: Any) -> dict[str, Any]:
    return {
        "sources": [{"uri": "s3://tasks-bucket/topics/*.jsonl", "weight": 1.4}],
        "invalid": {"policy": "skip", "maxRate": 0.1},
        "deduplicate": {"near": "edited", "paragraphs": True},
        "privacy": {"action": "replace"},
        "tokenizer": {"kind": "bpe", "vocabularySize": 600},
        "split": {"method": "document", "validationFraction": 0.2},
        **data,
    }


@pytest.fixture(scope="module")
def configure_folder(tmp_path_factory: pytest.TempPathFactory) -> ConfigureAt:
    """Describes runs whose datasets lie in a folder, below a prefix of the run's name."""
    root = tmp_path_factory.mktemp("folder")

    def configure(run: str = "run", prefix: str = "", **data: Any) -> RunConfig:
        storage = {"uri": f"s3://tasks-bucket/{prefix or run}"}
        return configure_tiny_run(
            root, run=run, run_uri=RUN_URI + run, storage=storage, data=describe_data(**data)
        )

    write_sources(configure())
    return configure


@pytest.fixture(scope="module")
def configure_minio(minio: MinioServer, tmp_path_factory: pytest.TempPathFactory) -> ConfigureAt:
    """Describes runs whose datasets lie in a MinIO, below a prefix of the run's name."""
    folder = tmp_path_factory.mktemp("minio-keys")
    (folder / "accessKey").write_text(minio.access_key)
    (folder / "secretKey").write_text(minio.secret_key)
    minio.create_bucket("tasks-bucket")

    def configure(run: str = "run", prefix: str = "", **data: Any) -> RunConfig:
        storage = {
            "uri": f"s3://tasks-bucket/{prefix or run}",
            "localRoot": None,
            "endpoint": minio.endpoint,
            "credentialsDirectory": str(folder),
        }
        return configure_tiny_run(
            folder, run=run, run_uri=RUN_URI + run, storage=storage, data=describe_data(**data)
        )

    write_sources(configure())
    return configure


@pytest.fixture(scope="module")
def reference(configure_folder: ConfigureAt) -> dict[str, bytes]:
    """What one task makes, with units so large that there is one of each kind."""
    config = configure_folder("reference")
    result = run_prepare(config, Reporter(0, lambda update: None))
    return read_dataset(config, str(result.dataset))


def read_dataset(config: RunConfig, fingerprint: str) -> dict[str, bytes]:
    """Return every object below the dataset."""
    store = open_store(locate_dataset(config.storage.uri, fingerprint), config.storage)
    return {item.key: store.read_bytes(item.key) for item in store.list_objects()}


def read_only_dataset(config: RunConfig) -> dict[str, bytes]:
    """Return every object of the one dataset below the run's prefix."""
    store = open_store(f"{config.storage.uri}/datasets", config.storage)
    (fingerprint,) = {item.key.partition("/")[0] for item in store.list_objects()}
    return read_dataset(config, fingerprint)


def list_work(config: RunConfig) -> list[str]:
    """Return what lies below work/ of any dataset of the run's prefix."""
    store = open_store(f"{config.storage.uri}/datasets", config.storage)
    return [item.key for item in store.list_objects() if "/work/" in item.key]


def count_read_units(config: RunConfig) -> int:
    """Return into how many units the sources are divided; more than there are files."""
    store = open_store("s3://tasks-bucket/topics", config.storage)
    units = sum(max(1, item.size // READ_BYTES) for item in store.list_objects())
    assert units > NUM_FILES
    return units


@pytest.mark.parametrize("num_tasks", [1, 2, 4])
def test_any_number_of_tasks_makes_the_same_bytes(
    configure_folder: ConfigureAt, reference: dict[str, bytes], tmp_path: Path, num_tasks: int
) -> None:
    config = configure_folder(f"of-{num_tasks}", tasks=num_tasks)
    with Tasks(tmp_path) as tasks:
        running = [tasks.start(config, task) for task in range(num_tasks)]
        assert [tasks.finish(process) for process in running] == [0] * num_tasks
        assert read_only_dataset(config) == reference
        units = tasks.count_units(config)
        assert sum(name.startswith("read/") for name in units) == count_read_units(config)
        assert set(units.values()) == {1}
        assert not tasks.read_result(config, 0).dataset_reused


def test_tasks_on_a_server_make_the_same_objects(
    configure_minio: ConfigureAt, reference: dict[str, bytes], tmp_path: Path
) -> None:
    made = []
    for num_tasks in (1, 3):
        config = configure_minio(f"of-{num_tasks}", tasks=num_tasks)
        with Tasks(tmp_path) as tasks:
            running = [tasks.start(config, task) for task in range(num_tasks)]
            assert [tasks.finish(process) for process in running] == [0] * num_tasks
            assert set(tasks.count_units(config).values()) <= {1}
        made.append(read_only_dataset(config))
        assert list_work(config) == []
    assert made[0] == made[1]
    # The manifests differ in what the two stores call an etag, and so in their fingerprints.
    assert (
        json.loads(made[0]["manifest.json"])["objects"]
        == (json.loads(reference["manifest.json"])["objects"])
    )


def test_a_tokenizer_is_learned_alike_in_every_process(
    configure_folder: ConfigureAt, tmp_path: Path
) -> None:
    made = []
    for num_tasks in (1, 2):
        tokenizer = {"kind": "unigram"}
        config = configure_folder(f"unigram-{num_tasks}", tasks=num_tasks, tokenizer=tokenizer)
        with Tasks(tmp_path) as tasks:
            running = [tasks.start(config, task) for task in range(num_tasks)]
            assert [tasks.finish(process) for process in running] == [0] * num_tasks
        made.append(read_only_dataset(config))
    assert made[0] == made[1]


DEATHS = {
    "task 1 while reading": {1: "begins read/000003"},
    "task 0 while reading": {0: "begins read/000002"},
    "task 0 at the tokenizer": {0: "begins with the tokenizer"},
    "both while encoding": {0: "begins tokens/", 1: "begins tokens/"},
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_killed_task_redoes_only_its_own_part(
    configure_folder: ConfigureAt, reference: dict[str, bytes], tmp_path: Path, death: str
) -> None:
    config = configure_folder(death.replace(" ", "-"), tasks=2)
    with Tasks(tmp_path) as tasks:
        dying = [tasks.start(config, task, die_at=line) for task, line in DEATHS[death].items()]
        assert [tasks.finish(process) for process in dying] == [-9] * len(dying)
        assert tasks.count_units(config)
        assert "manifest.json" not in read_only_dataset(config)
        running = [tasks.start(config, task) for task in (0, 1)]
        assert [tasks.finish(process) for process in running] == [0, 0]
        assert read_only_dataset(config) == reference
        assert set(tasks.count_units(config).values()) == {1}


@pytest.mark.parametrize(("line", "is_there"), [("begins to commit", 0), ("begins to sweep", 1)])
def test_task_0_killed_at_the_end_leaves_nothing_but_the_dataset(
    configure_folder: ConfigureAt,
    reference: dict[str, bytes],
    tmp_path: Path,
    line: str,
    is_there: bool,
) -> None:
    config = configure_folder(line.replace(" ", "-"))
    with Tasks(tmp_path) as tasks:
        assert tasks.finish(tasks.start(config, 0, die_at=line)) == -9
        assert ("manifest.json" in read_only_dataset(config)) == bool(is_there)
        assert list_work(config)
        units = tasks.count_units(config)
        assert tasks.finish(tasks.start(config, 0)) == 0
        assert tasks.count_units(config) == units
        assert tasks.read_result(config, 0).dataset_reused == bool(is_there)
    assert read_only_dataset(config) == reference


def test_what_a_dead_task_had_claimed_is_done_by_the_others(
    configure_folder: ConfigureAt, reference: dict[str, bytes], tmp_path: Path
) -> None:
    config = configure_folder("forsaken", tasks=2)
    with Tasks(tmp_path, dead_seconds=2.0) as tasks:
        assert tasks.finish(tasks.start(config, 1, die_at="begins read/000003")) == -9
        assert tasks.finish(tasks.start(config, 0)) == 0
        assert "takes read/000003 over" in tasks.read_log(config, 0)
        assert tasks.count_units(config)["read/000001"] == 1
    assert read_only_dataset(config) == reference


def test_a_second_job_waits_for_the_first_and_prepares_nothing(
    configure_folder: ConfigureAt, reference: dict[str, bytes], tmp_path: Path
) -> None:
    first = configure_folder("first", prefix="shared")
    second = configure_folder("second", prefix="shared")
    go_on = tmp_path / "go-on"
    with Tasks(tmp_path / "logs") as tasks:
        at_work = tasks.start(first, 0, hold_at="begins read/000002", until=str(go_on))
        tasks.await_line(first, 0, "begins read/000002")
        waiting = tasks.start(second, 0)
        tasks.await_line(second, 0, "waits: another run")
        go_on.touch()
        assert [tasks.finish(at_work), tasks.finish(waiting)] == [0, 0]
        assert tasks.count_units(second) == {}
        assert not tasks.read_result(first, 0).dataset_reused
        assert tasks.read_result(second, 0).dataset_reused
    assert read_only_dataset(first) == reference


def test_a_second_job_goes_on_where_a_killed_one_was(
    configure_folder: ConfigureAt, reference: dict[str, bytes], tmp_path: Path
) -> None:
    first = configure_folder("killed", prefix="inherited")
    second = configure_folder("heir", prefix="inherited", tasks=2)
    with Tasks(tmp_path, dead_seconds=2.0) as tasks:
        assert tasks.finish(tasks.start(first, 0, die_at="begins read/000004")) == -9
        heirs = [tasks.start(second, task) for task in (0, 1)]
        assert [tasks.finish(process) for process in heirs] == [0, 0]
        done = tasks.count_units(first)
        assert set(done) == {f"read/{unit:06d}" for unit in range(4)}
        assert not done.keys() & tasks.count_units(second).keys()
    assert read_only_dataset(first) == reference


def test_a_job_that_stood_still_finds_the_data_made_and_leaves_nothing(
    configure_folder: ConfigureAt, reference: dict[str, bytes], tmp_path: Path
) -> None:
    slow = configure_folder("slow", prefix="overtaken")
    quick = configure_folder("quick", prefix="overtaken")
    go_on = tmp_path / "go-on"
    with Tasks(tmp_path / "logs", dead_seconds=2.0) as tasks:
        stopped = tasks.start(slow, 0, hold_at="begins read/000002", until=str(go_on))
        tasks.await_line(slow, 0, "begins read/000002")
        stopped.send_signal(signal.SIGSTOP)
        assert tasks.finish(tasks.start(quick, 0)) == 0
        go_on.touch()
        stopped.send_signal(signal.SIGCONT)
        assert tasks.finish(stopped) == 0
        assert not tasks.read_result(quick, 0).dataset_reused
        assert tasks.read_result(slow, 0).dataset_reused
    assert read_only_dataset(slow) == reference
