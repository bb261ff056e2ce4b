"""What the operator costs and how fast it is: a real control plane, imitated nodes.

    python tests/bench/bench_operator.py --output operator.json

One control plane, kwok nodes and one operator process; in this order:

- `many_jobs`: jobs of a few workers, let go at once: until their pods exist and run, processor
  seconds, API writes for each job. Then the operator at rest with them, and their deletion.
  Before it the same with `probe_operator` in the operator's place: what this machine can do.
  The two take turns for as many rounds as are asked for, and `ratios` has ours to the probe's.
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
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmtrain_api import GROUP, PLURAL, VERSION
from llmtrain_api.status import Phase
from llmtrain_operator.render.labels import JOB_LABEL
from llmtrain_operator.world.kube import KubeClient, open_client
from testbed.control_plane import ControlPlane
from testbed.kwok import KwokNodes
from testbed.processes import ServerProcess, find_free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CRD = Path(__file__).parents[2] / "crds" / "llmtrainingjobs.yaml"
PROBE = Path(__file__).with_name("probe_operator.py")
NAMESPACE = "bench"
JOBS_PATH = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{PLURAL}"
PODS_PATH = f"/api/v1/namespaces/{NAMESPACE}/pods"
CONCURRENT_WRITES = 32
SCENARIO_SECONDS = 600.0
POLL_SECONDS = 0.2
SETTLE_SECONDS = 15.0
"""Until the operator and the control plane rest, before anything at rest is measured."""
REQUESTS = re.compile(
    r'^apiserver_request_total\{.*code="(\d+)".*resource="(\w+)".*verb="([A-Z]+)".*\} (\S+)',
    re.MULTILINE,
)
WRITES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE"})
READS = frozenset({"GET", "LIST"})
UPKEEP = frozenset({"leases", "nodes"})
"""Resources that are written all the time, whatever the operator does."""


class PodWatch:
    """When each job's pods came to exist and to run (seconds on this program's clock)."""

    def __init__(self) -> None:
        self.existing: dict[str, dict[str, float]] = {}
        self.running: dict[str, dict[str, float]] = {}
        self.alive: set[str] = set()

    async def follow(self, client: KubeClient) -> None:
        """Watch until cancelled."""
        _, version = await client.list_all(PODS_PATH, labelSelector=JOB_LABEL)
        while True:
            async for event in client.watch(
                PODS_PATH, labelSelector=JOB_LABEL, resourceVersion=version
            ):
                metadata = event["object"]["metadata"]
                version = metadata["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self._note(event["type"], event["object"])

    def _note(self, kind: str, pod: dict[str, Any]) -> None:
        name, job = pod["metadata"]["name"], pod["metadata"]["labels"][JOB_LABEL]
        if kind == "DELETED":
            self.alive.discard(name)
            return
        now = time.monotonic()
        self.alive.add(name)
        self.existing.setdefault(job, {}).setdefault(name, now)
        if pod["status"]["phase"] == "Running":
            self.running.setdefault(job, {}).setdefault(name, now)

    def list_complete(
        self, seen: dict[str, dict[str, float]], jobs: Iterable[str], num_pods: int
    ) -> list[float]:
        """Return, for each job that has so many pods, when it had the last of them."""
        return [
            sorted(seen[job].values())[num_pods - 1]
            for job in jobs
            if len(seen.get(job, ())) >= num_pods
        ]


class Bench:
    """The servers of a run, and what is measured of them."""

    def __init__(self, plane: ControlPlane, directory: Path, client: KubeClient) -> None:
        self.plane = plane
        self.client = client
        self.watch = PodWatch()
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
        self.probe = ServerProcess(
            "probe",
            [sys.executable, str(PROBE)],
            log=directory / "probe.log",
            environment={"KUBECONFIG": str(plane.kubeconfig)},
        )
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

    async def measure_probe(self, turn: int, num_jobs: int, num_workers: int) -> dict[str, Any]:
        """Let many jobs go at once, before an operator that does nothing else."""
        names = [f"probe-{turn}-{index:04d}" for index in range(num_jobs)]
        with self.operating(self.probe):
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
        writes, processor = self._count_writes(), self._read_processor()
        requests = self._count_requests()
        began = time.monotonic()
        await self._each(names, self._let_go)
        accepted = time.monotonic() - began
        existing = await self._await_pods(self.watch.existing, names, num_workers)
        running = await self._await_pods(self.watch.running, names, num_workers)
        await self._await_status(names, f"{num_workers}/{num_workers}")
        reported = time.monotonic() - began
        await asyncio.sleep(SETTLE_SECONDS)
        added = subtract(self._count_writes(), writes)
        results: dict[str, Any] = {
            "jobs": num_jobs,
            "workers_per_job": num_workers,
            "accepted_seconds": accepted,
            "pods_exist_seconds": summarise([moment - began for moment in existing]),
            "pods_run_seconds": summarise([moment - began for moment in running]),
            "all_statuses_say_so_seconds": reported,
            "processor_seconds": subtract(self._read_processor(), processor),
            "api_writes_per_job": {
                resource: round(count / num_jobs, 2) for resource, count in added.items()
            },
            "api_writes_per_job_total": round(added.total() / num_jobs, 2),
            "api_requests_per_job": {
                name: round(count / num_jobs, 2)
                for name, count in subtract(self._count_requests(), requests).most_common(24)
            },
            "operator_peak_mib": self._read_memory("VmHWM"),
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
        writes = self._count_writes()
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
            "api_writes": subtract(self._count_writes(), writes),
            "operator_peak_mib": self._read_memory("VmHWM"),
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
        before = self._read_processor()
        await asyncio.sleep(seconds)
        used = subtract(self._read_processor(), before)
        return {
            "measured_seconds": seconds,
            "operator_processor_share": used["operator"] / seconds,
            "operator_mib": self._read_memory("VmRSS"),
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

    def _count_writes(self) -> Counter[str]:
        """Return the writes to each resource, refused ones too."""
        counted: Counter[str] = Counter()
        for name, count in self._count_requests().items():
            verb, resource, _ = name.split()
            if verb in WRITES:
                counted[resource] += count
        return counted

    def _count_requests(self) -> Counter[str]:
        """Return the requests that were answered, by verb, resource and HTTP status."""
        counted: Counter[str] = Counter()
        told = self.plane.kubectl("get", "--raw", "/metrics")
        for code, resource, verb, value in REQUESTS.findall(told):
            if resource not in UPKEEP and verb in WRITES | READS:
                counted[f"{verb} {resource} {code}"] += round(float(value))
        return counted

    def _read_processor(self) -> Counter[str]:
        """Return the processor seconds that each server has used."""
        return Counter(dict(list_children(os.getpid())))

    def _read_memory(self, field: str) -> float:
        status = Path(f"/proc/{self.operator.pid}/status").read_text(encoding="ascii")
        kibibytes = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
        assert kibibytes is not None
        return int(kibibytes[1]) / 1024


def list_children(parent: int) -> list[tuple[str, float]]:
    """Return (name, processor seconds) of the processes that `parent` started."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended meanwhile
            continue
        name, fields = (
            text[text.index("(") + 1 : text.rindex(")")],
            text[text.rindex(")") :].split(),
        )
        if int(fields[2]) == parent:
            label = "operator" if name.startswith("python") else name
            found.append((label, (int(fields[12]) + int(fields[13])) / ticks))
    return found


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


def summarise(seconds: Sequence[float]) -> dict[str, float]:
    """Return the quantiles of a number of durations."""
    if len(seconds) < 2:
        return {"p50": seconds[0], "p99": seconds[0], "max": seconds[0]}
    percentiles = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": percentiles[49], "p99": percentiles[98], "max": max(seconds)}


def subtract(after: Counter[str], before: Counter[str]) -> Counter[str]:
    """Return what was added to each count, where anything was."""
    return Counter({key: after[key] - before[key] for key in after if after[key] > before[key]})


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
                for name, run in (
                    ("probe_many_jobs", bench.measure_probe),
                    ("many_jobs", bench.measure_many),
                ):
                    measured = await record(run(turn, num_jobs, workers))
                    results.setdefault(name, []).append(measured)
                    write()
                results["ratios"] = compare(results["many_jobs"], results["probe_many_jobs"])
            if large:
                results["large_job"] = await record(bench.measure_large(large))
                write()
            if finished:
                results["finished_jobs"] = await record(bench.measure_finished(finished))
                write()


def compare(ours: Sequence[Any], probe: Sequence[Any]) -> dict[str, list[float]]:
    """Return our figures as multiples of the probe's, round by round."""
    figures: dict[str, Callable[[Any], float]] = {
        "pods_exist_p50": lambda result: result["pods_exist_seconds"]["p50"],
        "pods_exist_p99": lambda result: result["pods_exist_seconds"]["p99"],
        "pods_run_p50": lambda result: result["pods_run_seconds"]["p50"],
        "pods_run_p99": lambda result: result["pods_run_seconds"]["p99"],
        "processor_seconds": lambda result: sum(result["processor_seconds"].values()),
        "api_writes": lambda result: result["api_writes_per_job_total"],
    }
    return {
        name: [round(read(a) / read(b), 2) for a, b in zip(ours, probe, strict=True)]
        for name, read in figures.items()
    }


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
