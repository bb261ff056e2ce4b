"""A kubelet without containers: each pod of a namespace is a real agent on this machine.

    python -m testbed.agent_kubelet --namespace NS --network 127.1.2 --directory DIR NODE…

Below: the operator's client of the apiserver, `python -m llmtrain_trainer agent`. Above:
`agent_node`. It is a process of its own, because agents die with whoever started them: to kill it
is to lose the node. It heeds what our pods need of a kubelet: ConfigMap and Secret as files that
follow their objects, an address for each worker, SIGTERM before SIGKILL, the exit record in the
status, a Lease that says that the node lives.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from llmtrain_api.run import AGENT_PORT
from llmtrain_operator.render.labels import INDEX_LABEL, JOB_LABEL, STAGE_LABEL
from llmtrain_operator.world.kube import ApiError, KubeClient, open_client
from testbed.processes import ServerProcess, accepts_connections

LOOK_SECONDS = 0.05
RENEW_SECONDS = 3.0
LEASE_SECONDS = 40
SIGNAL_BASE = 128
MAX_WORKERS = 16
"""Addresses that a job gets."""
CAPACITY = {"cpu": "64", "memory": "64Gi", "pods": "110"}
NODE_LABEL = "testbed/agents-of"
PODS = "/api/v1/namespaces/{namespace}/pods"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@dataclass(slots=True, kw_only=True)
class Run:
    """The process of one pod."""

    process: ServerProcess
    folder: Path
    address: str
    secret: str | None
    kill_at: float | None = None
    is_ready: bool = False
    is_reported: bool = False


class AgentKubelet:
    """What is on the nodes, and what the API is told of it."""

    def __init__(
        self, client: KubeClient, namespace: str, network: str, directory: Path, nodes: list[str]
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._network = network
        self._directory = directory
        self._nodes = nodes
        self._pods: dict[str, dict[str, Any]] = {}
        self._runs: dict[str, Run] = {}
        self._blocks: dict[str, int] = {}
        self._path = PODS.format(namespace=namespace)

    async def work(self) -> None:
        """Register the nodes and tend pods until cancelled."""
        for node in self._nodes:
            await self._register(node)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            group.create_task(self._follow())
            group.create_task(self._tend_all())

    async def _register(self, name: str) -> None:
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {NODE_LABEL: self._namespace}},
            "spec": {
                "taints": [{"key": NODE_LABEL, "value": self._namespace, "effect": "NoSchedule"}]
            },
        }
        status = {
            "capacity": CAPACITY,
            "allocatable": CAPACITY,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "AgentKubelet",
                    "lastHeartbeatTime": _format_now(),
                    "lastTransitionTime": _format_now(),
                }
            ],
        }
        await self._client.apply(f"/api/v1/nodes/{name}", node)
        body = {"apiVersion": "v1", "kind": "Node", "status": status}
        await self._client.apply(f"/api/v1/nodes/{name}/status", body)

    async def _renew(self) -> None:
        while True:
            for name in self._nodes:
                lease = {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": name, "namespace": "kube-node-lease"},
                    "spec": {
                        "holderIdentity": name,
                        "leaseDurationSeconds": LEASE_SECONDS,
                        "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                    },
                }
                try:
                    await self._client.apply(f"{LEASES}/{name}", lease)
                except (ApiError, OSError) as error:
                    _say(f"lease of {name}: {error}")
            await asyncio.sleep(RENEW_SECONDS)

    async def _follow(self) -> None:
        while True:
            try:
                pods, version = await self._client.list_all(self._path)
                self._pods = {pod["metadata"]["uid"]: pod for pod in pods}
                async for event in self._client.watch(self._path, resourceVersion=version):
                    pod = event["object"]
                    if event["type"] == "DELETED":
                        self._pods.pop(pod["metadata"]["uid"], None)
                    elif event["type"] != "BOOKMARK":
                        self._pods[pod["metadata"]["uid"]] = pod
            except (ApiError, OSError) as error:
                _say(f"watch: {error}")
                await asyncio.sleep(RENEW_SECONDS / 10)

    async def _tend_all(self) -> None:
        synced_at = 0.0
        while True:
            for pod in list(self._pods.values()):
                try:
                    await self._tend(pod)
                except (ApiError, OSError) as error:
                    _say(f"{pod['metadata']['name']}: {error}")
            if time.monotonic() - synced_at > RENEW_SECONDS / 3:
                synced_at = time.monotonic()
                await self._sync_secrets()
            await asyncio.sleep(LOOK_SECONDS)

    async def _tend(self, pod: dict[str, Any]) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        is_leaving = "deletionTimestamp" in pod["metadata"]
        run = self._runs.get(uid)
        if run is None:
            is_ours = pod["spec"].get("nodeName") in self._nodes
            if is_ours and is_leaving:
                await self._forget(uid, name)
            elif is_ours and pod["status"]["phase"] == "Pending":
                await self._start(pod)
            return
        if not run.process.running:
            if not run.is_reported:
                await self._report_end(name, run)
                run.is_reported = True
            if is_leaving:
                await self._forget(uid, name)
            return
        if is_leaving:
            self._end(pod, run)
        if not run.is_ready and accepts_connections(run.address, AGENT_PORT):
            await self._set_status(name, _describe_running(run.address, is_ready=True))
            run.is_ready = True

    async def _start(self, pod: dict[str, Any]) -> None:
        name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        config_map = volumes["config"]["configMap"]["name"]
        found = await self._client.get(
            f"/api/v1/namespaces/{self._namespace}/configmaps/{config_map}"
        )
        config = json.loads(found["data"]["run.json"])
        folder = self._directory / name
        folder.mkdir(parents=True, exist_ok=True)
        # Every worker of a job has an address of its own, as a Service would give it a name.
        block = self._blocks.setdefault(labels[JOB_LABEL], len(self._blocks))
        first = block * MAX_WORKERS + 1
        # Tasks of preparation may still end where workers of training begin.
        is_task = labels[STAGE_LABEL] == "prepare" and labels[INDEX_LABEL] != "0"
        number = int(labels[INDEX_LABEL]) + (MAX_WORKERS // 2 if is_task else 0)
        address = f"{self._network}.{first + number}"
        config["rendezvous"]["leaderHost"] = f"{self._network}.{first}"
        secret = volumes.get("credentials", {}).get("secret", {}).get("secretName")
        run = Run(
            process=_build_process(pod, folder, address),
            folder=folder,
            address=address,
            secret=secret,
        )
        if secret is not None:
            config["storage"]["credentialsDirectory"] = str(folder / "credentials")
            await self._write_secret(run)
        (folder / "run.json").write_text(json.dumps(config))
        run.process.start()
        (folder / "pid").write_text(str(run.process.pid))
        self._runs[pod["metadata"]["uid"]] = run
        await self._set_status(name, _describe_running(address, is_ready=False))

    def _end(self, pod: dict[str, Any], run: Run) -> None:
        """SIGTERM at first, SIGKILL when the grace is over."""
        if run.kill_at is None:
            grace = pod["metadata"].get("deletionGracePeriodSeconds", 0)
            run.kill_at = time.monotonic() + grace
            # The first process of a container alone: what it started is for it to end.
            os.kill(run.process.pid, signal.SIGTERM)
        elif time.monotonic() > run.kill_at:
            run.process.kill()

    async def _report_end(self, name: str, run: Run) -> None:
        code = run.process.wait(seconds=0)
        exit_code = code if code >= 0 else SIGNAL_BASE - code
        record = run.folder / "exit.json"
        terminated = {
            "exitCode": exit_code,
            "reason": "Error" if exit_code else "Completed",
            "message": record.read_text() if record.exists() else "",
            "finishedAt": _format_now(),
        }
        await self._set_status(
            name,
            {
                "phase": "Failed" if exit_code else "Succeeded",
                "containerStatuses": [_describe_container({"terminated": terminated})],
            },
        )

    async def _forget(self, uid: str, name: str) -> None:
        """Let the API forget a pod of which nothing runs any more."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        try:
            await self._client.delete(f"{self._path}/{name}", options)
        except ApiError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise
        self._pods.pop(uid, None)

    async def _set_status(self, name: str, status: dict[str, Any]) -> None:
        operations = [
            {"op": "add", "path": f"/status/{key}", "value": value} for key, value in status.items()
        ]
        try:
            await self._client.patch(f"{self._path}/{name}/status", operations)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def _sync_secrets(self) -> None:
        for run in self._runs.values():
            if run.secret is not None and run.process.running:
                try:
                    await self._write_secret(run)
                except (ApiError, OSError) as error:
                    _say(f"secret {run.secret}: {error}")

    async def _write_secret(self, run: Run) -> None:
        found = await self._client.get(f"/api/v1/namespaces/{self._namespace}/secrets/{run.secret}")
        folder = run.folder / "credentials"
        folder.mkdir(exist_ok=True)
        for key, value in found["data"].items():
            fresh = folder / f".{key}"
            fresh.write_bytes(base64.b64decode(value))
            fresh.replace(folder / key)


def _build_process(pod: dict[str, Any], folder: Path, address: str) -> ServerProcess:
    changed = {
        "--config": str(folder / "run.json"),
        "--termination-log": str(folder / "exit.json"),
    }
    arguments = []
    for argument in pod["spec"]["containers"][0]["args"]:
        option, _, value = argument.partition("=")
        value = changed.get(option, value)
        arguments.append(f"{option}={value}" if value else option)
    return ServerProcess(
        pod["metadata"]["name"],
        [sys.executable, "-m", "llmtrain_trainer", *arguments, f"--host={address}"],
        log=folder / "log",
    )


def _describe_running(address: str, *, is_ready: bool) -> dict[str, Any]:
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True" if is_ready else "False"},
        ],
        "containerStatuses": [_describe_container({"running": {"startedAt": _format_now()}})],
    }


def _describe_container(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "trainer",
        "image": "trainer:test",
        "imageID": "",
        "ready": "running" in state,
        "restartCount": 0,
        "state": state,
    }


def _format_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--network", required=True, help="first three parts of addresses")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("nodes", nargs="+")
    options = parser.parse_args()
    async with open_client(requests=4) as client:
        kubelet = AgentKubelet(
            client, options.namespace, options.network, options.directory, options.nodes
        )
        await kubelet.work()


if __name__ == "__main__":
    asyncio.run(_main())
