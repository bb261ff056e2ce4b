"""How long a loss stops training: ranks and pods are killed, and the way back is split.

    python tests/bench/bench_recovery.py --output recovery.json

Two workers train on this machine as real agents. In each round of the benchmark one rank of
worker 1 is killed, then all of worker 1, as the end of its pod would, and its next incarnation is
started at once, as the operator does. Each time the clock runs from the kill to the first step
that goes beyond the checkpoint. The parts are what worker 0 exports as
`llmtrain_recovery_seconds`; a pod's includes the new agent's import of torch.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from prometheus_client.parser import text_string_to_metric_families

from llmtrain_api.records import ProgressRecord
from llmtrain_api.run import RunConfig
from testbed.agents import AgentProcess, give_ports, run_agents
from testbed.tiny_run import configure_tiny_run, prepare_tiny_run

STEPS = 1_000_000
CHECKPOINT_STEPS = 20
PARTS = "llmtrain_recovery_seconds"


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--rounds", default=5, show_default=True)
def main(output: Path, rounds: int) -> None:
    """Measure recoveries and write raw figures and medians to OUTPUT as JSON."""
    results: dict[str, list[dict[str, float]]] = {"rank": [], "pod": []}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = configure(root)
        with run_agents(config, root / "agents") as agents:
            for number in range(1, rounds + 1):
                results["rank"].append(measure(agents, lambda: kill_rank(agents[1])))
                results["pod"].append(
                    measure(agents, lambda n=number: replace(agents, config, root, n))
                )
                for kind, found in results.items():
                    click.echo(f"round {number} {kind}: {found[-1]}")
    summary = {
        kind: {part: statistics.median(one[part] for one in found) for part in found[0]}
        for kind, found in results.items()
    }
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    output.write_text(
        json.dumps({"machine": machine, "medianSeconds": summary, "raw": results}, indent=1) + "\n"
    )
    click.echo(json.dumps(summary, indent=1))


def configure(root: Path) -> RunConfig:
    """Describe two workers that train until they are stopped."""
    training = {
        **configure_tiny_run(root).training.dump(),
        "steps": STEPS,
        "batchSize": 16,
        "sequenceLength": 64,
    }
    config = prepare_tiny_run(
        root,
        run="recovery",
        model={"layers": 4, "heads": 4, "hiddenSize": 128},
        training=training,
        evaluation={"everySteps": STEPS},
        checkpoint={"everySteps": CHECKPOINT_STEPS},
        replicas=2,
    )
    return give_ports(config)


def measure(agents: list[AgentProcess], kill: Any) -> dict[str, float]:
    """Kill something in full training; return the seconds until the next step, and their parts."""
    before = agents[0].await_progress(is_past_a_checkpoint)
    started = time.monotonic()
    kill()
    agents[0].await_progress(
        lambda p: p.round > before.round and p.resumed_step is not None and p.step > p.resumed_step
    )
    total = time.monotonic() - started
    return {"total": total, **read_parts(agents[0])}


def is_past_a_checkpoint(progress: ProgressRecord) -> bool:
    """Whether there is a checkpoint of this round to come back to."""
    committed = progress.checkpoint_step or 0
    return committed > (progress.resumed_step or 0) and progress.step > committed


def read_parts(agent: AgentProcess) -> dict[str, float]:
    """Return the parts of the newest recovery."""
    return {
        sample.labels["part"]: sample.value
        for family in text_string_to_metric_families(agent.read_metrics())
        for sample in family.samples
        if sample.name == PARTS
    }


def kill_rank(agent: AgentProcess) -> None:
    """Kill a worker's one rank."""
    os.kill(agent.list_ranks()[-1], signal.SIGKILL)


def replace(agents: list[AgentProcess], config: RunConfig, root: Path, incarnation: int) -> None:
    """Kill all of worker 1 and start its next incarnation."""
    agents[1].kill()
    agents[1] = AgentProcess(config, root / "agents", index=1, incarnation=incarnation)


if __name__ == "__main__":
    main()
