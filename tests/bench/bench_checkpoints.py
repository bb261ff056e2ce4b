"""What a save costs: its stall, its upload, the steps beside it, and its bytes.

    python tests/bench/bench_checkpoints.py --output checkpoints.json

A real MinIO, the real `Checkpointer` and uploading process, GPT-2 with AdamW on one rank. In each
round every contestant has its turn, so that what else the machine does falls on all of them. The
summary is the median over rounds; the raw figures are in the output.

- stall: `Checkpointer.begin` beside a plain copy of the same tensors to memory that is there.
- upload: by the uploading process, digest included, beside a minimal client that sends the same
  bytes by presigned URLs at the same priority: digesting nothing, and digesting them meanwhile.
  The whole save commits, too, and deletes the checkpoint before.
- steps: a small model trained on one core while nothing, our upload, and torch's `async_save` of
  the same state to a folder is under way. The store, which is on another machine elsewhere, has
  the lowest priority then: what is measured is what the client takes from training.
- bytes: all objects of a checkpoint beside the tensors of the state.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch.distributed import checkpoint as dcp
from torch.nn import functional

from llmtrain_api.network import ModelSpec
from llmtrain_api.optimizer import OptimizerSpec
from llmtrain_api.run import StorageConfig
from llmtrain_trainer.checkpoint.host_memory import HostMemory
from llmtrain_trainer.checkpoint.manifest import CHECKPOINTS
from llmtrain_trainer.checkpoint.part_file import name_part
from llmtrain_trainer.checkpoint.retention import Retention
from llmtrain_trainer.checkpoint.saving import Checkpointer, RunFacts, Snapshot
from llmtrain_trainer.checkpoint.staging import StagingArea
from llmtrain_trainer.checkpoint.uploader import NICENESS, Staged, Uploader
from llmtrain_trainer.model.network import build_model
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import open_store
from llmtrain_trainer.store.described import ManifestObject
from llmtrain_trainer.training.optim import Optimizer

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))
from testbed.minio import MinioServer

BUCKET = "bench-checkpoints"
MEBIBYTE = 1024**2
GPT2_VOCABULARY = 50_257
CONTEXT = 1024
IDLE_SECONDS = 4.0
LOWEST_PRIORITY = 19

MINIMAL_CLIENT = """
import hashlib, mmap, os, sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
import urllib3
from minio import Minio
from minio.datatypes import Part
address, access, secret, bucket, name, path, part_bytes, niceness = sys.argv[1:]
part_bytes = int(part_bytes)
os.nice(int(niceness))
client = Minio(address, access_key=access, secret_key=secret, secure=False, region="us-east-1")
http = urllib3.PoolManager(maxsize=16)
file = open(path, "rb")
data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
print("ready", flush=True)
for line in sys.stdin:
    upload = client._create_multipart_upload(bucket, name, {})
    def send(number):
        query = {"partNumber": str(number + 1), "uploadId": upload}
        url = client.get_presigned_url(
            "PUT", bucket, name, expires=timedelta(minutes=5), extra_query_params=query)
        start = number * part_bytes
        answer = http.request("PUT", url, body=data[start : start + part_bytes])
        assert answer.status == 200
        return Part(number + 1, answer.headers["ETag"].strip('"'))
    digests = line == "digest\\n"
    with ThreadPoolExecutor(4 + digests) as pool:
        if digests:
            pool.submit(hashlib.sha256, data)
        parts = list(pool.map(send, range(-(-len(data) // part_bytes))))
    client._complete_multipart_upload(bucket, name, upload, parts)
    print("done", flush=True)
"""
"""The least that sends a file by presigned parts, as a process that is ready before it is timed."""


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--layers", default=12, show_default=True)
@click.option("--hidden-size", default=768, show_default=True)
def main(output: Path, rounds: int, layers: int, hidden_size: int) -> None:
    """Measure saves of a GPT-2 and write raw figures and ratios to OUTPUT as JSON."""
    torch.set_num_threads(1)
    memory = HostMemory()
    with tempfile.TemporaryDirectory() as folder:
        server = MinioServer(Path(folder) / "minio")
        server.start()
        try:
            server.create_bucket(BUCKET)
            results = measure(server, Path(folder), memory, rounds, layers, hidden_size)
        finally:
            server.kill()
            memory.close()
    results["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    output.write_text(json.dumps(results, indent=1) + "\n")
    click.echo(json.dumps(results["summary"], indent=1))


def measure(
    server: MinioServer,
    folder: Path,
    memory: HostMemory,
    rounds: int,
    layers: int,
    hidden_size: int,
) -> dict[str, Any]:
    """Let every contestant have its turn, round after round."""
    state = build_state(layers, hidden_size)
    state_bytes = sum(tensor.nbytes for tensor in state.values())
    storage = reach(server, folder / "keys")
    uri = f"s3://{BUCKET}/run"
    store = open_store(uri, storage)
    area = StagingArea(memory.folders, name_part(0, 1))
    uploader = TimedUploader(uri, storage)
    checkpointer = Checkpointer(
        store,
        Ranks(group=RankGroup(), device=torch.device("cpu"), store=None),
        RunFacts(dataset="none", arithmetic={}),
        area=area,
        uploader=uploader,
        retention=Retention(last=1),
    )
    copies = {name: torch.empty_like(tensor) for name, tensor in state.items()}
    take_step = build_stepper()
    step = 1
    save(checkpointer, state, step)  # makes the memory and starts the process
    copy_plainly(state, copies)
    minimal = start_minimal_client(server, area.path)
    raw: dict[str, list[float]] = {
        name: []
        for name in (
            *("plainCopySeconds", "stallSeconds"),
            *("minimalUploadSeconds", "minimalDigestedSeconds", "uploadSeconds", "saveSeconds"),
            *("idleStepSeconds", "stepSecondsBesideUpload"),
            *("torchStallSeconds", "stepSecondsBesideTorch"),
        )
    }
    for _ in range(rounds):
        raw["plainCopySeconds"].append(copy_plainly(state, copies))
        stall, duration = save(checkpointer, state, step := step + 1)
        raw["stallSeconds"].append(stall)
        raw["saveSeconds"].append(duration)
        raw["uploadSeconds"].append(uploader.seconds)
        raw["minimalUploadSeconds"].append(run_minimal_client(minimal, "upload"))
        raw["minimalDigestedSeconds"].append(run_minimal_client(minimal, "digest"))
        click.echo({name: round(values[-1], 3) for name, values in raw.items() if values})
    lower_priority(server.process_id)
    for number in range(rounds):
        raw["idleStepSeconds"].append(
            time_steps(take_step, partial(is_before, time.perf_counter() + IDLE_SECONDS))
        )
        checkpointer.begin(describe(state, step := step + 1))
        raw["stepSecondsBesideUpload"].append(time_steps(take_step, lambda: checkpointer.is_busy))
        checkpointer.wait()
        begun = time.perf_counter()
        saving = dcp.async_save(state, checkpoint_id=folder / f"torch-{number}")
        assert isinstance(saving, Future)
        raw["torchStallSeconds"].append(time.perf_counter() - begun)
        raw["stepSecondsBesideTorch"].append(time_steps(take_step, partial(is_under_way, saving)))
        saving.result()
        click.echo({name: round(values[-1], 3) for name, values in raw.items()})
    written = sum(item.size for item in store.list_objects(CHECKPOINTS))
    minimal.kill()
    minimal.wait()
    uploader.close()
    return {"raw": raw, "summary": summarize(raw, state_bytes, written)}


class TimedUploader(Uploader):
    """Knows how long the newest upload took, digest included."""

    seconds = 0.0

    def upload(
        self, files: Sequence[Staged], *, on_digest: Callable[[list[ManifestObject]], None]
    ) -> list[ManifestObject]:
        begun = time.perf_counter()
        objects = super().upload(files, on_digest=on_digest)
        self.seconds = time.perf_counter() - begun
        return objects


def summarize(raw: dict[str, list[float]], state_bytes: int, written: int) -> dict[str, float]:
    medians = {name: statistics.median(values) for name, values in raw.items()}
    size = state_bytes / MEBIBYTE
    return {
        "stateMiB": round(size, 1),
        "stallRatio": round(medians["stallSeconds"] / medians["plainCopySeconds"], 3),
        "uploadRatio": round(medians["minimalUploadSeconds"] / medians["uploadSeconds"], 3),
        "digestedUploadRatio": round(
            medians["minimalDigestedSeconds"] / medians["uploadSeconds"], 3
        ),
        "wholeSaveRatio": round(medians["minimalUploadSeconds"] / medians["saveSeconds"], 3),
        "uploadMiBPerSecond": round(size / medians["uploadSeconds"], 1),
        "minimalMiBPerSecond": round(size / medians["minimalUploadSeconds"], 1),
        "stepRatioBesideUpload": round(
            medians["stepSecondsBesideUpload"] / medians["idleStepSeconds"], 3
        ),
        "stepRatioBesideTorch": round(
            medians["stepSecondsBesideTorch"] / medians["idleStepSeconds"], 3
        ),
        "torchStallRatio": round(medians["torchStallSeconds"] / medians["plainCopySeconds"], 3),
        "bytesRatio": round(written / state_bytes, 6),
    }


def build_state(layers: int, hidden_size: int) -> dict[str, torch.Tensor]:
    """Weights and AdamW's moments of a GPT-2, the tied embedding once."""
    heads = max(1, hidden_size // 64)
    model = build_model(
        ModelSpec(layers=layers, heads=heads, hidden_size=hidden_size),
        vocabulary_size=GPT2_VOCABULARY,
        sequence_length=CONTEXT,
        end_of_text=0,
        seed=0,
    )
    return Optimizer(model.named_parameters(), OptimizerSpec()).named_state()


def build_stepper() -> Callable[[], None]:
    """Return what does one training step of a small model."""
    model = build_model(
        ModelSpec(layers=4, heads=4, hidden_size=128),
        vocabulary_size=256,
        sequence_length=64,
        end_of_text=0,
        seed=0,
    )
    optimizer = Optimizer(model.named_parameters(), OptimizerSpec())
    tokens = torch.randint(0, 256, (8, 65), generator=torch.Generator().manual_seed(0))

    def take_step() -> None:
        optimizer.clear_gradients()
        logits = model(input_ids=tokens[:, :-1]).logits
        functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step(1e-3, optimizer.compute_gradient_norm())

    for _ in range(5):
        take_step()
    return take_step


def time_steps(take_step: Callable[[], None], goes_on: Callable[[], bool]) -> float:
    """Return the mean seconds of the steps that are done while `goes_on`."""
    begun, count = time.perf_counter(), 0
    while goes_on():
        take_step()
        count += 1
    return (time.perf_counter() - begun) / max(1, count)


def lower_priority(process_id: int) -> None:
    """Let training go before the store, which is on another machine elsewhere."""
    autogroup = Path(f"/proc/{process_id}/autogroup")
    if autogroup.exists():  # Linux shares cores among sessions by it, and niceness only within one
        autogroup.write_text(f"{LOWEST_PRIORITY}")
    for task in Path(f"/proc/{process_id}/task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(task.name), LOWEST_PRIORITY)


def is_before(deadline: float) -> bool:
    return time.perf_counter() < deadline


def is_under_way(future: Future[Any]) -> bool:
    return not future.done()


def describe(state: dict[str, torch.Tensor], step: int) -> Snapshot:
    return Snapshot(step=step, tensors=state, curve=[], run_seconds=0.0)


def save(
    checkpointer: Checkpointer, state: dict[str, torch.Tensor], step: int
) -> tuple[float, float]:
    """Return the seconds of a save's stall, and those until it was committed after that."""
    begun = time.perf_counter()
    checkpointer.begin(describe(state, step))
    staged = time.perf_counter()
    checkpointer.wait()
    assert checkpointer.store_failure is None, checkpointer.store_failure
    return staged - begun, time.perf_counter() - staged


def copy_plainly(state: dict[str, torch.Tensor], copies: dict[str, torch.Tensor]) -> float:
    begun = time.perf_counter()
    for name, tensor in state.items():
        copies[name].copy_(tensor)
    return time.perf_counter() - begun


def start_minimal_client(server: MinioServer, path: Path) -> subprocess.Popen[str]:
    client = subprocess.Popen(
        [
            *(sys.executable, "-c", MINIMAL_CLIENT),
            *(f"{server.address}:{server.port}", server.access_key, server.secret_key),
            *(BUCKET, "minimal", str(path), str(64 * MEBIBYTE), str(NICENESS)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    return client


def run_minimal_client(client: subprocess.Popen[str], what: str) -> float:
    assert client.stdin is not None
    assert client.stdout is not None
    begun = time.perf_counter()
    client.stdin.write(f"{what}\n")
    client.stdin.flush()
    assert client.stdout.readline() == "done\n"
    return time.perf_counter() - begun


def reach(server: MinioServer, keys: Path) -> StorageConfig:
    keys.mkdir()
    (keys / "accessKey").write_text(server.access_key)
    (keys / "secretKey").write_text(server.secret_key)
    return StorageConfig(
        uri=f"s3://{BUCKET}", endpoint=server.endpoint, credentials_directory=str(keys)
    )


if __name__ == "__main__":
    main()
