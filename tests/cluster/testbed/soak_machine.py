"""The soak's machine: `llmtrain run`, its agents and their ranks, killed at random.

Below: the command, `small_job`. Above: `soak`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from llmtrain_api import JobStatus, LLMTrainingJob, ProgressRecord
from llmtrain_api.records import Stage
from llmtrain_api.status import Phase
from llmtrain_operator.world.job_folder import JobFolder
from llmtrain_operator.world.local import fetch_progress
from testbed.agents import list_rank_processes
from testbed.command_line import CommandLine
from testbed.processes import ServerProcess, wait_until
from testbed.small_job import BUCKET, CORPUS_KEY, describe_small_job, write_corpus
from testbed.soak import DEADLINE_SECONDS, END_SECONDS, JOB, Kind

RESTART_LIMIT = 1000


class SoakMachine:
    """One job in a store of its own, under `directory`."""

    name = "machine"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._store = directory / "store"
        self._manifest = directory / "job.yaml"
        self._folder = JobFolder(self._store, "default", JOB)
        self._llmtrain = CommandLine(directory, {"KUBECONFIG": str(directory / "absent")})
        self._run: ServerProcess | None = None

    def list_kinds(self) -> Mapping[str, Kind]:
        """Return what can be killed: a rank, an agent, and the run with all that it has started."""
        kinds = (
            Kind(name="rank", weight=84, kill=self._kill_rank),
            Kind(name="agent", weight=8, kill=self._kill_agent),
            Kind(name="operator", weight=8, kill=self._kill_run),
        )
        return {kind.name: kind for kind in kinds}

    def begin(self, steps: int) -> None:
        """Start the job."""
        corpus = self._store / BUCKET / CORPUS_KEY
        corpus.parent.mkdir(parents=True)
        corpus.write_bytes(write_corpus())
        spec = describe_small_job(steps=steps, runPolicy={"restartLimit": RESTART_LIMIT})
        manifest = {
            "apiVersion": "llmtrain.dev/v1alpha1",
            "kind": "LLMTrainingJob",
            "metadata": {"name": JOB},
            "spec": spec,
        }
        self._manifest.write_text(yaml.safe_dump(manifest))
        self._start()

    def ask(self) -> ProgressRecord | None:
        """Return what worker 0 of the training stage says; None where it does not answer."""
        record = self._find_newest(0)
        if record is None:
            return None
        address = json.loads(record.read_text())["address"]
        progress = fetch_progress(address)
        return progress if progress is not None and progress.stage is Stage.TRAIN else None

    def read_status(self) -> JobStatus:
        """Return the job's status."""
        return self._read_job().status

    def await_end(self) -> JobStatus:
        """Wait until the job has succeeded; return its status."""
        assert self._run is not None
        code = self._run.wait(seconds=END_SECONDS)
        assert code == 0, self._run.tail_log()
        assert self.read_status().phase is Phase.SUCCEEDED
        return self.read_status()

    def digest(self) -> str:
        """Return a digest of the run's losses and weights."""
        status = self.read_status()
        assert status.results is not None
        assert status.results.export_uri is not None
        export = self._folder.locate(status.results.export_uri)
        digest = hashlib.sha256((export.parent / "curves.json").read_bytes())
        for path in sorted(export.glob("*.safetensors")):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def close(self) -> None:
        """Leave nothing running."""
        if self._run is not None:
            self._run.kill()

    def _start(self) -> None:
        self._run = self._llmtrain.start("run", self._manifest, "--store", self._store)

    def _kill_rank(self, rng: random.Random) -> Sequence[str]:
        _, agent = self._find_agent(rng.randrange(2))
        os.kill(rng.choice(list_rank_processes(agent)), signal.SIGKILL)
        return ()

    def _kill_agent(self, rng: random.Random) -> Sequence[str]:
        name, agent = self._find_agent(rng.randrange(2))
        os.kill(agent, signal.SIGKILL)
        return (name,)

    def _kill_run(self, rng: random.Random) -> Sequence[str]:
        assert self._run is not None
        names = [self._find_agent(index)[0] for index in (0, 1)]
        self._run.kill()
        wait_until(
            lambda: not self._folder.is_held(), seconds=DEADLINE_SECONDS, what="the lock to fall"
        )
        self._start()
        return names

    def _find_agent(self, index: int) -> tuple[str, int]:
        """Return name and process id of a worker's newest agent."""
        record = self._find_newest(index)
        assert record is not None
        return record.stem, int(record.with_suffix(".lock").read_text())

    def _find_newest(self, index: int) -> Path | None:
        start = f"{JOB}-{Stage.TRAIN}-{index}-"
        records = [path for path in self._folder.list_records() if path.name.startswith(start)]
        return max(records, key=lambda path: int(path.stem.rpartition("-")[2]), default=None)

    def _read_job(self) -> LLMTrainingJob:
        job = self._folder.read_job()
        assert job is not None
        return job
