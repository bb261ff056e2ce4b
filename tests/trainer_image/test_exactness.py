"""Whatever happens to a run, and however many ranks it has: the same numbers in the end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from llmtrain_api.optimizer import OptimizerKind
from llmtrain_api.run import RunConfig
from llmtrain_api.training import ActivationCheckpointing, Precision
from llmtrain_trainer.checkpoint.manifest import CURVES
from llmtrain_trainer.failures import PreemptedError
from testbed.ranks import Fate, RankLog, RunningRanks, run_ranks
from testbed.tiny_run import find_run_folder, prepare_tiny_run

STEPS = 16
BATCH_SIZE = 8
MICRO_BATCH_SIZE = 2
PASSES_PER_STEP = 2
"""Of each of two ranks."""
EPOCH_SEQUENCES = 70
"""Fewer than a run takes, so that it comes to a second epoch in the middle of step 9."""
EPOCH_END_STEP = EPOCH_SEQUENCES // BATCH_SIZE + 1
SEQUENCE_LENGTH = 32
VALIDATION_FRACTION = 0.3
LOSS_TOLERANCE = 1e-6
WEIGHT_TOLERANCE = 1e-3
"""Of weights in the end, a tenth of the learning rate: AdamW moves those with the least gradients
as far as others, wherever these round to."""

STRATEGIES = pytest.mark.parametrize("strategy", ["ddp", "fsdp"])

LEAVES_IN_STEP_5 = Fate(rank=1, leaves_in_step=5)
DIES_BETWEEN_PASSES = Fate(rank=1, dies_in_pass=6 * PASSES_PER_STEP + 2)
DIES_SOON = Fate(rank=0, dies_in_pass=PASSES_PER_STEP + 2)
DIES_AT_EPOCH_END = Fate(rank=0, dies_in_pass=(EPOCH_END_STEP - 1) * PASSES_PER_STEP + 1)


COURSE: dict[str, Any] = {
    "data": {"split": {"method": "tail", "validationFraction": VALIDATION_FRACTION}},
    "training": {
        "steps": STEPS,
        "batchSize": BATCH_SIZE,
        "microBatchSize": MICRO_BATCH_SIZE,
        "sequenceLength": SEQUENCE_LENGTH,
    },
    "evaluation": {"everySteps": 5},
    "checkpoint": {"everySteps": 3},
}
"""Of all runs that are compared."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with so little text that an epoch is a few steps."""
    root = tmp_path_factory.mktemp("exactness")
    source = root / "tiny-bucket" / "topics.txt"
    source.parent.mkdir(parents=True)
    text = "\n".join(topics.values()).encode("ascii", errors="ignore")
    num_bytes = round(EPOCH_SEQUENCES * SEQUENCE_LENGTH / (1 - VALIDATION_FRACTION))
    source.write_bytes(text[:num_bytes])
    return root


def prepare_run(
    root: Path, name: str, *, strategy: str, ranks: int = 2, dropout: float = 0.1
) -> RunConfig:
    return prepare_tiny_run(
        root,
        run=f"{strategy}-{name}",
        strategy=strategy,
        processes_per_worker=ranks,
        model={"dropout": dropout},
        **COURSE,
    )


@pytest.fixture(scope="module")
def straight(root: Path) -> dict[str, dict[str, str]]:
    """What an undisturbed run leaves, by strategy."""
    outcomes = {}
    for strategy in ("ddp", "fsdp"):
        config = prepare_run(root, "straight", strategy=strategy)
        run_ranks(config)
        outcomes[strategy] = read_outcome(config)
    return outcomes


def read_outcome(config: RunConfig) -> dict[str, str]:
    """Digests of all losses, the exported model, and the weights and the optimizer in the end."""
    folder = find_run_folder(config)
    files = [*folder.glob("export/*.safetensors")]
    shards = [*folder.glob(f"checkpoints/step-{STEPS:08d}/*/*.safetensors")]
    assert files
    assert shards
    return {
        CURVES: digest((folder / CURVES).read_bytes()),
        # Shards begin with a header whose order differs from one process to the next.
        **{
            f"{path.name}/{name}": digest(tensor.tobytes())
            for path in files + shards
            for name, tensor in load_file(path).items()
        },
    }


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def run_through(configs: Sequence[RunConfig], fates: Sequence[Fate]) -> list[list[RankLog]]:
    """Run one round after another, each to its fate, and a last one to the end."""
    rounds = [
        run_to_fate(config, fate, round_number=number)
        for number, (config, fate) in enumerate(zip(configs[:-1], fates, strict=True), start=1)
    ]
    last = RunningRanks(configs[-1], round_number=len(configs))
    last.finish()
    return [*rounds, last.logs]


def run_to_fate(config: RunConfig, fate: Fate, *, round_number: int) -> list[RankLog]:
    """Run a round until what shall happen to it has happened; none of its ranks is left."""
    ranks = RunningRanks(config, round_number=round_number, fate=fate)
    if fate.leaves_in_step is not None:
        with pytest.raises(PreemptedError):
            ranks.finish()
    else:
        ranks.watch(lambda: ranks.has_died(fate.rank))
        ranks.kill()
        assert ranks.logs[fate.rank].result is None, "it came to its end before"
    return ranks.logs


@STRATEGIES
@pytest.mark.parametrize(
    "fates",
    [
        pytest.param([DIES_BETWEEN_PASSES], id="killed-inside-accumulation"),
        pytest.param([DIES_BETWEEN_PASSES, DIES_SOON], id="killed-twice"),
        pytest.param([DIES_AT_EPOCH_END], id="killed-at-an-epoch-boundary"),
        pytest.param([LEAVES_IN_STEP_5], id="suspended"),
    ],
)
def test_a_disturbed_run_ends_bit_for_bit_as_the_straight_one(
    root: Path,
    straight: dict[str, dict[str, str]],
    request: pytest.FixtureRequest,
    strategy: str,
    fates: list[Fate],
) -> None:
    config = prepare_run(root, request.node.callspec.id, strategy=strategy)
    rounds = run_through([config] * (len(fates) + 1), fates)
    assert all(logs[0].list_facts("resumed_step") for logs in rounds[1:])
    assert read_outcome(config) == straight[strategy]


@STRATEGIES
def test_a_change_of_ranks_keeps_order_and_loss(root: Path, strategy: str) -> None:
    alone = run_ranks(prepare_run(root, "alone", strategy=strategy, ranks=1, dropout=0.0))
    numbers = (4, 2, 1, 4)
    configs = [
        prepare_run(root, "resized", strategy=strategy, ranks=n, dropout=0.0) for n in numbers
    ]
    rounds = run_through(configs, [Fate(leaves_in_step=3)] * 3)

    order = [sample for logs in rounds for sample in merge_samples(logs)]
    assert order == alone.samples
    assert len(order) == STEPS * BATCH_SIZE
    losses = [loss for logs in rounds for loss in logs[0].list_facts("loss")]
    assert losses == pytest.approx(alone.list_facts("loss"), rel=LOSS_TOLERANCE, abs=0)


def test_float16_resumes_with_its_loss_scale(root: Path) -> None:
    outcomes = []
    for name, fates in (("straight", []), ("disturbed", [DIES_BETWEEN_PASSES])):
        config = prepare_run(root, f"fp16-{name}", strategy="ddp")
        half = {"precision": Precision.FP16}
        config = config.model_copy(update={"training": config.training.model_copy(update=half)})
        run_through([config] * (len(fates) + 1), fates)
        outcomes.append(read_outcome(config))
    assert any("loss_scale" in name for name in outcomes[0])
    assert outcomes[0] == outcomes[1]


@STRATEGIES
def test_activations_that_are_computed_again_change_no_bit(
    root: Path, straight: dict[str, dict[str, str]], strategy: str
) -> None:
    config = prepare_run(root, "recomputed", strategy=strategy)
    full = {"activation_checkpointing": ActivationCheckpointing.FULL}
    config = config.model_copy(update={"training": config.training.model_copy(update=full)})
    run_ranks(config)
    assert read_outcome(config) == straight[strategy]


def merge_samples(logs: Sequence[RankLog]) -> list[int]:
    """Put the samples of all ranks in the order of the steps: each takes its share of a batch."""
    share = BATCH_SIZE // len(logs)
    starts = range(0, len(logs[0].samples), share)
    return [
        sample for start in starts for log in logs for sample in log.samples[start : start + share]
    ]


def test_an_epoch_ends_where_the_kill_at_its_end_is_meant_to_be(root: Path) -> None:
    """Else the test above would pass for another reason than it says."""
    samples = run_ranks(prepare_run(root, "epochs", strategy="ddp", ranks=1, dropout=0.0)).samples
    before, after = samples[:EPOCH_SEQUENCES], samples[EPOCH_SEQUENCES:]
    assert sorted(before) == list(range(EPOCH_SEQUENCES))
    assert EPOCH_SEQUENCES % BATCH_SIZE != 0
    assert after != before[: len(after)]


OBJECTIVES = pytest.mark.parametrize(
    ("architecture", "strategy"),
    [("bert", "ddp"), ("bert", "fsdp"), ("t5", "fsdp"), ("lstm", "ddp")],
)
"""Masked text and spans are drawn, so that what is drawn must not depend on what happens."""


def prepare_objective(
    root: Path, name: str, architecture: str, strategy: str, *, ranks: int = 2, dropout: float = 0.1
) -> RunConfig:
    return prepare_tiny_run(
        root,
        run=f"{architecture}-{strategy}-{name}",
        strategy=strategy,
        processes_per_worker=ranks,
        data={"split": {"method": "tail", "validationFraction": VALIDATION_FRACTION}},
        model={
            "architecture": architecture,
            "heads": None if architecture == "lstm" else 2,
            "dropout": dropout,
        },
        training={
            "steps": STEPS,
            "batchSize": BATCH_SIZE,
            "microBatchSize": MICRO_BATCH_SIZE,
            "sequenceLength": SEQUENCE_LENGTH,
            "masking": {"wholeWords": True},
        },
        evaluation={"everySteps": 5},
        checkpoint={"everySteps": 3},
    )


@OBJECTIVES
def test_every_objective_resumes_bit_for_bit(root: Path, architecture: str, strategy: str) -> None:
    straight = prepare_objective(root, "straight", architecture, strategy)
    run_ranks(straight)
    disturbed = prepare_objective(root, "disturbed", architecture, strategy)
    run_through([disturbed] * 3, [DIES_BETWEEN_PASSES, LEAVES_IN_STEP_5])
    assert read_outcome(disturbed) == read_outcome(straight)


@OBJECTIVES
def test_every_objective_keeps_its_loss_over_a_change_of_ranks(
    root: Path, architecture: str, strategy: str
) -> None:
    alone = prepare_objective(root, "alone", architecture, strategy, ranks=1, dropout=0.0)
    log = run_ranks(alone)
    configs = [
        prepare_objective(root, "resized", architecture, strategy, ranks=n, dropout=0.0)
        for n in (4, 2, 1)
    ]
    rounds = run_through(configs, [Fate(leaves_in_step=3)] * 2)
    losses = [loss for logs in rounds for loss in logs[0].list_facts("loss")]
    assert losses == pytest.approx(log.list_facts("loss"), rel=LOSS_TOLERANCE, abs=0)


def prepare_optimizer(root: Path, name: str, kind: str, strategy: str, *, ranks: int) -> RunConfig:
    run = prepare_run(root, f"{kind}-{name}", strategy=strategy, ranks=ranks, dropout=0.0)
    optimizer = run.training.optimizer.model_copy(update={"kind": OptimizerKind(kind)})
    training = run.training.model_copy(update={"optimizer": optimizer})
    return run.model_copy(update={"training": training})


@pytest.mark.parametrize(("kind", "strategy"), [("muon", "fsdp"), ("adafactor", "fsdp")])
def test_every_optimizer_resumes_bit_for_bit_and_on_other_ranks(
    root: Path, kind: str, strategy: str
) -> None:
    straight = prepare_optimizer(root, "straight", kind, strategy, ranks=2)
    log = run_ranks(straight)
    disturbed = prepare_optimizer(root, "disturbed", kind, strategy, ranks=2)
    run_through([disturbed] * 2, [DIES_BETWEEN_PASSES])
    assert read_outcome(disturbed) == read_outcome(straight)

    resized = [prepare_optimizer(root, "resized", kind, strategy, ranks=n) for n in (4, 1)]
    rounds = run_through(resized, [Fate(leaves_in_step=8)])
    losses = [loss for logs in rounds for loss in logs[0].list_facts("loss")]
    assert losses == pytest.approx(log.list_facts("loss"), rel=LOSS_TOLERANCE, abs=0)


def prepare_hybrid(root: Path, *, workers: int, ranks: int) -> RunConfig:
    return prepare_run(root, "hybrid", strategy="hsdp", ranks=ranks, dropout=0.0).model_copy(
        update={"replicas": workers}
    )


def test_shards_with_copies_keep_the_loss_and_are_saved_once(root: Path, tmp_path: Path) -> None:
    """Two workers of two ranks, then one from the store, then two, and those from their memory."""
    alone = run_ranks(prepare_run(root, "lone", strategy="ddp", ranks=1, dropout=0.0))
    configs = [prepare_hybrid(root, workers=n, ranks=2) for n in (2, 1, 2)]
    rounds = []
    for number, config in enumerate(configs, start=1):
        ranks = RunningRanks(
            config, round_number=number, staging=tmp_path, fate=Fate(leaves_in_step=3)
        )
        with pytest.raises(PreemptedError):
            ranks.finish()
        rounds.append(ranks.logs)
    # What the next round has it has from memory: the store's copy is damaged.
    newest = max(find_run_folder(configs[-1]).glob("checkpoints/step-*/manifest.json"))
    newest.write_text("{}")
    last = RunningRanks(configs[-1], round_number=len(configs) + 1, staging=tmp_path)
    last.finish()
    left_at = ranks.logs[0].step
    assert newest.parent.name == f"step-{left_at:08d}"
    assert last.logs[0].list_facts("resumed_step") == [left_at]
    rounds.append(last.logs)
    losses = [loss for logs in rounds for loss in logs[0].list_facts("loss")]
    assert losses == pytest.approx(alone.list_facts("loss"), rel=LOSS_TOLERANCE, abs=0)

    plain = prepare_run(root, "lone", strategy="ddp", ranks=1)
    [whole], parts = (count_saved(config) for config in (plain, configs[-1]))
    assert len(parts) == 4
    assert sum(parts) == whole
    assert max(parts) < 1.5 * min(parts)


def count_saved(config: RunConfig) -> list[int]:
    """Return how many numbers each part of the last checkpoint has."""
    folder = find_run_folder(config) / f"checkpoints/step-{STEPS:08d}"
    paths = sorted(folder.rglob("*.safetensors"))
    return [sum(tensor.size for tensor in load_file(path).values()) for path in paths]


def prepare_divided(
    root: Path, name: str, *, strategy: str = "ddp", workers: int = 1, ranks: int, tensor: int = 1
) -> RunConfig:
    """Configure a small Llama, whose heads of keys and values are fewer than those of queries."""
    return prepare_tiny_run(
        root,
        run=f"divided-{strategy}-{name}",
        strategy=strategy,
        replicas=workers,
        processes_per_worker=ranks,
        tensor_parallel=tensor,
        model={"architecture": "llama", "heads": 8, "keyValueHeads": 4, "hiddenSize": 64},
        **COURSE,
    )


@pytest.fixture(scope="module")
def undivided(root: Path) -> RankLog:
    """What one rank says that has the whole model."""
    return run_ranks(prepare_divided(root, "alone", ranks=1))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_divided_matrices_keep_order_and_loss(
    root: Path, undivided: RankLog, strategy: str
) -> None:
    """Four ranks that divide all matrices, then one alone, then a pair, then two pairs."""
    sizes = [(4, 4), (1, 1), (2, 2), (4, 2)]
    configs = [
        prepare_divided(root, "resized", strategy=strategy, ranks=ranks, tensor=tensor)
        for ranks, tensor in sizes
    ]
    rounds = run_through(configs, [Fate(leaves_in_step=3)] * 3)
    order = [
        sample
        for logs, (_, tensor) in zip(rounds, sizes, strict=True)
        for sample in merge_samples(logs[::tensor])
    ]
    assert order == undivided.samples
    losses = [loss for logs in rounds for loss in logs[0].list_facts("loss")]
    assert losses == pytest.approx(undivided.list_facts("loss"), rel=LOSS_TOLERANCE, abs=0)

    whole, gathered = (
        load_exported(config) for config in (prepare_divided(root, "alone", ranks=1), configs[-1])
    )
    assert {name: tensor.shape for name, tensor in gathered.items()} == {
        name: tensor.shape for name, tensor in whole.items()
    }
    for name, tensor in whole.items():
        np.testing.assert_allclose(gathered[name], tensor, atol=WEIGHT_TOLERANCE, err_msg=name)
    assert sum(count_saved(configs[-1])) == sum(
        count_saved(prepare_divided(root, "alone", ranks=1))
    )


def load_exported(config: RunConfig) -> dict[str, NDArray[np.float32]]:
    (path,) = find_run_folder(config).glob("export/*.safetensors")
    return load_file(path)


@pytest.mark.parametrize("strategy", ["ddp", "hsdp"])
def test_divided_matrices_come_back_from_the_memory_of_two_hosts(
    root: Path, tmp_path: Path, undivided: RankLog, strategy: str
) -> None:
    config = prepare_divided(root, "staged", strategy=strategy, workers=2, ranks=2, tensor=2)
    rounds = []
    for number in (1, 2):
        ranks = RunningRanks(
            config, round_number=number, staging=tmp_path, fate=Fate(leaves_in_step=3)
        )
        with pytest.raises(PreemptedError):
            ranks.finish()
        rounds.append(ranks.logs)
        # What the next round has it has from memory.
        for manifest in find_run_folder(config).glob("checkpoints/step-*/manifest.json"):
            manifest.write_text("{}")
    left_at = rounds[0][0].step
    assert rounds[1][0].list_facts("resumed_step") == [left_at]
    losses = [loss for logs in rounds for loss in logs[0].list_facts("loss")]
    assert losses == pytest.approx(
        undivided.list_facts("loss")[: len(losses)], rel=LOSS_TOLERANCE, abs=0
    )
