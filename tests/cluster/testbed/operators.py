"""The operator as a process, and the jobs of a namespace as a user and a kubelet touch them.

Below: `control_plane`. Above: the operator's tests and its benchmark.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from llmtrain_api import LLMTrainingJob
from llmtrain_operator.plan.conditions import format_time
from testbed.control_plane import ControlPlane, KubectlError
from testbed.processes import ServerProcess, find_free_port, wait_until

START_SECONDS = 60
SECONDS = 30
"""How long a test waits for what should happen at once, on a busy machine."""

END_AGE = timedelta(minutes=30)
"""No backoff lasts as long, and the pods of a finished job stay for longer (an hour)."""

SMALLEST: dict[str, Any] = {
    "apiVersion": "llmtrain.dev/v1alpha1",
    "kind": "LLMTrainingJob",
    "metadata": {"name": "tiny"},
    "spec": {
        "data": {"sources": [{"uri": "s3://corpus/books/"}]},
        "training": {"steps": 100},
        "storage": {"uri": "s3://models/tiny", "credentialsSecret": "store"},
    },
}


class Operator:
    """`python -m llmtrain_operator` that looks after the jobs of one namespace."""

    def __init__(
        self,
        server: ControlPlane,
        directory: Path,
        namespace: str,
        name: str,
        *,
        kubeconfig: Path | None = None,
    ) -> None:
        self.name = name
        self.health_port = find_free_port()
        self.metrics_port = find_free_port()
        self.process = ServerProcess(
            name,
            [sys.executable, "-m", "llmtrain_operator"],
            log=directory / f"{name}.log",
            environment={
                "KUBECONFIG": str(kubeconfig or server.kubeconfig),
                "LLMTRAIN_NAMESPACE": namespace,
                "LLMTRAIN_POD_NAME": name,
                "LLMTRAIN_WATCH_NAMESPACES": namespace,
                "LLMTRAIN_TRAINER_IMAGE": "trainer:test",
                "LLMTRAIN_PROGRESS_SECONDS": "1",
                "LLMTRAIN_HEALTH_PORT": str(self.health_port),
                "LLMTRAIN_METRICS_PORT": str(self.metrics_port),
            },
        )

    def start(self) -> None:
        """Start it, and return when it answers its liveness probe."""
        self.process.start()
        self.process.wait_ready(self._is_healthy, seconds=START_SECONDS)

    def read_metric(self, sample: str) -> float:
        """The value of a sample of its /metrics, as `llmtrain_operator_leading`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{sample} "):
                    return float(line.split()[-1])
        raise LookupError(sample)

    def count(self, sample: str) -> float:
        """The value of a counter of its /metrics; 0 where it has counted nothing yet."""
        try:
            return self.read_metric(sample)
        except LookupError:
            return 0.0

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/healthz") as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Jobs:
    """The jobs and pods of one namespace, as a user and a kubelet touch them."""

    def __init__(self, server: ControlPlane, namespace: str) -> None:
        self.server = server
        self.namespace = namespace

    def apply(self, name: str = "tiny", **spec: Any) -> None:
        """Apply the smallest job, with parts of its spec replaced."""
        manifest = SMALLEST | {
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": SMALLEST["spec"] | spec,
        }
        self.server.apply(manifest)

    def read(self, name: str = "tiny") -> LLMTrainingJob:
        """The job as it is stored."""
        return LLMTrainingJob.read_lenient(self.get("llmjob", name))

    def get(self, *what: str) -> Any:
        """`kubectl get` in the namespace."""
        return self.server.kubectl_json("-n", self.namespace, "get", *what)

    def list_pods(self) -> dict[str, dict[str, Any]]:
        """The pods of the namespace by name."""
        return {pod["metadata"]["name"]: pod for pod in self.get("pods")["items"]}

    def await_pods(self, *names: str) -> dict[str, dict[str, Any]]:
        """Wait until exactly these pods exist; returns them."""
        try:
            wait_until(
                lambda: set(self.list_pods()) == set(names), seconds=SECONDS, what=f"pods {names}"
            )
        except TimeoutError as error:
            raise TimeoutError(f"{error}; there are {sorted(self.list_pods())}") from error
        return self.list_pods()

    def await_pod(self, name: str) -> None:
        """Wait until a pod exists, whatever others do."""
        wait_until(lambda: name in self.list_pods(), seconds=SECONDS, what=f"the pod {name}")

    def await_gone(self, *what: str) -> None:
        """Wait until an object does not exist any more."""
        wait_until(lambda: not self.exists(*what), seconds=SECONDS, what=f"{' '.join(what)} to go")

    def await_job(self, holds: Callable[[LLMTrainingJob], bool], what: str) -> LLMTrainingJob:
        """Wait until something holds for the job `tiny`; returns it."""
        try:
            wait_until(lambda: holds(self.read()), seconds=SECONDS, what=what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its status is {self.read().status.dump()}") from error
        return self.read()

    def bind(self, pod: str, *, node: str) -> None:
        """Place a pod on a node, as the scheduler does."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/binding"
        binding = {"metadata": {"name": pod}, "target": {"kind": "Node", "name": node}}
        self.server.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(binding))

    def warn_of(self, pod: str, message: str) -> None:
        """Tell a Warning about a pod, as its kubelet does."""
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "warning-", "namespace": self.namespace},
            "involvedObject": {
                "kind": "Pod",
                "namespace": self.namespace,
                "name": pod,
                "uid": self.get("pod", pod)["metadata"]["uid"],
            },
            "type": "Warning",
            "reason": "FailedMount",
            "message": message,
        }
        self.server.kubectl("create", "-f", "-", input=json.dumps(event))

    def set_pod_status(self, name: str, status: dict[str, Any]) -> None:
        """Say of a pod what its kubelet would."""
        self.server.kubectl(
            "-n", self.namespace, "patch", "pod", name, "--subresource=status",
            "--type=merge", "-p", json.dumps({"status": status}),
        )  # fmt: skip

    def end_pod(
        self, name: str, exit_code: int, *, finished_at: datetime | None = None, **record: Any
    ) -> None:
        """End a pod as its agent would, with exit code and exit record, `END_AGE` ago or then."""
        finished_at = finished_at or datetime.now(UTC) - END_AGE
        message = json.dumps({"code": exit_code, **record}) if record else ""
        self.set_pod_status(
            name,
            {
                "phase": "Failed" if exit_code else "Succeeded",
                "containerStatuses": [
                    {
                        "name": "trainer",
                        "image": "trainer:test",
                        "imageID": "",
                        "ready": False,
                        "restartCount": 0,
                        "state": {
                            "terminated": {
                                "exitCode": exit_code,
                                "reason": "Error" if exit_code else "Completed",
                                "message": message,
                                "finishedAt": format_time(finished_at),
                            }
                        },
                    }
                ],
            },
        )

    def finish_prepare(self) -> None:
        """End the prepare stage of the job `tiny` with success."""
        self.await_pods("tiny-prepare-0-0")
        self.end_pod(
            "tiny-prepare-0-0", 0, reason="Completed", message="", result={"dataset": "f1"}
        )

    def exists(self, *what: str) -> bool:
        """Whether an object exists."""
        try:
            self.get(*what)
        except KubectlError:
            return False
        return True
