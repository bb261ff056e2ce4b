"""The training pods of a job on real nodes, and what their agents say.

Below: `operators` (the job as a user sees it). Above: the end-to-end test and the benchmark of
starting.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

from llmtrain_api import ProgressRecord
from llmtrain_api.run import AGENT_PORT
from testbed.control_plane import KubectlError
from testbed.operators import Jobs
from testbed.processes import wait_until

DEADLINE_SECONDS = 400
"""For what takes a minute on a quiet machine."""
ANSWER_SECONDS = 5
POLL_SECONDS = 0.2
LOG_LINES = 30
TRAINERS = "llmtrain.dev/stage=train"
AGENT_COMMAND = "llmtrain_trainer"
INCARNATION_LABEL = "llmtrain.dev/incarnation"


class Workers:
    """The workers of the job `name` in the namespace of `jobs`."""

    def __init__(self, jobs: Jobs, name: str) -> None:
        self._jobs = jobs
        self._name = name

    def list_living(self) -> list[dict[str, Any]]:
        """The training pods that have not failed, worker 0 first."""
        living = self._jobs.get("pods", "-l", TRAINERS, "--field-selector=status.phase!=Failed")
        return sorted(living["items"], key=lambda pod: str(pod["metadata"]["name"]))

    def find_newest(self, index: int) -> dict[str, Any]:
        """The newest training pod of a worker."""
        return self._list_of(index)[-1]

    def ask(self, index: int) -> ProgressRecord | None:
        """What the newest pod of a worker answers; None where there is none, or no answer."""
        pods = self._list_of(index)
        return ask_agent(pods[-1]) if pods else None

    def await_progress(self, index: int, holds: Callable[[ProgressRecord], bool]) -> ProgressRecord:
        """Ask the agent of a worker until something holds for its answer; returns that."""
        answers: list[ProgressRecord] = []

        def ask() -> bool:
            progress = self.ask(index)
            if progress is not None:
                answers.append(progress)
            return progress is not None and holds(progress)

        self.await_condition(ask, f"progress of worker {index}")
        return answers[-1]

    def await_condition(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: it took too long; the message says how the job and its pods are.
        """
        try:
            wait_until(condition, seconds=DEADLINE_SECONDS, what=what, poll_seconds=POLL_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.explain()}") from error

    def _list_of(self, index: int) -> list[dict[str, Any]]:
        pods = self._jobs.get("pods", "-l", f"{TRAINERS},llmtrain.dev/index={index}")["items"]
        return sorted(pods, key=lambda pod: int(pod["metadata"]["labels"][INCARNATION_LABEL]))

    def explain(self) -> str:
        """The job's status, its pods, and the end of what they wrote."""
        server, namespace = self._jobs.server, self._jobs.namespace
        logs = [
            self._read_log(name)
            for name, pod in self._jobs.list_pods().items()
            if pod["status"]["phase"] != "Pending"
        ]
        status = json.dumps(self._jobs.read(self._name).status.dump(), indent=1)
        pods = server.kubectl("-n", namespace, "get", "pods,events", "-o", "wide")
        return "\n".join([status, pods, *logs])

    def _read_log(self, name: str) -> str:
        try:
            return self._jobs.server.kubectl(
                "-n", self._jobs.namespace, "logs", name, f"--tail={LOG_LINES}", "--prefix"
            )
        except KubectlError as error:
            return f"{name}: {error}"  # its node may be what was lost


def ask_agent(pod: dict[str, Any]) -> ProgressRecord | None:
    """What a pod's agent answers about its progress; None where it does not answer."""
    address = pod["status"].get("podIP")
    if address is None:
        return None
    try:
        with urllib.request.urlopen(
            f"http://{address}:{AGENT_PORT}/progress", timeout=ANSWER_SECONDS
        ) as answer:
            return ProgressRecord.read_lenient(json.load(answer))
    except OSError:
        return None
