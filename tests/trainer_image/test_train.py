"""The training stage by real ranks: exact, resumable, and the same however it is spread."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from llmtrain_api.records import ExitCode
from llmtrain_trainer.checkpoint.manifest import CheckpointManifest
from llmtrain_trainer.dataset.loading import open_run_dataset
from llmtrain_trainer.failures import ConfigurationError, DivergedError, PreemptedError, StoreError
from llmtrain_trainer.progress import RankUpdate
from llmtrain_trainer.store import open_store
from llmtrain_trainer.training.event_file import EVENT_FILE
from testbed.event_files import count_events
from testbed.fault_log import FaultWatch
from testbed.ranks import RunningRanks, run_ranks
from testbed.tiny_run import configure_tiny_run, find_run_folder, prepare_tiny_run

TWO_RANKS = {"processes_per_worker": 2}
EPOCHS = 0.1
WITH_DROPOUT = {"model": {"layers": 2, "heads": 2, "hiddenSize": 32, "dropout": 0.1}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the runs of this module share, so that data is prepared once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def losses(root: Path) -> list[float]:
    """The loss of every step of an undisturbed run on one rank."""
    return run_ranks(prepare_tiny_run(root, run="straight")).list_facts("loss")


def list_checkpoints(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("checkpoints/*/manifest.json"))


def test_loss_falls_and_two_checkpoints_are_kept(root: Path, losses: list[float]) -> None:
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 1.0
    folder = find_run_folder(configure_tiny_run(root, run="straight"))
    kept = sorted(path.name for path in folder.glob("checkpoints/*") if any(path.rglob("*.*")))
    assert kept == list_checkpoints(folder) == ["step-00000008", "step-00000012"]


def test_speed_is_told_of_steps_only(root: Path) -> None:
    """Between evaluations after every second step, no step's end follows another's."""
    evaluation = configure_tiny_run(root).evaluation.dump()
    config = prepare_tiny_run(root, run="speed", evaluation={**evaluation, "everySteps": 2})
    assert run_ranks(config).list_facts("tokens_per_second") == []
    length = {"steps": None, "epochs": EPOCHS}
    evaluation["everyEpochs"] = EPOCHS / 2
    faster = run_ranks(prepare_tiny_run(root, run="faster", training=length, evaluation=evaluation))
    assert faster.list_facts("tokens_per_second")
    dataset = open_run_dataset(open_store(config.run_uri, config.storage), config)
    num_steps = math.ceil(EPOCHS * dataset.train.num_sequences(32) / 8)
    assert faster.list_facts("total_steps") == [num_steps]
    assert len(faster.list_facts("loss")) == num_steps
    assert len(faster.list_facts("validation_loss")) == 2


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_loss_does_not_depend_on_ranks_strategy_or_accumulation(
    root: Path, losses: list[float], strategy: str
) -> None:
    training = {"microBatchSize": 2}
    base = configure_tiny_run(root).training.dump()
    config = prepare_tiny_run(
        root, run=strategy, strategy=strategy, training={**base, **training}, **TWO_RANKS
    )
    assert run_ranks(config).list_facts("loss") == pytest.approx(losses, abs=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_killed_run_resumes_bit_for_bit(root: Path, strategy: str) -> None:
    settings = {"strategy": strategy, **TWO_RANKS, **WITH_DROPOUT}
    straight = run_ranks(prepare_tiny_run(root, run=f"{strategy}-whole", **settings))

    config = prepare_tiny_run(root, run=f"{strategy}-killed", **settings)
    ranks = RunningRanks(config)
    first = ranks.logs[0]
    ranks.watch(lambda: 4.0 in first.list_facts("checkpoint_step") and first.step >= 6)
    ranks.kill()
    assert first.step < 12
    resumed = run_ranks(config, round_number=2)

    (step,) = resumed.list_facts("resumed_step")
    assert step >= 4
    assert resumed.list_facts("loss") == straight.list_facts("loss")[int(step) :]
    assert resumed.list_facts("validation_loss")[-1] == straight.list_facts("validation_loss")[-1]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("lost_host", [None, 1])
def test_hosts_resume_from_what_they_have_in_memory_if_all_of_it_is_there(
    root: Path, tmp_path: Path, strategy: str, lost_host: int | None
) -> None:
    """The store's own checkpoints are taken away, so that only the hosts' memory can serve."""
    name = f"memory-{strategy}-{lost_host}"
    training = {**configure_tiny_run(root).training.dump(), "steps": 60}
    workers = {"strategy": strategy, "replicas": 2, "processes_per_worker": 1}
    settings = {"training": training, **workers, **WITH_DROPOUT}
    straight = run_ranks(prepare_tiny_run(root, run=f"{name}-whole", **settings))

    config = prepare_tiny_run(root, run=name, **settings)
    ranks = RunningRanks(config, staging=tmp_path)
    first = ranks.logs[0]
    ranks.watch(lambda: bool(first.list_facts("checkpoint_step")))
    ranks.kill()
    assert first.step < 60
    shutil.rmtree(find_run_folder(config) / "checkpoints")
    if lost_host is not None:
        shutil.rmtree(tmp_path / f"worker-{lost_host}")
    resumed = RunningRanks(config, round_number=2, staging=tmp_path)
    resumed.finish()
    log = resumed.logs[0]
    if lost_host is not None:
        assert log.list_facts("resumed_step") == []
        assert log.list_facts("loss") == straight.list_facts("loss")
        return
    (step,) = log.list_facts("resumed_step")
    assert step >= 4
    assert log.list_facts("loss") == straight.list_facts("loss")[int(step) :]
    assert list_checkpoints(find_run_folder(config))[-1] == "step-00000060"


@pytest.mark.fault(28, world="ranks")
def test_sharded_checkpoint_resumes_on_one_rank(root: Path, losses: list[float]) -> None:
    config = prepare_tiny_run(root, run="reshaped", strategy="fsdp", **TWO_RANKS)
    ranks = RunningRanks(config)
    ranks.watch(lambda: bool(ranks.logs[0].list_facts("checkpoint_step")))
    ranks.kill()
    alone = run_ranks(configure_tiny_run(root, run="reshaped"), round_number=2)
    (step,) = alone.list_facts("resumed_step")
    assert alone.list_facts("loss") == pytest.approx(losses[int(step) :], abs=1e-5)


def test_stop_saves_on_all_ranks_and_the_next_round_goes_on(
    root: Path, losses: list[float]
) -> None:
    config = prepare_tiny_run(root, run="stopped", **TWO_RANKS)
    ranks = RunningRanks(config)
    ranks.watch(lambda: ranks.logs[0].step >= 1)
    ranks.request_stop()
    with pytest.raises(PreemptedError) as stopped:
        ranks.finish()
    assert stopped.value.code is ExitCode.PREEMPTED
    assert all(isinstance(log.error, PreemptedError) for log in ranks.logs)
    saved = ranks.logs[0].list_facts("checkpoint_step")[-1]

    resumed = run_ranks(config, round_number=2)
    assert resumed.list_facts("resumed_step") == [saved]
    assert resumed.list_facts("loss") == pytest.approx(losses[int(saved) :], abs=1e-5)
    folder = find_run_folder(config)
    points = json.loads((folder / "curves.json").read_text())
    assert [point["step"] for point in points if "gradientNorm" in point] == [*range(1, 13)]
    # The file for TensorBoard: its version, each step and each evaluation once.
    assert count_events((folder / EVENT_FILE).read_bytes()) == 1 + len(points)


def list_steps_of(folder: Path) -> list[int]:
    return [int(name.removeprefix("step-")) for name in list_checkpoints(folder)]


@pytest.mark.fault(16, world="ranks")
def is_refusal(update: RankUpdate) -> bool:
    return "checkpoint_refused" in update.facts


def test_damaged_checkpoint_falls_back_to_the_one_before(
    root: Path, losses: list[float], fault: FaultWatch
) -> None:
    config = prepare_tiny_run(root, run="damaged")
    run_ranks(config)
    folder = find_run_folder(config)
    shard = next(folder.glob("checkpoints/step-00000012/*/*.safetensors"))
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)

    # A save is skipped while the one before it is still under way: which steps exist may vary.
    [before] = [step for step in list_steps_of(folder) if step < 12]

    resumed = run_ranks(config, round_number=2)
    assert resumed.list_facts("resumed_step") == [before]
    assert resumed.list_facts("loss") == losses[before:]
    (refused,) = [u.facts["checkpoint_refused"] for u in resumed.updates if is_refusal(u)]
    fault.said(str(refused), "refused the checkpoint of step 12: checkpoints/step-00000012/")
    assert str(refused).endswith(f"training goes on from step {before}")
    assert list(folder.glob("checkpoints/step-00000012/refused-*.json"))
    assert shard.exists()
    assert list_steps_of(folder)[-1] == 12
    manifest = folder / "checkpoints/step-00000012/manifest.json"
    assert CheckpointManifest.model_validate_json(manifest.read_bytes()).round == 2


def test_run_without_a_whole_checkpoint_does_not_start_anew(root: Path) -> None:
    config = prepare_tiny_run(root, run="lost")
    run_ranks(config)
    for shard in find_run_folder(config).glob("checkpoints/*/*/*.safetensors"):
        shard.unlink()
    for attempt in (2, 3):
        with pytest.raises(
            StoreError, match=r"steps 12, [0-9, ]+ is whole: .* is missing"
        ) as failed:
            run_ranks(config, round_number=attempt)
        assert failed.value.reason == "CheckpointsDamaged"


def test_run_begins_from_another_run_s_checkpoint(root: Path, losses: list[float]) -> None:
    """By its name, by its URI, and at a step; what it began from is its own from then on."""
    first = prepare_tiny_run(root, run="origin-0123abcd", checkpoint={"keepLast": 9})
    run_ranks(first)
    steps = list_steps_of(find_run_folder(first))
    longer = {**first.training.dump(), "steps": 14}
    for name, origin, begun in (
        ("by-uri", {"uri": first.run_uri}, steps[-1]),
        ("by-job", {"job": "origin", "step": steps[0]}, steps[0]),
    ):
        config = prepare_tiny_run(
            root, run=name, training=longer, checkpoint={"restoreFrom": origin}
        )
        log = run_ranks(config)
        assert log.list_facts("resumed_step") == [begun]
        assert log.list_facts("step") == []
        assert len(log.list_facts("loss")) == 14 - begun
        assert list_steps_of(find_run_folder(config))[-1] == 14
    assert list_steps_of(find_run_folder(first)) == steps


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"job": "nobody"}, "job nobody has no run with checkpoints"),
        ({"uri": "s3://tiny-bucket/runs/tests/straight", "step": 5}, "no checkpoint of step 5"),
        ({"uri": "s3://tiny-bucket/runs/tests/straight"}, "step 12 of .* is after the last of 11"),
    ],
)
def test_origins_that_cannot_be_are_named(
    root: Path, losses: list[float], origin: dict[str, object], message: str
) -> None:
    config = prepare_tiny_run(
        root, run="nowhere", training={"steps": 11}, checkpoint={"restoreFrom": origin}
    )
    with pytest.raises(ConfigurationError, match=message) as failed:
        run_ranks(config)
    assert failed.value.reason == "RestoreFromInvalid"


def test_saves_by_the_clock_are_agreed_by_all_ranks(root: Path) -> None:
    config = prepare_tiny_run(
        root,
        run="clock",
        training={**configure_tiny_run(root).training.dump(), "steps": 1_000_000},
        checkpoint={"everySteps": None, "everyMinutes": 0.001, "keepLast": 2},
        evaluation={"everySteps": 1_000_000},
        **TWO_RANKS,
    )
    ranks = RunningRanks(config)
    log = ranks.logs[0]
    ranks.watch(lambda: len(log.list_facts("checkpoint_step")) >= 2)
    assert log.list_facts("checkpoint_interval_seconds")[0] == pytest.approx(0.06)
    assert log.list_facts("checkpoint_stall_seconds")[0] > 0.0
    ranks.kill()


def test_finished_run_only_exports_again(root: Path, losses: list[float]) -> None:
    config = prepare_tiny_run(root, run="again")
    run_ranks(config)
    folder = find_run_folder(config)
    (folder / "export" / "manifest.json").unlink()
    ranks = RunningRanks(config, round_number=2)
    (result,) = ranks.finish()
    assert ranks.logs[0].list_facts("loss") == []
    assert (result.step, result.train_loss) == (12, losses[-1])
    assert (folder / "export" / "manifest.json").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_alike(root: Path, losses: list[float], precision: str) -> None:
    training = {**configure_tiny_run(root).training.dump(), "precision": precision}
    for strategy, ranks in (("ddp", {}), ("fsdp", TWO_RANKS)):
        config = prepare_tiny_run(
            root, run=f"{precision}-{strategy}", strategy=strategy, training=training, **ranks
        )
        found = run_ranks(config).list_facts("loss")
        assert found != losses
        assert found == pytest.approx(losses, abs=0.05)


@pytest.mark.fault(20, world="ranks")
def test_infinite_loss_is_named(root: Path, fault: FaultWatch) -> None:
    training = configure_tiny_run(root).training.dump()
    # A decay of learningRate × weightDecay = 10 makes every weight nine times as large a step.
    training["optimizer"] = {"learningRate": 10.0, "warmupSteps": 0, "weightDecay": 1.0}
    training["steps"] = 400
    config = prepare_tiny_run(
        root,
        run="diverged",
        training=training,
        checkpoint={"everySteps": 1000},
        evaluation={"everySteps": 1000},
    )
    with pytest.raises(DivergedError, match=r"the (loss|gradient norm) of step") as failed:
        run_ranks(config)
    fault.said(f"{failed.value.reason}: {failed.value.message}; {failed.value.next_step}")
    assert "learningRate" in failed.value.next_step
    assert list_checkpoints(find_run_folder(config)) == []


def test_batch_that_ranks_cannot_share_is_refused(root: Path) -> None:
    config = configure_tiny_run(root, run="uneven", processes_per_worker=3)
    with pytest.raises(ConfigurationError, match=r"training\.batchSize \(8\)"):
        run_ranks(config)
