"""Checkpoints of a real MinIO and of a folder, looked at by the command line."""

from __future__ import annotations

import io
import json
import secrets
from pathlib import Path

import pytest

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.checkpoint.manifest import (
    CURVE,
    MANIFEST,
    CheckpointManifest,
    locate_round,
    locate_step,
)
from llmtrain_trainer.store.described import ManifestObject, describe_file
from testbed.command_line import CommandLine
from testbed.minio import MinioServer
from testbed.tiny_run import configure_tiny_run

STEPS = (10, 20, 30)
DAMAGED_STEP = 30


def write_objects(folder: Path) -> dict[str, bytes]:
    """The objects of three checkpoints, the newest of them with a flipped bit, by key."""
    objects: dict[str, bytes] = {}
    for step in STEPS:
        items: list[ManifestObject] = []
        for name, content in ((CURVE, b"[]"), ("shard.safetensors", b"weights of %d" % step)):
            key = locate_round(step, 1) + name
            (folder / name).write_bytes(content)
            items.append(describe_file(folder / name, key))
            objects[key] = content
        manifest = CheckpointManifest(
            step=step,
            round=1,
            world_size=2,
            created=1.0,
            dataset="abc",
            arithmetic={},
            versions={},
            objects=items,
        )
        objects[locate_step(step) + MANIFEST] = manifest.model_dump_json(by_alias=True).encode()
    damaged = locate_round(DAMAGED_STEP, 1) + "shard.safetensors"
    objects[damaged] = b"W" + objects[damaged][1:]
    return objects


@pytest.fixture(params=["folder", "minio"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The arguments that name a run with three checkpoints."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    objects = write_objects(scratch)
    if request.param == "folder":
        config = configure_tiny_run(tmp_path / "store")
        storage = config.storage.model_copy(update={"local_root": str(tmp_path / "store")})
        root = tmp_path / "store" / config.run_uri.removeprefix("s3://")
        for key, content in objects.items():
            path = root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        described = config.model_copy(update={"storage": storage})
        job = tmp_path / "store" / "_jobs" / "tests" / "tiny"
        job.mkdir(parents=True)
        (job / "run.json").write_text(json.dumps(described.dump()))
        return ["tiny", "-n", "tests", "--store", str(tmp_path / "store")]
    server: MinioServer = request.getfixturevalue("minio")
    bucket = f"checkpoints-{secrets.token_hex(4)}"
    server.create_bucket(bucket)
    for key, content in objects.items():
        server.connect().put_object(bucket, f"runs/one/{key}", io.BytesIO(content), len(content))
    (scratch / "accessKey").write_text(server.access_key)
    (scratch / "secretKey").write_text(server.secret_key)
    reached = StorageConfig(uri=f"s3://{bucket}/runs/one", endpoint=server.endpoint)
    return [
        *("--uri", reached.uri, "--endpoint", str(reached.endpoint)),
        *("--credentials", str(scratch)),
    ]


def call(llmtrain: CommandLine, *arguments: str) -> tuple[int, str]:
    finished = llmtrain("checkpoints", *arguments)
    return finished.returncode, finished.stdout + finished.stderr


def test_checkpoints_are_listed_verified_and_pruned(llmtrain: CommandLine, run: list[str]) -> None:
    code, said = call(llmtrain, "list", *run)
    assert code == 0, said
    assert [line.split()[0] for line in said.splitlines()] == ["step", "30", "20", "10"]

    code, said = call(llmtrain, "verify", *run)
    assert code == 1, said
    lines = said.splitlines()
    assert lines[0].startswith("step 30: damaged: checkpoints/step-00000030/round-00001/shard")
    assert "SHA-256" in lines[0]
    assert lines[1:] == ["step 20: whole", "step 10: whole"]

    code, said = call(llmtrain, "prune", *run)
    assert code == 1
    assert "nothing is deleted: none of the newest 1 checkpoints is whole" in said

    code, said = call(llmtrain, "pin", *run, "--step", "11")
    assert code == 1
    assert "no checkpoint of step 11" in said
    code, said = call(llmtrain, "pin", *run, "--step", "10")
    assert (code, said.strip()) == (0, "step 10 is pinned")
    code, said = call(llmtrain, "prune", *run, "--keep-last", "2")
    assert (code, said.strip()) == (0, "0 deleted, 3 kept: steps [30, 20, 10]")
    _, said = call(llmtrain, "list", *run)
    assert [line.split()[-1] == "pinned" for line in said.splitlines()[1:]] == [False, False, True]
    call(llmtrain, "unpin", *run, "--step", "10")
    code, said = call(llmtrain, "prune", *run, "--keep-last", "2")
    assert (code, said.strip()) == (0, "1 deleted, 2 kept: steps [30, 20]")
    _, said = call(llmtrain, "list", *run)
    assert [line.split()[0] for line in said.splitlines()] == ["step", "30", "20"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "no job default/nobody has run in"),
        ([], "say either the NAME of a job of this machine, or --uri"),
        (["--uri", "http://somewhere"], "Invalid value for --uri: http://somewhere"),
        (["--uri", "s3://bucket/run", "--endpoint", "http://127.0.0.1:9"], "127.0.0.1:9"),
    ],
)
def test_what_cannot_be_looked_at_is_named(
    llmtrain: CommandLine, arguments: list[str], said: str, tmp_path: Path
) -> None:
    code, output = call(llmtrain, "list", *arguments, "--store", str(tmp_path))
    assert code != 0
    assert said in output
    assert "Traceback" not in output
