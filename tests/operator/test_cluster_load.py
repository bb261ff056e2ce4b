"""What the benchmark rests on: imitated workers run, and nobody is led to ask at their address."""

from __future__ import annotations

from pathlib import Path

from testbed.kwok import KwokNodes
from testbed.operators import Jobs, Operator


def test_imitated_workers_run_and_are_never_ready(
    jobs: Jobs, operator: Operator, tmp_path: Path
) -> None:
    nodes = KwokNodes(tmp_path, jobs.server, count=1)
    nodes.start()
    try:
        jobs.apply()
        jobs.await_job(
            lambda j: j.status.workers is not None and j.status.workers.summary == "1/1",
            "the imitated pod to run",
        )
        (pod,) = jobs.list_pods().values()
        conditions = {c["type"]: c["status"] for c in pod["status"]["conditions"]}
        # The operator asks only those that are Ready, and this address is nobody's.
        assert conditions["Ready"] == "False"
    finally:
        nodes.stop()
