"""What a job will take, and what looks wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmtrain_api import JobSpec
from llmtrain_api.data import Tokenizer, TokenizerKind
from llmtrain_api.devices import find_device, find_selected_device
from llmtrain_api.network import ModelSpec
from llmtrain_operator.cli.manifest import load_job
from llmtrain_operator.forecast.outlook import Means, forecast_job

ROOT = Path(__file__).parents[3]
MANIFESTS = [
    *sorted((ROOT / "manifests" / "examples").glob("*.yaml")),
    ROOT / "operator" / "llmtrain_operator" / "cli" / "demo.yaml",
]
H100 = find_device("h100")


def describe(*, workers: dict[str, Any] | None = None, **training: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "data": {
                "sources": [{"uri": "s3://corpus/books/"}],
                "tokenizer": {"vocabularySize": 50257},
            },
            "model": {"layers": 12, "heads": 12, "hiddenSize": 768},
            "training": {"steps": 1000, "batchSize": 512, "sequenceLength": 1024, **training},
            "workers": {
                "replicas": 2,
                "processesPerWorker": 4,
                "resources": {"gpu": 4, "memory": "64Gi"},
                **(workers or {}),
            },
            "storage": {"uri": "s3://models/first"},
        }
    )


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_of_ours_fits_the_memory_it_asks_for(path: Path) -> None:
    if "kind: LLMTrainingJob" not in path.read_text(encoding="utf-8"):
        pytest.skip("holds no job")

    outlook = forecast_job(load_job(path).spec, Means())

    assert not [warning for warning in outlook.warnings if "fit" in warning]


def test_time_energy_and_cost_of_a_known_gpu() -> None:
    means = Means(device=H100, utilization=0.4, price_per_gpu_hour=2.0)

    outlook = forecast_job(describe(microBatchSize=16), means)

    assert outlook.world_size == 8
    assert outlook.tokens == 1000 * 512 * 1024
    # 524 M tokens x 0.854 GFLOP over 8 GPUs of 989 TFLOP/s at 40 %.
    assert outlook.seconds == pytest.approx(141.6, rel=0.01)
    assert outlook.gpu_hours == pytest.approx(8 * 141.6 / 3600, rel=0.01)
    assert outlook.kilowatt_hours == pytest.approx(8 * 0.7 * 141.6 / 3600, rel=0.01)
    assert outlook.cost == pytest.approx(2.0 * 8 * 141.6 / 3600, rel=0.01)


def test_a_measured_speed_takes_the_place_of_the_devices() -> None:
    outlook = forecast_job(describe(), Means(device=H100, tokens_per_second=1000.0))

    assert outlook.tokens is not None
    assert outlook.seconds == pytest.approx(outlook.tokens / 8000)


@pytest.mark.parametrize(
    ("length", "steps", "tokens"),
    [
        ({"tokens": 5 * 8 * 100 + 1}, 6, 4800),
        ({"epochs": 1.5}, None, 1500),
        ({"steps": 7}, 7, 5600),
    ],
)
def test_a_run_is_as_long_as_steps_tokens_or_epochs_say(
    length: dict[str, Any], steps: int | None, tokens: int
) -> None:
    spec = describe(**{"steps": None, "batchSize": 8, "sequenceLength": 100, **length})
    assert spec.training.count_steps() == steps
    assert forecast_job(spec, Means(data_tokens=1000)).tokens == tokens
    assert (forecast_job(spec, Means()).tokens is None) == (steps is None)


@pytest.mark.parametrize(("architecture", "added"), [("gpt2", 0), ("bert", 2), ("t5", 101)])
def test_a_vocabulary_has_the_tokens_of_its_objective(architecture: str, added: int) -> None:
    spec = describe()
    data = spec.data.model_copy(update={"tokenizer": Tokenizer(kind=TokenizerKind.BYTE)})
    model = ModelSpec(architecture=architecture)
    changed = spec.model_copy(update={"data": data, "model": model})

    assert forecast_job(changed, Means()).vocabulary_size == 257 + added


def test_without_a_speed_no_time_is_made_up() -> None:
    outlook = forecast_job(describe(), Means())

    assert outlook.seconds is outlook.gpu_hours is outlook.cost is None
    assert outlook.memory_limit is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (describe(microBatchSize=16), ["tokens for each parameter"]),
        (describe(microBatchSize=16, steps=10_000), []),
        (
            describe(steps=10_000),
            ["lower training.microBatchSize (now 64), or set workers.strategy"],
        ),
    ],
    ids=["few tokens", "enough", "too large"],
)
def test_warnings_say_what_is_wrong_and_what_to_do(spec: JobSpec, said: list[str]) -> None:
    warnings = forecast_job(spec, Means(device=find_device("L4"))).warnings

    assert len(warnings) == len(said), warnings
    assert all(part in warning for part, warning in zip(said, warnings, strict=True))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA-H100-PCIe", "H100-PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA-A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA-A100-SXM4-80GB", "A100"),
        ("NVIDIA-H200", "H200"),
        ("NVIDIA-L4", "L4"),
        ("NVIDIA-L40S", "L40S"),
        ("Tesla-K80", None),
    ],
)
def test_nodes_are_labelled_with_their_gpu(label: str, name: str | None) -> None:
    device = find_selected_device({"nvidia.com/gpu.product": label})

    assert (device.name if device else None) == name


def test_the_micro_batch_that_is_expected_to_fit() -> None:
    gpu = find_device("l4")
    assert gpu is not None
    spec = describe(batchTokens=512 * 1024, batchSize=None, autoMicroBatch=True)
    outlook = forecast_job(spec, Means(device=gpu))
    share = 512 // 8
    assert 1 < outlook.micro_batch_size < share
    assert outlook.memory.peak <= 0.9 * gpu.memory
    passes = -(-share // outlook.micro_batch_size)
    larger = describe(microBatchSize=-(-share // (passes - 1)))
    assert forecast_job(larger, Means(device=gpu)).memory.peak > 0.9 * gpu.memory
    assert forecast_job(spec, Means()).micro_batch_size == share
