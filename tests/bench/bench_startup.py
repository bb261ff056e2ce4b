"""How long a job on real nodes takes to its first step, and back to work after a kill, in parts.

    python tests/bench/bench_startup.py --output startup.json     (as root; see make build-nodes)

Two real nodes on this machine, the chart by Helm, images present, MinIO for a store, the CPU
example of the manifests. Each round applies a job, waits for its first step, kills a rank, then
worker 1, then worker 0, and waits for a step after each. Then a second job with the same data is
applied, which finds it prepared: `sameDataAgain`. Pods are watched through the API with
this machine's clock, which is the pods' too; what happens inside a pod is read from its agent.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from llmtrain_api import ProgressRecord
from llmtrain_api.records import RankPhase
from testbed.cluster import Cluster
from testbed.containers import kill_main_process, kill_process, list_ranks
from testbed.control_plane import ControlPlane
from testbed.images import list_project_images
from testbed.installation import Installation, restrict_namespace
from testbed.main_job import EXAMPLE, fill_minio, render_credentials, render_job
from testbed.minio import MinioServer
from testbed.operators import Jobs
from testbed.requirements import find_missing, find_repository
from testbed.workers import ask_agent

STEPS = 100_000
CHECKPOINT_EVERY_STEPS = 5
DEADLINE_SECONDS = 300
POLL_SECONDS = 0.02
AGENT_COMMAND = "llmtrain_trainer"
SECOND = f"{EXAMPLE}-again"
ROUND_PHASES = (RankPhase.STARTING, RankPhase.RENDEZVOUS, RankPhase.RESTORING)
"""What worker 0's rank passes through before its first step."""
POD_LINE = (
    "{.object.metadata.name} {.object.status.phase} "
    '{.object.status.conditions[?(@.type=="PodScheduled")].status} '
    '{.object.status.containerStatuses[0].state.running.startedAt}{"\\n"}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStep:
    """The first step of a round, as worker 0's agent told of it."""

    progress: ProgressRecord
    training_at: float
    """When its rank was first seen to train in that round."""

    @property
    def at(self) -> float:
        """When the step was seen."""
        return self.progress.now

    def split(self) -> dict[str, float]:
        """The parts of the round up to that step."""
        phases = self.progress.phase_seconds
        return {
            **{phase.value: phases.get(phase.value, 0.0) for phase in ROUND_PHASES},
            "firstStep": self.at - self.training_at,
        }


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
def main(rounds: int, output: Path) -> None:
    """Measure on this machine, and write every figure to OUTPUT."""
    if missing := find_missing():
        raise click.ClickException(f"real nodes need {', '.join(missing)}: make build-nodes")
    results: list[dict[str, dict[str, float]]] = []
    with ExitStack() as stack:
        cluster = Cluster(list_project_images(find_repository()))
        stack.callback(cluster.stop)
        cluster.start()
        minio = MinioServer(cluster.directory / "minio", address=cluster.host_address)
        stack.callback(minio.stop)
        minio.start()
        fill_minio(minio)
        Installation(cluster).install()
        for number in range(rounds):
            results.append(run_round(cluster, minio))
            click.echo(f"round {number}: {json.dumps(results[-1], indent=1)}")
    summary = {
        measure: {
            part: round(statistics.median(result[measure][part] for result in results), 2)
            for part in parts
        }
        for measure, parts in results[0].items()
    }
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    document = {"machine": machine, "medianSeconds": summary, "rounds": results}
    output.write_text(json.dumps(document, indent=1) + "\n")
    click.echo(json.dumps(summary, indent=1))


def run_round(cluster: Cluster, minio: MinioServer) -> dict[str, dict[str, float]]:
    """Apply a job in a fresh namespace and kill parts of it; seconds by measure and part."""
    namespace = f"bench-{secrets.token_hex(4)}"
    server = cluster.control_plane
    server.create_namespace(namespace)
    server.apply(restrict_namespace(namespace), render_credentials(minio, namespace))
    jobs = Jobs(server, namespace)
    job = render_job(minio, steps=STEPS, every_steps=CHECKPOINT_EVERY_STEPS)
    job["spec"]["storage"]["uri"] += f"/{namespace}"  # where no round before it prepared the data
    with watch_moments(server, namespace) as moments:
        applied_at = time.time()
        server.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(job))
        measures = {"applyToFirstStep": split_start(jobs, moments, applied_at)}
        measures["rankKilled"] = split_rank_loss(jobs)
        for index in (1, 0):
            measures[f"worker{index}Killed"] = split_pod_loss(jobs, moments, index)
        server.kubectl("-n", namespace, "delete", "llmtrainingjob", EXAMPLE, "--cascade=foreground")
        job["metadata"]["name"] = SECOND
        applied_at = time.time()
        server.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(job))
        measures["sameDataAgain"] = split_start(jobs, moments, applied_at, SECOND)
    server.kubectl("delete", "namespace", namespace)
    return measures


def split_start(
    jobs: Jobs, moments: dict[str, float], applied_at: float, name: str = EXAMPLE
) -> dict[str, float]:
    """From `kubectl apply` of the job `name` to its first training step."""
    prepare, trainer = f"{name}-prepare-0-0", f"{name}-train-0-0"
    answers_at, pod = await_agent(jobs, moments, trainer)
    stepped = await_step(pod, lost_round=0)
    parts = {
        "operatorCreatesPrepare": moments[f"{prepare} created"] - applied_at,
        "prepareScheduled": moments[f"{prepare} scheduled"] - moments[f"{prepare} created"],
        "prepareStarted": moments[f"{prepare} running"] - moments[f"{prepare} scheduled"],
        "prepareWorks": moments[f"{prepare} Succeeded"] - moments[f"{prepare} running"],
        "operatorCreatesTrain": moments[f"{trainer} created"] - moments[f"{prepare} Succeeded"],
        **split_pod(moments, trainer, answers_at, stepped),
    }
    return {"total": stepped.at - applied_at, **parts}


def split_rank_loss(jobs: Jobs) -> dict[str, float]:
    """From SIGKILL to a rank of worker 1 to the next step of worker 0."""
    pods = jobs.list_pods()
    pod = pods[f"{EXAMPLE}-train-0-0"]
    before = await_progress(pod, is_past_a_checkpoint)
    (rank,) = list_ranks(pods[f"{EXAMPLE}-train-1-0"])
    killed_at = time.time()
    kill_process(rank)
    stepped = await_step(pod, lost_round=before.round)
    parts = stepped.split()
    noticed = stepped.at - killed_at - sum(parts.values())
    return {"total": stepped.at - killed_at, "noticedAndForked": noticed, **parts}


def split_pod_loss(jobs: Jobs, moments: dict[str, float], index: int) -> dict[str, float]:
    """From SIGKILL to a worker's first process to the next step of worker 0."""
    pods = jobs.list_pods()
    leader = pods[f"{EXAMPLE}-train-0-0"]
    before = await_progress(leader, is_past_a_checkpoint)
    failed, fresh = (f"{EXAMPLE}-train-{index}-{incarnation}" for incarnation in (0, 1))
    killed_at = time.time()
    kill_main_process(pods[failed], AGENT_COMMAND)
    answers_at, pod = await_agent(jobs, moments, fresh)
    # A new worker 0 counts its rounds anew.
    stepped = await_step(leader if index else pod, lost_round=before.round if index else 0)
    parts = {
        "kubeletTells": moments[f"{failed} Failed"] - killed_at,
        "operatorReplaces": moments[f"{fresh} created"] - moments[f"{failed} Failed"],
        **split_pod(moments, fresh, answers_at, stepped),
    }
    return {"total": stepped.at - killed_at, **parts}


def split_pod(
    moments: dict[str, float], name: str, answers_at: float, stepped: FirstStep
) -> dict[str, float]:
    """From a pod's creation to worker 0's first step.

    Ranks are forked once their own pod has imported torch; where the other worker's imports take
    longer, that shows as `rendezvous`.
    """
    in_round = stepped.split()
    return {
        "scheduled": moments[f"{name} scheduled"] - moments[f"{name} created"],
        "sandboxAndContainer": moments[f"{name} running"] - moments[f"{name} scheduled"],
        "agentAnswers": answers_at - moments[f"{name} running"],
        "importsAndMeeting": stepped.at - sum(in_round.values()) - answers_at,
        **in_round,
    }


def is_past_a_checkpoint(now: ProgressRecord) -> bool:
    """Whether there is a checkpoint of this round to come back to."""
    committed = now.checkpoint_step or 0
    return committed > (now.resumed_step or 0) and now.step > committed


def await_agent(jobs: Jobs, moments: dict[str, float], name: str) -> tuple[float, dict[str, Any]]:
    """Wait until a pod's agent answers; returns when it did, and the pod."""
    await_moment(moments, f"{name} running")
    pod = await_address(jobs, name)
    await_progress(pod, lambda now: True)
    return time.time(), pod


def await_step(pod: dict[str, Any], *, lost_round: int) -> FirstStep:
    """Wait for the first step of worker 0's first round after `lost_round`."""
    training_at: list[float] = []

    def has_stepped(now: ProgressRecord) -> bool:
        if now.round <= lost_round or not now.ranks:
            return False
        if now.ranks[0].phase is RankPhase.TRAINING:
            training_at.append(now.now)
        # The number in the first answers of a round may be the last round's.
        return bool(training_at) and now.ranks[0].step > (now.resumed_step or 0)

    progress = await_progress(pod, has_stepped)
    return FirstStep(progress=progress, training_at=training_at[0])


def await_address(jobs: Jobs, name: str) -> dict[str, Any]:
    """Wait until a pod has an address; returns it."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        pod = jobs.list_pods().get(name)
        if pod is not None and pod["status"].get("podIP"):
            return pod
    raise TimeoutError(f"{name} has no address")


def await_progress(pod: dict[str, Any], holds: Callable[[ProgressRecord], bool]) -> ProgressRecord:
    """Ask a pod's agent until something holds for its answer; returns that."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        progress = ask_agent(pod)
        if progress is not None and holds(progress):
            return progress
        if time.monotonic() > deadline:
            raise TimeoutError(f"{pod['metadata']['name']} is at {progress}")
        time.sleep(POLL_SECONDS)


def await_moment(moments: dict[str, float], moment: str) -> None:
    """Wait until the watch has told of something."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while moment not in moments:
        if time.monotonic() > deadline:
            raise TimeoutError(f"never saw {moment!r}; saw {moments}")
        time.sleep(POLL_SECONDS)


@contextmanager
def watch_moments(server: ControlPlane, namespace: str) -> Iterator[dict[str, float]]:
    """When each pod was first seen created, scheduled, running and ended; filled as it happens."""
    moments: dict[str, float] = {}
    watch = subprocess.Popen(
        [
            server.kubectl_program, f"--kubeconfig={server.kubeconfig}", "-n", namespace,
            "get", "pods", "--watch", "--output-watch-events", f"--output=jsonpath={POD_LINE}",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip

    def read() -> None:
        assert watch.stdout is not None
        for line in watch.stdout:
            name, phase, scheduled, started = (line.rstrip("\n").split(" ") + [""] * 3)[:4]
            facts = {"created": True, "scheduled": scheduled == "True", "running": bool(started)}
            facts[phase] = phase in {"Succeeded", "Failed"}
            for fact, holds in facts.items():
                if holds:
                    moments.setdefault(f"{name} {fact}", time.time())

    reading = threading.Thread(target=read)
    reading.start()
    try:
        yield moments
    finally:
        watch.terminate()
        watch.wait()
        reading.join()
        assert watch.stdout is not None
        watch.stdout.close()


if __name__ == "__main__":
    main()
