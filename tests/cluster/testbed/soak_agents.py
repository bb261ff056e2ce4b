"""The soak's cluster: ranks, agents, pods, the operator and the store, killed at random.

Below: `agent_world`, `run_digest`. Above: `soak`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence

from llmtrain_api import JobStatus, ProgressRecord
from llmtrain_api.records import Stage
from testbed.agent_world import AgentWorld
from testbed.run_digest import digest_run
from testbed.small_job import BUCKET
from testbed.soak import END_SECONDS, Kind
from testbed.workers import ask_agent

RESTART_LIMIT = 1000
MAX_OUTAGE_SECONDS = 5.0


class SoakAgents:
    """One job in a namespace of its own."""

    name = "agents"

    def __init__(self, world: AgentWorld) -> None:
        self._world = world

    def list_kinds(self) -> Mapping[str, Kind]:
        """Return what can be killed."""
        kinds = (
            Kind(name="rank", weight=50, kill=self._kill_rank),
            Kind(name="agent", weight=8, kill=self._kill_agent),
            Kind(name="pod", weight=8, kill=self._delete_pod),
            Kind(name="operator", weight=17, kill=self._kill_operator),
            Kind(name="minio", weight=17, kill=self._kill_store),
        )
        return {kind.name: kind for kind in kinds}

    def begin(self, steps: int) -> None:
        """Start the world and the job."""
        self._world.start()
        self._world.apply(steps=steps, runPolicy={"restartLimit": RESTART_LIMIT})

    def ask(self) -> ProgressRecord | None:
        """Return what worker 0 of the training stage says; None where it does not answer."""
        pod = self._world.jobs.list_pods().get(self._world.name_pod(0))
        progress = None if pod is None else ask_agent(pod)
        return progress if progress is not None and progress.stage is Stage.TRAIN else None

    def read_status(self) -> JobStatus:
        """Return the job's status."""
        return self._world.job.status

    def await_end(self) -> JobStatus:
        """Wait until the job has succeeded; return its status."""
        return self._world.await_end(seconds=END_SECONDS).status

    def digest(self) -> str:
        """Return a digest of the run's losses and weights."""
        return digest_run(self._world.minio, BUCKET, self.read_status())

    def close(self) -> None:
        """Leave nothing running."""
        self._world.stop()

    def _kill_rank(self, rng: random.Random) -> Sequence[str]:
        self._world.kill_rank(rng.randrange(2))
        return ()

    def _kill_agent(self, rng: random.Random) -> Sequence[str]:
        name = self._world.name_pod(rng.randrange(2))
        self._world.nodes.kill_agent(name)
        return (name,)

    def _delete_pod(self, rng: random.Random) -> Sequence[str]:
        jobs = self._world.jobs
        name = self._world.name_pod(rng.randrange(2))
        jobs.server.kubectl("-n", jobs.namespace, "delete", "pod", name, "--wait=false")
        return (name,)

    def _kill_operator(self, rng: random.Random) -> Sequence[str]:
        self._world.operator.process.kill()
        time.sleep(rng.uniform(0, MAX_OUTAGE_SECONDS))
        self._world.operator.start()
        return ()

    def _kill_store(self, rng: random.Random) -> Sequence[str]:
        self._world.minio.kill()
        time.sleep(rng.uniform(0, MAX_OUTAGE_SECONDS))
        self._world.minio.start()
        return ()
