"""Reconcile one local job with stand-in agents until it ends: a run that a test can kill."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from llmtrain_operator.reconcile import reconcile
from llmtrain_operator.world.job_folder import JobFolder
from llmtrain_operator.world.local import LocalWorld


def _now() -> datetime:
    return datetime.now(UTC)


def main(store: Path, stand_in: str) -> None:
    folder = JobFolder(store, "default", "tiny")
    with folder.hold():
        world = LocalWorld(
            folder, clock=_now, publish=lambda event: None, trainer=(sys.executable, stand_in)
        )
        job = folder.read_job()
        assert job is not None
        world.configure(job)
        while (job := folder.read_job()) and job.status.finished_at is None:
            asyncio.run(reconcile(folder.key, world, _now))
            time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
