"""How long a loss stops training: ranks and pods are killed, and the way back is split.

    python tests/bench/bench_recovery.py --output recovery.json

In each round two workers train on this machine as real agents. One rank of worker 1 is killed,
then one is stopped as if it hung, then all of worker 1 is killed, as the end of its pod would, and
its next incarnation started at once, as the operator does. Then `torchrun --max-restarts` trains
the same model in a plain loop, and one of its ranks is killed. Each time the clock runs from the
signal to the first step that goes beyond the checkpoint. The parts are what worker 0 exports as
`llmtrain_recovery_seconds`; a pod's includes the new agent's import of torch.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import click
from prometheus_client.parser import text_string_to_metric_families

from llmtrain_api.records import ProgressRecord
from llmtrain_api.run import RunConfig
from llmtrain_trainer.agent.watchdog import USUAL_FACTOR
from testbed.agents import AgentProcess, give_ports, run_agents
from testbed.processes import ServerProcess, wait_until
from testbed.tiny_run import configure_tiny_run, prepare_tiny_run

STEPS = 1_000_000
CHECKPOINT_STEPS = 20
PARTS = "llmtrain_recovery_seconds"
CONTESTANT = Path(__file__).with_name("torchrun_contestant.py")
MAX_RESTARTS = 100
DEADLINE_SECONDS = 300.0
POLL_SECONDS = 0.01
STOOD_STILL = "stood still"
PROMISED_SLACK_SECONDS = 5.0
"""The verdict on a rank that hangs may come this long after twice its usual step."""


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--rounds", default=5, show_default=True)
def main(output: Path, rounds: int) -> None:
    """Measure recoveries and write raw figures and medians to OUTPUT as JSON."""
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(1, rounds + 1):
            root = Path(name, str(number))
            found = measure_agents(root) | {"torchrun": measure_torchrun(root)}
            for kind, parts in found.items():
                results.setdefault(kind, []).append(parts)
                click.echo(f"round {number} {kind}: {parts}")
    summary = {
        kind: {part: statistics.median(one[part] for one in found) for part in found[0]}
        for kind, found in results.items()
    }
    ratio = summary["rank"]["total"] / summary["torchrun"]["total"]
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    document = {
        "machine": machine,
        "rankToTorchrun": round(ratio, 3),
        "medianSeconds": summary,
        "raw": results,
    }
    output.write_text(json.dumps(document, indent=1) + "\n")
    click.echo(json.dumps(summary, indent=1))
    click.echo(f"a killed rank stops training for {ratio:.3f} of what torchrun takes")


def measure_agents(root: Path) -> dict[str, dict[str, float]]:
    """Kill and stop what our agents have, once each; seconds by kind and part."""
    config = configure(root)
    with run_agents(config, root / "agents") as agents:
        rank = measure(agents, lambda: os.kill(agents[1].list_ranks()[-1], signal.SIGKILL))
        hang = measure_hang(agents)
        pod = measure(agents, lambda: replace(agents, config, root))
    return {"rank": rank, "hang": hang, "pod": pod}


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


def measure(agents: list[AgentProcess], strike: Callable[[], None]) -> dict[str, float]:
    """Strike in full training; return the seconds until the next step, and their parts."""
    before = agents[0].await_progress(is_past_a_checkpoint)
    started = time.monotonic()
    strike()
    agents[0].await_progress(
        lambda p: p.round > before.round and p.resumed_step is not None and p.step > p.resumed_step
    )
    total = time.monotonic() - started
    return {"total": total, **read_parts(agents[0])}


def measure_hang(agents: list[AgentProcess]) -> dict[str, float]:
    """Stop a rank in full training; return also when that was noticed, and when it had to be.

    What was usual is the longest of the steps that were seen here, which are a few of all.
    """
    before = agents[0].await_progress(is_past_a_checkpoint)
    step_seconds = measure_step(agents[0])
    started = time.monotonic()
    os.kill(agents[1].list_ranks()[-1], signal.SIGSTOP)
    # Whichever worker notices first says so; the other one says that the round ended elsewhere.
    wait_until(
        lambda: any(STOOD_STILL in _tell_loss(agent) for agent in agents),
        seconds=DEADLINE_SECONDS,
        what="the verdict",
        poll_seconds=POLL_SECONDS,
    )
    verdict = time.monotonic() - started
    agents[0].await_progress(
        lambda p: p.round > before.round and p.resumed_step is not None and p.step > p.resumed_step
    )
    return {
        "total": time.monotonic() - started,
        "verdict": verdict,
        "promised": USUAL_FACTOR * step_seconds + PROMISED_SLACK_SECONDS,
    }


def _tell_loss(agent: AgentProcess) -> str:
    progress = agent.read_progress()
    return progress.last_loss if progress is not None else ""


def measure_step(agent: AgentProcess, *, steps: int = 40) -> float:
    """Return the longest time between two steps that were seen, in seconds."""
    seen: list[tuple[int, float]] = []

    def note(progress: ProgressRecord) -> bool:
        if not seen or progress.step != seen[-1][0]:
            seen.append((progress.step, time.monotonic()))
        return len(seen) > steps

    agent.await_progress(note)
    return max((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(seen))


def measure_torchrun(root: Path) -> dict[str, float]:
    """Kill a rank of the contestant; seconds from there to its next step."""
    folder = root / "torchrun"
    folder.mkdir()
    config = folder / "config.json"
    config.write_text(json.dumps(configure(root).dump()))
    process = ServerProcess(
        "torchrun",
        [
            sys.executable, "-m", "torch.distributed.run",
            "--standalone", "--nproc-per-node=2", f"--max-restarts={MAX_RESTARTS}",
            CONTESTANT, config, folder,
        ],
        log=folder / "log",
        # By default ranks of a new attempt may meet the addresses of the dead, and hang.
        environment={"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    process.start()
    try:
        await_step(process, folder, lambda attempt, step, resumed: step > 2 * CHECKPOINT_STEPS)
        started = time.monotonic()
        os.kill(int((folder / "rank-1").read_text()), signal.SIGKILL)
        await_step(process, folder, lambda attempt, step, resumed: attempt > 0 and step > resumed)
        return {"total": time.monotonic() - started}
    finally:
        process.kill()
        # torchrun gives each rank a session of its own, and so they outlive it.
        for path in folder.glob("rank-[0-9]"):
            with suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGKILL)


def await_step(
    process: ServerProcess, folder: Path, holds: Callable[[int, int, int], bool]
) -> None:
    """Wait until something holds for the contestant's attempt, step and resumed step."""
    path = folder / "step"

    def is_there() -> bool:
        assert process.running, process.tail_log()
        return path.exists() and holds(*map(int, path.read_text().split()))

    wait_until(is_there, seconds=DEADLINE_SECONDS, what="a step", poll_seconds=POLL_SECONDS)


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


def replace(agents: list[AgentProcess], config: RunConfig, root: Path) -> None:
    """Kill all of worker 1 and start its next incarnation."""
    agents[1].kill()
    agents[1] = AgentProcess(config, root / "agents", index=1, incarnation=1)


if __name__ == "__main__":
    main()
