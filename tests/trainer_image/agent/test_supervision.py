"""Whole workers as real processes: they meet, train, are killed, and go on to the same end."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmtrain_api.records import ExitCode, ProgressRecord, RankPhase, Stage
from llmtrain_api.run import RunConfig
from llmtrain_trainer.checkpoint.manifest import CURVES
from testbed.agents import AgentProcess, give_ports, run_agents
from testbed.fault_log import FaultWatch
from testbed.processes import is_alive, wait_until
from testbed.tiny_run import configure_tiny_run, find_run_folder, prepare_tiny_run

STEPS = 400
CHECKPOINT_STEPS = 20
DEADLINE_SECONDS = 120


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agents")


def prepare_run(root: Path, name: str, *, replicas: int = 2, ranks: int = 1) -> RunConfig:
    """A run that goes on long enough to be killed in the middle."""
    training = {**configure_tiny_run(root).training.dump(), "steps": STEPS}
    config = prepare_tiny_run(
        root,
        run=name,
        training=training,
        evaluation={"everySteps": 100},
        checkpoint={"everySteps": CHECKPOINT_STEPS},
        replicas=replicas,
        processes_per_worker=ranks,
    )
    return give_ports(config)


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> bytes:
    """The loss curve of the run that nothing happens to."""
    config = prepare_run(root, "undisturbed")
    with run_agents(config, root / "undisturbed") as agents:
        for agent in agents:
            record = agent.finish()
            assert record.code is ExitCode.SUCCEEDED, agent.log
            assert record.result is not None
            assert record.result.step == STEPS
    return read_curves(config)


def read_curves(config: RunConfig) -> bytes:
    return (find_run_folder(config) / CURVES).read_bytes()


def await_checkpoint(agent: AgentProcess, *, rounds: int = 1) -> None:
    """Wait until training in a round is past a checkpoint."""
    agent.await_progress(
        lambda progress: (
            progress.round >= rounds
            and any(rank.phase is RankPhase.TRAINING for rank in progress.ranks)
            and (progress.checkpoint_step or 0) > (progress.resumed_step or 0)
            and progress.step > (progress.checkpoint_step or 0)
        )
    )


def has_ranks(number: int, progress: ProgressRecord) -> bool:
    """Whether the ranks of a round have said something."""
    return progress.round == number and bool(progress.ranks)


def test_killed_ranks_are_started_anew_within_their_pods(root: Path, undisturbed: bytes) -> None:
    config = prepare_run(root, "rank-killed")
    with run_agents(config, root / "rank-killed") as agents:
        for number, victim in enumerate(agents, start=1):
            await_checkpoint(agents[0], rounds=number)
            (rank,) = victim.list_ranks()
            os.kill(rank, signal.SIGKILL)
        progress = agents[0].await_progress(lambda p: p.round == 3 and p.step > 0)
        metrics = agents[0].read_metrics()
        for agent in agents:
            assert agent.finish().code is ExitCode.SUCCEEDED, agent.log
    assert progress.resumed_step is None or progress.resumed_step % CHECKPOINT_STEPS == 0
    samples = {
        (sample.name, sample.labels.get("cause"))
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
    }
    assert ("llmtrain_restarts_total", "lost") in samples
    assert "was killed by SIGKILL" in agents[0].log
    assert read_curves(config) == undisturbed


def test_killed_pods_are_replaced_and_the_others_wait(root: Path, undisturbed: bytes) -> None:
    config = prepare_run(root, "pod-killed")
    with run_agents(config, root / "pod-killed") as agents:
        for index in (1, 0):
            await_checkpoint(agents[0], rounds=2 - index)
            agents[index].kill()
            agents[index] = AgentProcess(config, root / "pod-killed", index=index, incarnation=1)
        resumed = agents[0].await_progress(lambda p: p.resumed_step is not None)
        for agent in agents:
            assert agent.finish().code is ExitCode.SUCCEEDED, agent.log
    assert resumed.resumed_step
    assert read_curves(config) == undisturbed


def test_a_pod_that_is_asked_to_leave_saves_first(root: Path, undisturbed: bytes) -> None:
    config = prepare_run(root, "asked")
    with run_agents(config, root / "asked") as agents:
        agents[0].await_progress(lambda p: p.step > CHECKPOINT_STEPS // 2)
        agents[1].signal(signal.SIGTERM)
        record = agents[1].finish()
        assert (record.code, record.reason) == (ExitCode.PREEMPTED, "Preempted")
        saved = agents[0].await_progress(lambda p: p.checkpoint_step is not None)
        assert agents[0].read_progress() is not None, "the other one stays"
        agents[1] = AgentProcess(config, root / "asked", index=1, incarnation=1)
        resumed = agents[0].await_progress(lambda p: p.resumed_step is not None)
        for agent in agents:
            assert agent.finish().code is ExitCode.SUCCEEDED, agent.log
    assert resumed.resumed_step == saved.checkpoint_step
    assert read_curves(config) == undisturbed


def test_all_pods_asked_to_leave_save_and_come_back(root: Path, undisturbed: bytes) -> None:
    config = prepare_run(root, "suspended")
    with run_agents(config, root / "suspended") as agents:
        agents[0].await_progress(lambda p: p.step > CHECKPOINT_STEPS // 2)
        for agent in agents:
            agent.signal(signal.SIGTERM)
        assert {agent.finish().reason for agent in agents} == {"Preempted"}
    assert len(list(find_run_folder(config).glob("checkpoints/*/manifest.json"))) > 0
    with run_agents(give_ports(config), root / "suspended", incarnation=1) as agents:
        for agent in agents:
            assert agent.finish().code is ExitCode.SUCCEEDED, agent.log
    assert read_curves(config) == undisturbed


def test_a_lone_worker_with_two_ranks_needs_nobody(root: Path, undisturbed: bytes) -> None:
    config = prepare_run(root, "alone", replicas=1, ranks=2)
    with run_agents(config, root / "alone") as (agent,):
        await_checkpoint(agent)
        os.kill(agent.list_ranks()[-1], signal.SIGKILL)
        assert agent.finish().code is ExitCode.SUCCEEDED, agent.log
    assert read_curves(config) == undisturbed


def test_a_worker_whose_ranks_keep_dying_gives_up(root: Path) -> None:
    config = prepare_run(root, "doomed", replicas=1)
    config = config.model_copy(
        update={"checkpoint": config.checkpoint.model_copy(update={"every_steps": STEPS})}
    )
    with run_agents(config, root / "doomed") as (agent,):
        for number in (1, 2, 3):
            agent.await_progress(partial(has_ranks, number))
            os.kill(agent.list_ranks()[-1], signal.SIGKILL)
        record = agent.finish()
    assert (record.code, record.reason) == (ExitCode.RANK_LOST, "RanksKeepDying")
    assert "killed by SIGKILL, the 3. such round in a row since the start" in record.message


@pytest.mark.fault(8, world="ranks")
def test_ranks_that_stand_still_are_named_and_started_anew(
    root: Path, undisturbed: bytes, fault: FaultWatch
) -> None:
    config = prepare_run(root, "hung")
    with run_agents(config, root / "hung") as agents:
        await_checkpoint(agents[0])
        (rank,) = agents[1].list_ranks()
        os.kill(rank, signal.SIGSTOP)
        fault.strikes()
        progress = agents[0].await_progress(lambda p: p.round == 2 and p.resumed_step is not None)
        fault.is_over()
        fault.said(progress.last_loss)
        for agent in agents:
            assert agent.finish().code is ExitCode.SUCCEEDED, agent.log
    assert "stood still" in progress.last_loss or "ended elsewhere" in progress.last_loss
    logs = agents[0].log + agents[1].log
    assert "stood still" in logs
    stacks = {path.name: path.read_text() for path in find_run_folder(config).glob("stacks/*")}
    assert "take_step" in stacks["round-00001-worker-0.txt"]
    assert "rank 1:\ndoes not answer any signal" in stacks["round-00001-worker-1.txt"]
    assert read_curves(config) == undisturbed


def test_a_failure_that_has_a_name_ends_the_worker_with_it(root: Path) -> None:
    config = give_ports(prepare_run(root, "uneven", replicas=1, ranks=3))
    with run_agents(config, root / "uneven") as (agent,):
        record = agent.finish()
    assert (record.code, record.reason) == (ExitCode.CONFIGURATION, "BatchNotDivisible")
    assert "training.batchSize (8)" in record.message


def test_a_missing_store_is_named_before_anything_is_loaded(root: Path) -> None:
    config = give_ports(configure_tiny_run(root, run="storeless"))
    storage = config.storage.model_copy(
        update={"local_root": None, "endpoint": "http://127.0.0.1:9", "uri": "s3://tiny-bucket"}
    )
    config = config.model_copy(update={"storage": storage})
    with run_agents(config, root / "storeless") as (agent,):
        record = agent.finish()
        assert record.code is ExitCode.STORAGE
        assert "127.0.0.1:9" in record.message


def test_a_run_configuration_of_another_version_is_named(tmp_path: Path) -> None:
    config = give_ports(configure_tiny_run(tmp_path, run="foreign"))
    agent = AgentProcess(config.model_copy(update={"processes_per_worker": 0}), tmp_path)
    record = agent.finish()
    assert (record.code, record.reason) == (ExitCode.CONFIGURATION, "RunConfigInvalid")
    assert "processesPerWorker" in record.message


def test_no_process_outlives_a_killed_agent(root: Path) -> None:
    config = prepare_run(root, "orphans", replicas=1, ranks=2)
    with run_agents(config, root / "orphans") as (agent,):
        agent.await_progress(lambda p: p.step > 0)
        ranks = agent.list_ranks()
        agent.signal(signal.SIGKILL)
        wait_until(
            lambda: not any(map(is_alive, ranks)),
            seconds=DEADLINE_SECONDS,
            what=f"the ranks {ranks} to go",
        )


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EVALUATE])
def test_other_stages_run_the_same_way(root: Path, undisturbed: bytes, stage: Stage) -> None:
    config = give_ports(configure_tiny_run(root, run="undisturbed"))
    agent = AgentProcess(config, root / "stages", stage=stage)
    record = agent.finish()
    assert record.code is ExitCode.SUCCEEDED, agent.log
    assert record.result is not None
    if stage is Stage.PREPARE:
        assert record.result.dataset_reused
    else:
        assert record.result.validation_loss is not None
        assert record.result.report_uri is not None


def test_the_loss_of_one_task_of_preparation_ends_no_other(root: Path, undisturbed: bytes) -> None:
    split = {"method": "tail", "validationFraction": 0.2}
    base = configure_tiny_run(root, run="tasks")
    data = {**base.data.dump(), "split": split, "tasks": 3}
    config = give_ports(configure_tiny_run(root, run="tasks", data=data))
    folder = root / "tasks"
    # Without task 0, none of these comes to an end.
    lost, left = (AgentProcess(config, folder, stage=Stage.PREPARE, index=i) for i in (1, 2))
    for agent in (lost, left):
        agent.await_progress(lambda p: bool(p.ranks))
    lost.kill()
    leader = AgentProcess(config, folder, stage=Stage.PREPARE)
    for agent in (leader, left):
        record = agent.finish()
        assert record.code is ExitCode.SUCCEEDED, agent.log
        assert "round 2 begins" not in agent.log
