"""What the operator costs and how fast it is: a real control plane, imitated nodes.

    python tests/bench/bench_operator.py --output operator.json

One control plane, kwok nodes and one operator process; in this order:

- `many_jobs`: jobs of a few workers, let go at once: until their pods exist and run, processor
  seconds, API writes for each job. Then the operator at rest with them, and their deletion.
  Before it the same with `probe_operator` in the operator's place, which makes the least objects
  that do (`probe_least`), then ours (`probe_ours`): what this machine can do. They take
  turns for as many rounds as are asked for, and `ratios` has ours to each probe's.
- `large_job`: one job of very many workers, and a deleted pod's replacement.
- `finished_jobs`: the operator started anew and at rest beside finished jobs.

The jobs wait suspended at their training stage, so that letting them go is one write by the user
and the pods are all they need: the same work as a job that begins with its pods. Times count from
the moment the first write is sent. Processor seconds of the control plane, kwok and the operator
are counted by process; those of this program, which watches too, are not.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmtrain_api import GROUP, PLURAL, VERSION
from llmtrain_api.status import Phase
from llmtrain_operator.world.kube import KubeClient, open_client
from operator_meters import (
    PodWatch,
    compare,
    count_requests,
    count_writes,
    read_memory,
    read_processor,
    subtract_seconds,
    summarise,
)
from testbed.control_plane import ControlPlane
from testbed.kwok import KwokNodes
from testbed.processes import ServerProcess, find_free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CRD = Path(__file__).parents[2] / "crds" / "llmtrainingjobs.yaml"
PROBE = Path(__file__).with_name("probe_operator.py")
PROBES = ("least", "ours")
"""What the probes make: `probe_operator`."""

NAMESPACE = "bench"
JOBS_PATH = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{PLURAL}"
PODS_PATH = f"/api/v1/namespaces/{NAMESPACE}/pods"
CONCURRENT_WRITES = 32
SCENARIO_SECONDS = 600.0
POLL_SECONDS = 0.2
SETTLE_SECONDS = 15.0
"""Until the operator and the control plane rest, before anything at rest is measured."""


class Bench:
    """The servers of a run, and what is measured of them."""

    def __init__(self, plane: ControlPlane, directory: Path, client: KubeClient) -> None:
        self.plane = plane
        self.client = client
        self.watch = PodWatch(PODS_PATH)
        self.ours = ServerProcess(
            "operator",
            [sys.executable, "-m", "llmtrain_operator"],
            log=directory / "operator.log",
            environment={
                "KUBECONFIG": str(plane.kubeconfig),
                "LLMTRAIN_NAMESPACE": NAMESPACE,
                "LLMTRAIN_TRAINER_IMAGE": "trainer:bench",
                "LLMTRAIN_METRICS_PORT": str(find_free_port()),
                "LLMTRAIN_HEALTH_PORT": str(find_free_port()),
                "LLMTRAIN_LOG_LEVEL": "warning",
            },
        )
        self.probes = {
            objects: ServerProcess(
                "probe",
                [sys.executable, str(PROBE)],
                log=directory / f"probe-{objects}.log",
                environment={"KUBECONFIG": str(plane.kubeconfig), "PROBE_OBJECTS": objects},
            )
            for objects in PROBES
        }
        self.operator = self.ours
        """The one that is measured."""

    @contextmanager
    def operating(self, operator: ServerProcess) -> Iterator[None]:
        """Have one operator run, and measure that one."""
        self.operator = operator
        operator.start()
        try:
            yield
        finally:
            operator.stop()

    async def measure_probe(
        self, objects: str, turn: int, num_jobs: int, num_workers: int
    ) -> dict[str, Any]:
        """Let many jobs go at once, before an operator that does nothing else."""
        names = [f"probe-{objects}-{turn}-{index:04d}" for index in range(num_jobs)]
        with self.operating(self.probes[objects]):
            await self._each(names, lambda name: self._create(name, num_workers))
            await asyncio.sleep(SETTLE_SECONDS)
            return await self._measure_release(names, num_workers)

    async def measure_many(self, turn: int, num_jobs: int, num_workers: int) -> dict[str, Any]:
        """Let many jobs go at once."""
        names = [f"job-{turn}-{index:04d}" for index in range(num_jobs)]
        with self.operating(self.ours):
            await self._create_waiting(names, num_workers)
            return await self._measure_release(names, num_workers)

    async def _measure_release(self, names: Sequence[str], num_workers: int) -> dict[str, Any]:
        """Let jobs go that wait, look at the operator at rest with them, and delete them."""
        num_jobs = len(names)
        writes, processor = count_writes(self.plane), read_processor()
        requests = count_requests(self.plane)
        began = time.monotonic()
        await self._each(names, self._let_go)
        accepted = time.monotonic() - began
        existing = await self._await_pods(self.watch.existing, names, num_workers)
        running = await self._await_pods(self.watch.running, names, num_workers)
        await self._await_status(names, f"{num_workers}/{num_workers}")
        reported = time.monotonic() - began
        await asyncio.sleep(SETTLE_SECONDS)
        added = count_writes(self.plane) - writes
        results: dict[str, Any] = {
            "jobs": num_jobs,
            "workers_per_job": num_workers,
            "accepted_seconds": accepted,
            "pods_exist_seconds": summarise([moment - began for moment in existing]),
            "pods_run_seconds": summarise([moment - began for moment in running]),
            "all_statuses_say_so_seconds": reported,
            "processor_seconds": subtract_seconds(read_processor(), processor),
            "api_writes_per_job": {
                resource: round(count / num_jobs, 2) for resource, count in added.items()
            },
            "api_writes_per_job_total": round(added.total() / num_jobs, 2),
            "api_requests_per_job": {
                name: round(count / num_jobs, 2)
                for name, count in (count_requests(self.plane) - requests).most_common(24)
            },
            "operator_peak_mib": read_memory(self.operator.pid, "VmHWM"),
        }
        results["at_rest"] = await self._measure_rest(60.0)
        began = time.monotonic()
        await self._each(names, self._delete)
        await self._await(lambda: not self.watch.alive, "every pod to go")
        results["deleted_seconds"] = time.monotonic() - began
        return results

    async def measure_large(self, num_workers: int) -> dict[str, Any]:
        """Let one job of very many workers go, then take one of its pods away."""
        with self.operating(self.ours):
            return await self._measure_large(num_workers)

    async def _measure_large(self, num_workers: int) -> dict[str, Any]:
        await self._create_waiting(["large"], num_workers)
        writes = count_writes(self.plane)
        began = time.monotonic()
        await self._let_go("large")
        (existing,) = await self._await_pods(self.watch.existing, ["large"], num_workers)
        (running,) = await self._await_pods(self.watch.running, ["large"], num_workers)
        await self._await_status(["large"], f"{num_workers}/{num_workers}")
        results: dict[str, Any] = {
            "workers": num_workers,
            "pods_exist_seconds": existing - began,
            "pods_run_seconds": running - began,
            "status_says_so_seconds": time.monotonic() - began,
            "api_writes": count_writes(self.plane) - writes,
            "operator_peak_mib": read_memory(self.operator.pid, "VmHWM"),
        }
        began = time.monotonic()
        await self.client.delete(f"{PODS_PATH}/large-train-1-0", {})
        replacement = "large-train-1-1"
        await self._await(
            lambda: replacement in self.watch.existing["large"], "the pod's replacement"
        )
        results["replacement_exists_seconds"] = self.watch.existing["large"][replacement] - began
        await self._delete("large")
        await self._await(lambda: not self.watch.alive, "every pod to go")
        return results

    async def measure_finished(self, num_jobs: int) -> dict[str, Any]:
        """Rest beside finished jobs, as a new process."""
        names = [f"finished-{index:03d}" for index in range(num_jobs)]
        with self.operating(self.ours):
            await self._create_waiting(names, 1)
            await self._each(names, self._finish)
        with self.operating(self.ours):
            await asyncio.sleep(SETTLE_SECONDS)
            return {"jobs": num_jobs} | await self._measure_rest(60.0)

    async def _measure_rest(self, seconds: float) -> dict[str, Any]:
        before = read_processor()
        await asyncio.sleep(seconds)
        used = subtract_seconds(read_processor(), before)
        return {
            "measured_seconds": seconds,
            "operator_processor_share": used.get("operator", 0.0) / seconds,
            "operator_mib": read_memory(self.operator.pid, "VmRSS"),
        }

    async def _create_waiting(self, names: Sequence[str], num_workers: int) -> None:
        """Create suspended jobs that have come to their training stage."""

        async def pass_prepare(name: str) -> None:
            change = {"op": "replace", "path": "/status/stage", "value": "train"}
            await self.client.patch(f"{JOBS_PATH}/{name}/status", [change])

        await self._each(names, lambda name: self._create(name, num_workers))
        await self._await_phase(names, Phase.SUSPENDED)
        await self._each(names, pass_prepare)
        await asyncio.sleep(SETTLE_SECONDS)

    async def _create(self, name: str, num_workers: int) -> None:
        await self.client.create(JOBS_PATH, describe_job(name, num_workers))

    async def _let_go(self, name: str) -> None:
        change = {"op": "replace", "path": "/spec/runPolicy/suspend", "value": False}
        await self.client.patch(f"{JOBS_PATH}/{name}", [change])

    async def _finish(self, name: str) -> None:
        finished_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        changes = [
            {"op": "replace", "path": "/status/phase", "value": Phase.SUCCEEDED.value},
            {"op": "add", "path": "/status/finishedAt", "value": finished_at},
        ]
        await self.client.patch(f"{JOBS_PATH}/{name}/status", changes)

    async def _delete(self, name: str) -> None:
        await self.client.delete(f"{JOBS_PATH}/{name}", {"propagationPolicy": "Background"})

    async def _each(self, names: Sequence[str], act: Any) -> None:
        slots = asyncio.Semaphore(CONCURRENT_WRITES)

        async def act_in_turn(name: str) -> None:
            async with slots:
                await act(name)

        await asyncio.gather(*(act_in_turn(name) for name in names))

    async def _await_pods(
        self, seen: dict[str, dict[str, float]], names: Sequence[str], num_pods: int
    ) -> list[float]:
        def find() -> list[float]:
            return self.watch.list_complete(seen, names, num_pods)

        await self._await(lambda: len(find()) == len(names), f"{num_pods} pods of each job")
        return find()

    async def _await_phase(self, names: Sequence[str], phase: Phase) -> None:
        wanted = set(names)
        await self._await_listed(wanted, lambda status: status.get("phase") == phase.value)

    async def _await_status(self, names: Sequence[str], summary: str) -> None:
        wanted = set(names)
        await self._await_listed(
            wanted, lambda status: status.get("workers", {}).get("summary") == summary
        )

    async def _await_listed(self, wanted: set[str], holds: Any) -> None:
        deadline = time.monotonic() + SCENARIO_SECONDS
        while time.monotonic() < deadline:
            items, _ = await self.client.list_all(JOBS_PATH)
            found = {i["metadata"]["name"] for i in items if holds(i.get("status", {}))}
            if wanted <= found:
                return
            await asyncio.sleep(1.0)
        raise TimeoutError(f"waited for the status of {len(wanted - found)} jobs")

    async def _await(self, holds: Any, what: str) -> None:
        deadline = time.monotonic() + SCENARIO_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited for {what}\n{self.operator.tail_log()}")
            await asyncio.sleep(POLL_SECONDS)


def describe_job(name: str, num_workers: int) -> dict[str, Any]:
    """Return a suspended job of so many workers."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "LLMTrainingJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "data": {"sources": [{"uri": "s3://corpus/books/"}]},
            "training": {"steps": 100, "batchSize": num_workers},
            "workers": {"replicas": num_workers},
            "storage": {"uri": "s3://models/bench"},
            "runPolicy": {"suspend": True},
        },
    }


@asynccontextmanager
async def run_servers(directory: Path, num_nodes: int) -> AsyncIterator[Bench]:
    """Start everything; yields the bench."""
    plane = ControlPlane(directory)
    nodes = KwokNodes(directory / "kwok", plane, count=num_nodes)
    try:
        plane.start()
        nodes.start()
        plane.define(CRD)
        plane.create_namespace(NAMESPACE)
        os.environ["KUBECONFIG"] = str(plane.kubeconfig)
        async with open_client(requests=CONCURRENT_WRITES) as client:
            bench = Bench(plane, directory, client)
            watching = asyncio.create_task(bench.watch.follow(client))
            try:
                yield bench
            finally:
                watching.cancel()
    finally:
        nodes.stop()
        plane.stop()


async def measure(
    output: Path, rounds: int, num_jobs: int, workers: int, large: int, finished: int, nodes: int
) -> None:
    """Run every scenario that has a size, and write what is known after each."""
    results: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "nodes": nodes,
    }

    async def record(run: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        # A load of more than a few: others were at work too, and times say little.
        load_before = os.getloadavg()[0]
        return await run | {"machine_load": [load_before, os.getloadavg()[0]]}

    def write() -> None:
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory(prefix="bench-operator-") as directory:
        async with run_servers(Path(directory), nodes) as bench:
            for turn in range(rounds if num_jobs else 0):
                for objects in PROBES:
                    measured = await record(bench.measure_probe(objects, turn, num_jobs, workers))
                    results.setdefault(f"probe_{objects}", []).append(measured)
                    write()
                measured = await record(bench.measure_many(turn, num_jobs, workers))
                results.setdefault("many_jobs", []).append(measured)
                results["ratios"] = {
                    objects: compare(results["many_jobs"], results[f"probe_{objects}"])
                    for objects in PROBES
                }
                write()
            if large:
                results["large_job"] = await record(bench.measure_large(large))
                write()
            if finished:
                results["finished_jobs"] = await record(bench.measure_finished(finished))
                write()


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="JSON file.")
@click.option("--rounds", default=1, show_default=True, help="Turns of the probe and of ours.")
@click.option("--jobs", default=1000, show_default=True, help="Jobs at once; 0 skips.")
@click.option("--workers", default=2, show_default=True, help="Pods of each of them.")
@click.option("--large", default=1000, show_default=True, help="Pods of the large job; 0 skips.")
@click.option("--finished", default=100, show_default=True, help="Finished jobs; 0 skips.")
@click.option("--nodes", default=200, show_default=True, help="Imitated nodes.")
def main(
    output: Path, rounds: int, jobs: int, workers: int, large: int, finished: int, nodes: int
) -> None:
    """Measure the operator and write what came out as JSON."""
    asyncio.run(measure(output, rounds, jobs, workers, large, finished, nodes))
    click.echo(output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
