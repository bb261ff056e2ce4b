"""One job in a cluster whose pods are agents of this machine: operator, store and job together.

Below: `agent_node`, `operators`, `minio`. Above: the tests of faults and the soak, which kill any
part of it.
"""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmtrain_api import LLMTrainingJob, ProgressRecord
from llmtrain_api.status import ConditionType, Phase
from testbed.agent_node import AgentNodes
from testbed.control_plane import ControlPlane
from testbed.minio import MinioServer
from testbed.operators import Jobs, Operator
from testbed.processes import wait_until
from testbed.small_job import BUCKET, CORPUS_KEY, describe_small_job, write_corpus
from testbed.workers import ask_agent

SECRET = "store"
DEADLINE_SECONDS = 240
"""For what takes half a minute on a quiet machine."""
ENDED = frozenset({Phase.SUCCEEDED, Phase.FAILED})


class AgentWorld:
    """The job `tiny` of one namespace and all that it needs; nothing of it is started yet."""

    def __init__(self, server: ControlPlane, namespace: str, directory: Path) -> None:
        self.jobs = Jobs(server, namespace)
        self.nodes = AgentNodes(
            server, namespace, directory / "pods", [f"{namespace}-a", f"{namespace}-b"]
        )
        self.operator = Operator(server, directory, namespace, "operator-0")
        self.minio = MinioServer(directory / "minio")

    def start(self) -> None:
        """Start everything, with the corpus and the credentials in place."""
        self.minio.start()
        self.minio.create_bucket(BUCKET)
        text = write_corpus()
        self.minio.connect().put_object(BUCKET, CORPUS_KEY, io.BytesIO(text), len(text))
        self.write_credentials(self.minio.access_key, self.minio.secret_key)
        self.nodes.start()
        self.operator.start()

    def stop(self) -> None:
        """Leave nothing running."""
        self.operator.process.stop()
        self.nodes.stop()
        self.minio.kill()

    def write_credentials(self, access_key: str, secret_key: str) -> None:
        """Make the Secret that the job names, or replace what it holds."""
        self.jobs.server.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": SECRET, "namespace": self.jobs.namespace},
                "stringData": {"accessKey": access_key, "secretKey": secret_key},
            }
        )

    def apply(self, *, steps: int, **spec: Any) -> None:
        """Apply a small job of two workers, with parts of its spec added or replaced."""
        storage = {"endpoint": self.minio.endpoint, "credentialsSecret": SECRET}
        sections = {
            **spec,
            "storage": {**storage, **spec.get("storage", {})},
            "workers": {**self.nodes.ask_for(), **spec.get("workers", {})},
        }
        self.jobs.apply(**describe_small_job(steps=steps, **sections))

    @property
    def job(self) -> LLMTrainingJob:
        """The job as it is stored."""
        return self.jobs.read()

    def name_pod(self, index: int) -> str:
        """Return the name of a training worker's present pod."""
        incarnation = self.job.status.incarnations.get(f"train-{index}", 0)
        return f"tiny-train-{index}-{incarnation}"

    def kill_rank(self, index: int) -> None:
        """SIGKILL the newest rank of a worker."""
        os.kill(self.nodes.list_ranks(self.name_pod(index))[-1], signal.SIGKILL)

    def await_progress(self, holds: Callable[[ProgressRecord], bool]) -> ProgressRecord:
        """Wait until something holds for what worker 0's agent says; returns that."""
        answers: list[ProgressRecord] = []

        def ask() -> bool:
            pod = self.jobs.list_pods().get(self.name_pod(0))
            progress = None if pod is None else ask_agent(pod)
            if progress is not None:
                answers.append(progress)
            return progress is not None and holds(progress)

        self.await_condition(ask, "progress of worker 0")
        return answers[-1]

    def await_checkpoint(self, after: int = -1) -> ProgressRecord:
        """Wait until training is past a checkpoint that is newer than step `after`."""
        return self.await_progress(
            lambda p: (p.checkpoint_step or 0) > max(after, p.resumed_step or 0)
        )

    def await_job(self, holds: Callable[[LLMTrainingJob], bool], what: str) -> LLMTrainingJob:
        """Wait until something holds for the job; returns it."""
        self.await_condition(lambda: holds(self.job), what)
        return self.job

    def await_unhealthy(self) -> str:
        """Wait until saves are said to fail; returns the words."""
        job = self.await_job(
            lambda j: self.read_condition(j, ConditionType.CHECKPOINT_HEALTHY)[0] == "False",
            "CheckpointHealthy=False",
        )
        return self.read_condition(job, ConditionType.CHECKPOINT_HEALTHY)[1]

    def read_condition(self, job: LLMTrainingJob, kind: ConditionType) -> tuple[str, str]:
        """Return status and `reason: message` of a condition."""
        found = job.status.find_condition(kind)
        return ("", "") if found is None else (found.status, f"{found.reason}: {found.message}")

    def await_end(
        self, phase: Phase = Phase.SUCCEEDED, *, seconds: float = DEADLINE_SECONDS
    ) -> LLMTrainingJob:
        """Wait until the job ends, which must be in `phase`; returns it."""
        self.await_condition(
            lambda: self.job.status.phase in ENDED, "the job to end", seconds=seconds
        )
        job = self.job
        assert job.status.phase is phase, self.explain()
        return job

    def await_condition(
        self, condition: Callable[[], bool], what: str, *, seconds: float = DEADLINE_SECONDS
    ) -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: it took too long; the message says how the job and its pods are.
        """
        try:
            wait_until(condition, seconds=seconds, what=what, poll_seconds=0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.explain()}") from error

    def explain(self) -> str:
        """The job's status, and the end of what its pods and its operator wrote."""
        logs = [
            f"{name} {pod['status']['phase']}\n{self.nodes.read_log(name)[-2000:]}"
            for name, pod in self.jobs.list_pods().items()
            if pod["status"]["phase"] != "Pending"
        ]
        kubelet, operator = self.nodes.process.tail_log(), self.operator.process.tail_log()
        return "\n".join([str(self.job.status.dump()), *logs, kubelet, operator])
