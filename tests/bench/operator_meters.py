"""What is measured of an operator: its pods' times, requests, processor seconds and memory.

Below: the apiserver's metrics, /proc, and a watch of pods. Above: `bench_operator`.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmtrain_operator.render.labels import JOB_LABEL
from llmtrain_operator.world.kube import KubeClient
from testbed.control_plane import ControlPlane

KIBIBYTES_IN_MEBIBYTE = 1024
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

    def __init__(self, path: str) -> None:
        """Watch the pods of jobs at the API's `path`."""
        self._path = path
        self.existing: dict[str, dict[str, float]] = {}
        self.running: dict[str, dict[str, float]] = {}
        self.alive: set[str] = set()

    async def follow(self, client: KubeClient) -> None:
        """Watch until cancelled."""
        _, version = await client.list_all(self._path, labelSelector=JOB_LABEL)
        while True:
            async for event in client.watch(
                self._path, labelSelector=JOB_LABEL, resourceVersion=version
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


def count_writes(plane: ControlPlane) -> Counter[str]:
    """Return the writes to each resource, refused ones too."""
    counted: Counter[str] = Counter()
    for name, count in count_requests(plane).items():
        verb, resource, _ = name.split()
        if verb in WRITES:
            counted[resource] += count
    return counted


def count_requests(plane: ControlPlane) -> Counter[str]:
    """Return the requests that were answered, by verb, resource and HTTP status."""
    counted: Counter[str] = Counter()
    told = plane.kubectl("get", "--raw", "/metrics")
    for code, resource, verb, value in REQUESTS.findall(told):
        if resource not in UPKEEP and verb in WRITES | READS:
            counted[f"{verb} {resource} {code}"] += round(float(value))
    return counted


def read_processor() -> dict[str, float]:
    """Return the processor seconds that each server that this process started has used."""
    ticks = os.sysconf("SC_CLK_TCK")
    used: dict[str, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended meanwhile
            continue
        before, _, after = text.rpartition(")")
        name, fields = before.partition("(")[2], after.split()
        if int(fields[1]) == os.getpid():
            label = "operator" if name.startswith("python") else name
            used[label] = used.get(label, 0.0) + (int(fields[11]) + int(fields[12])) / ticks
    return used


def read_memory(process_id: int, field: str) -> float:
    """Return a field of a process's status in /proc, as VmRSS or VmHWM, in MiB."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    kibibytes = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    assert kibibytes is not None
    return int(kibibytes[1]) / KIBIBYTES_IN_MEBIBYTE


def summarise(seconds: Sequence[float]) -> dict[str, float]:
    """Return the quantiles of a number of durations."""
    if len(seconds) < 2:
        return {"p50": seconds[0], "p99": seconds[0], "max": seconds[0]}
    percentiles = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": percentiles[49], "p99": percentiles[98], "max": max(seconds)}


def subtract_seconds(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Return what each server used in between, where it is anything."""
    return {k: v - before.get(k, 0.0) for k, v in after.items() if v > before.get(k, 0.0)}


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
