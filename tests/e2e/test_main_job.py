"""The main job, end to end: a manifest becomes a model on two real nodes, whatever dies meanwhile.

One story, read from top to bottom. Everything in it is real: the chart by Helm, the pods by
kubelets, the store by MinIO, the metrics by a Prometheus; and all through it the operator is
killed at random moments.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmtrain_api import LLMTrainingJob, ProgressRecord
from llmtrain_api.status import Phase
from testbed.containers import kill_main_process, kill_process, list_ranks
from testbed.documents import find_command
from testbed.installation import Installation
from testbed.main_job import (
    EXAMPLE,
    MODELS_BUCKET,
    fill_folder,
    fill_minio,
    render_job,
)
from testbed.minio import MinioServer
from testbed.operators import Jobs
from testbed.pod_watch import find_doubles, watch_objects, watch_pods
from testbed.processes import ServerProcess, wait_until
from testbed.prometheus import Prometheus, scrape_file, write_pod_targets
from testbed.workers import AGENT_COMMAND, DEADLINE_SECONDS, Workers

pytestmark = pytest.mark.nodes

SEED = 20261124
STEPS = 80
CHECKPOINT_EVERY_STEPS = 5
KILL_GAP_SECONDS = (1.0, 25.0)
MIN_KILLS = 3
LOSS_TOLERANCE = 1e-5
NUM_WRITTEN_TOKENS = 40

StartPrometheus = Callable[[Sequence[dict[str, Any]]], Prometheus]


def test_a_manifest_becomes_a_model(
    installation: Installation,
    jobs: Jobs,
    pod_minio: MinioServer,
    prometheus: StartPrometheus,
    tmp_path: Path,
) -> None:
    fill_minio(pod_minio)
    manifest = render_job(pod_minio, steps=STEPS, every_steps=CHECKPOINT_EVERY_STEPS)
    pod_log = watch_pods(jobs.server, jobs.namespace, tmp_path)
    status_log = watch_statuses(jobs, tmp_path)
    workers = Workers(jobs, EXAMPLE)

    with keep_killing_operator(installation, random.Random(SEED)) as kills:
        type_command(
            jobs,
            "kubectl create secret",
            {"KEY": pod_minio.access_key, "SECRET": pod_minio.secret_key},
        )
        jobs.server.kubectl("-n", jobs.namespace, "apply", "-f", "-", input=json.dumps(manifest))
        await_running(jobs, workers, "prepare-0-0")
        await_running(jobs, workers, "train-0-0", "train-1-0")
        assert len({pod["spec"]["nodeName"] for pod in workers.list_living()}) == 2
        await_scrape_of_loss(workers, prometheus, jobs.namespace, tmp_path)
        kill_a_rank_and_see_training_go_on(workers)
        kill_a_pod_and_see_training_go_on(workers)
        await_filled_columns(jobs, workers)
        job = await_success(jobs, workers)
    assert len(kills) >= MIN_KILLS
    assert "Succeeded" in type_command(jobs, "kubectl describe llmtrainingjob")

    wait_until(
        lambda: "Succeeded|" in status_log.log.read_text(),
        seconds=DEADLINE_SECONDS,
        what="the watch to tell of the end",
    )
    for log in (pod_log, status_log):
        log.stop()
    assert find_doubles(pod_log.log) == []
    assert list_names(pod_log.log) == {
        f"{EXAMPLE}-{process}"
        for process in ("prepare-0-0", "train-0-0", "train-0-1", "train-1-0", "evaluate-0-0")
    }
    assert [(a.stage, a.index, a.incarnation) for a in job.status.attempts] == [("train", 0, 0)]
    assert (job.status.restarts, job.status.incarnations) == (1, {"train-0": 1})
    check_order_of_conditions(status_log.log)

    check_that_transformers_writes_text(pod_minio, job, tmp_path / "export")
    local = run_locally(manifest, tmp_path)
    assert job.status.results is not None
    assert local.status.results is not None
    assert job.status.results.train_loss == pytest.approx(
        local.status.results.train_loss, abs=LOSS_TOLERANCE
    )
    delete_and_see_that_data_stays(jobs, pod_minio)


def type_command(jobs: Jobs, start: str, values: Mapping[str, str] | None = None) -> str:
    """Run a command of the README in the job's namespace, with values for its words in capitals."""
    _, *words = shlex.split(find_command(start))
    for name, value in (values or {}).items():
        words = [re.sub(rf"\b{name}\b", value, word) for word in words]
    return jobs.server.kubectl("-n", jobs.namespace, *words)


@contextmanager
def keep_killing_operator(installation: Installation, rng: random.Random) -> Iterator[list[float]]:
    """SIGKILL the operator at random moments during the block; gives the gaps between kills."""
    over = threading.Event()
    gaps: list[float] = []

    def kill() -> None:
        gap = rng.uniform(*KILL_GAP_SECONDS)
        while not over.wait(gap):
            if installation.kill_operator():
                gaps.append(gap)
            gap = rng.uniform(*KILL_GAP_SECONDS)

    with ThreadPoolExecutor(1) as executor:
        killing = executor.submit(kill)
        try:
            yield gaps
        finally:
            over.set()
    killing.result()


def kill_a_rank_and_see_training_go_on(workers: Workers) -> None:
    """SIGKILL to one rank: all ranks go back to the checkpoint, in the pods that there are."""
    before = workers.await_progress(0, lambda now: now.checkpoint_step is not None)
    pods = {pod["metadata"]["uid"] for pod in workers.list_living()}
    (rank,) = list_ranks(workers.find_newest(1))
    assert kill_process(rank)
    await_resumption(workers, before, lambda now: now.round > before.round)
    assert {pod["metadata"]["uid"] for pod in workers.list_living()} == pods


def kill_a_pod_and_see_training_go_on(workers: Workers) -> None:
    """SIGKILL to the first process of worker 0, whom all meet at: another one takes its place."""
    seen = workers.await_progress(0, lambda now: now.resumed_step is not None)
    before = workers.await_progress(
        0, lambda now: (now.checkpoint_step or 0) > (seen.resumed_step or 0)
    )
    assert kill_main_process(workers.find_newest(0), AGENT_COMMAND)
    await_resumption(workers, before, lambda now: now.incarnation == 1)


def await_resumption(
    workers: Workers, before: ProgressRecord, is_anew: Callable[[ProgressRecord], bool]
) -> None:
    """Wait until the ranks went back to the checkpoint, and then further than they had been."""
    resumed = workers.await_progress(0, lambda now: is_anew(now) and now.resumed_step is not None)
    assert before.checkpoint_step is not None
    assert resumed.resumed_step is not None
    assert before.checkpoint_step <= resumed.resumed_step
    workers.await_progress(0, lambda now: now.step > before.step)


def await_running(jobs: Jobs, workers: Workers, *processes: str) -> None:
    """Wait until these pods have run; a short one may have ended meanwhile."""
    names = [f"{EXAMPLE}-{process}" for process in processes]

    def have_run() -> bool:
        phases = {name: pod["status"]["phase"] for name, pod in jobs.list_pods().items()}
        return all(phases.get(name) in {"Running", "Succeeded"} for name in names)

    workers.await_condition(have_run, f"{names} to run")


def await_success(jobs: Jobs, workers: Workers) -> LLMTrainingJob:
    ended = {Phase.SUCCEEDED, Phase.FAILED}
    workers.await_condition(lambda: jobs.read(EXAMPLE).status.phase in ended, "the job to end")
    job = jobs.read(EXAMPLE)
    assert job.status.phase is Phase.SUCCEEDED, workers.explain()
    return job


def await_scrape_of_loss(
    workers: Workers, prometheus: StartPrometheus, namespace: str, directory: Path
) -> None:
    """Let a real Prometheus read the loss from the pod that has it."""
    targets = directory / "targets.json"
    write_pod_targets(targets, workers.list_living(), port_name="metrics")
    server = prometheus([scrape_file(targets, job="workers")])
    query = f'llmtrain_train_loss{{namespace="{namespace}",job="{EXAMPLE}"}}'
    workers.await_condition(lambda: bool(server.query(query)), f"a scrape of {query}")
    assert float(server.query(query)[0]["value"][1]) > 0


def await_filled_columns(jobs: Jobs, workers: Workers) -> None:
    """Wait until `kubectl get llmtrainingjobs` shows something in every column."""

    def are_filled() -> bool:
        table = jobs.server.kubectl("-n", jobs.namespace, "get", "llmtrainingjobs").splitlines()
        heading, row = table[0].split(), table[1].split()
        assert heading[:7] == ["NAME", "STATUS", "STAGE", "STEP", "PERCENT", "LOSS", "WORKERS"]
        return len(row) == len(heading) and row[1] == "Training"

    workers.await_condition(are_filled, "every column to be filled")


def watch_statuses(jobs: Jobs, directory: Path) -> ServerProcess:
    """Write the phase, the conditions and their truths after every change of the job."""
    conditions = "{.object.status.conditions[*].type}|{.object.status.conditions[*].status}"
    return watch_objects(
        jobs.server,
        jobs.namespace,
        "llmtrainingjobs",
        f'{{.object.status.phase}}|{conditions}{{"\\n"}}',
        directory / "statuses.log",
    )


def read_statuses(log: Path) -> list[set[str]]:
    """What was known after each change, as `phase=Training` and `DataReady=True`."""
    known = []
    for line in log.read_text().splitlines():
        phase, conditions, truths = line.split("|")
        pairs = zip(conditions.split(), truths.split(), strict=True)
        known.append({f"phase={phase}", *(f"{kind}={truth}" for kind, truth in pairs)})
    return known


def list_names(pod_log: Path) -> set[str]:
    return {line.split()[1] for line in pod_log.read_text().splitlines()}


def check_order_of_conditions(status_log: Path) -> None:
    """What a user and a program saw, in order; `phase=` alone is the job as it was applied."""
    seen = read_statuses(status_log)
    facts = (
        "phase=",
        "phase=Preparing",
        "DataReady=True",
        "StorageSafe=True",
        "CheckpointHealthy=True",
        "phase=Evaluating",
        "Succeeded=True",
    )
    first = [next(i for i, facts_then in enumerate(seen) if fact in facts_then) for fact in facts]
    assert first == sorted(first), dict(zip(facts, first, strict=True))
    assert any({"phase=Training", "WorkersReady=True"} <= then for then in seen)
    assert {"phase=Succeeded", "Reconciling=False", "Stalled=False"} <= seen[-1]
    assert not any({"phase=Failed", "Stalled=True", "Succeeded=False"} & then for then in seen)


def check_that_transformers_writes_text(
    minio: MinioServer, job: LLMTrainingJob, folder: Path
) -> None:
    """Download the export as anybody would, and let it write."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert job.status.results is not None
    assert job.status.results.export_uri is not None
    prefix = job.status.results.export_uri.removeprefix(f"s3://{MODELS_BUCKET}/")
    client = minio.connect()
    for found in client.list_objects(MODELS_BUCKET, f"{prefix}/", recursive=True):
        assert found.object_name is not None
        client.fget_object(
            MODELS_BUCKET, found.object_name, str(folder / found.object_name[len(prefix) + 1 :])
        )
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("The ", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=NUM_WRITTEN_TOKENS, do_sample=False)
    text: str = tokenizer.decode(written[0])
    assert text.startswith("The ")
    assert len(text) == len("The ") + NUM_WRITTEN_TOKENS


def run_locally(manifest: dict[str, Any], directory: Path) -> LLMTrainingJob:
    """Run the same manifest by `llmtrain run`, with a folder for a store; returns the job."""
    store = directory / "store"
    fill_folder(store)
    file = directory / "job.yaml"
    file.write_text(yaml.safe_dump(manifest))
    run = subprocess.run(
        [Path(sys.executable).parent / "llmtrain", "run", file, "--store", store],
        text=True,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    [path] = store.glob(f"_jobs/*/{EXAMPLE}/job.json")
    return LLMTrainingJob.read_lenient(json.loads(path.read_text()))


def delete_and_see_that_data_stays(jobs: Jobs, minio: MinioServer) -> None:
    before = list_objects(minio)
    assert any("/checkpoints/" in name for name in before)
    jobs.server.kubectl("-n", jobs.namespace, "delete", "llmtrainingjob", EXAMPLE)
    wait_until(lambda: not jobs.list_pods(), seconds=DEADLINE_SECONDS, what="the pods to go")
    assert list_objects(minio) == before


def list_objects(minio: MinioServer) -> set[str]:
    found = minio.connect().list_objects(MODELS_BUCKET, recursive=True)
    return {str(each.object_name) for each in found}
