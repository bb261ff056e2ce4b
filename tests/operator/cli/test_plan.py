"""`llmtrain plan` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from llmtrain_operator.cli.plan import format_bytes, format_duration, format_large
from testbed.command_line import CommandLine

EXAMPLES = Path(__file__).parents[3] / "manifests" / "examples"


def test_a_job_for_cpus_says_what_it_takes(llmtrain: CommandLine) -> None:
    done = llmtrain("plan", EXAMPLES / "minimal.yaml")

    assert done.returncode == 0, done.stderr
    assert "13.9 M parameters" in done.stdout
    assert "of 2.7 GiB" in done.stdout
    assert "not known" in done.stdout
    assert "1.2 tokens for each parameter" in done.stdout


def test_a_job_for_gpus_has_a_time_and_a_cost(llmtrain: CommandLine) -> None:
    done = llmtrain(
        *("plan", EXAMPLES / "gpu-fsdp.yaml", "--json", "--device", "h100"),
        *("--price-per-gpu-hour", "2.5"),
    )

    assert done.returncode == 0, done.stderr
    outlook = json.loads(done.stdout)
    assert outlook["gpuHours"] > 0
    assert outlook["cost"] == pytest.approx(2.5 * outlook["gpuHours"])
    assert outlook["memoryOfRank"]["peak"] < outlook["memoryOfRank"]["limit"]


def test_one_number_is_answered_with_what_follows(llmtrain: CommandLine) -> None:
    done = llmtrain("plan", EXAMPLES / "llama.yaml")

    assert done.returncode == 0, done.stderr
    assert "from model.size" in done.stdout
    assert "asked for); the learning rate rises to" in " ".join(done.stdout.split())

    outlook = json.loads(llmtrain("plan", EXAMPLES / "t5.yaml", "--json").stdout)
    assert outlook["vocabularySize"] == 4096
    assert outlook["model"]["layers"] >= 1
    assert outlook["learningRate"] < 1.3e-3


def test_a_gpu_that_is_not_known_is_answered_with_those_that_are(llmtrain: CommandLine) -> None:
    done = llmtrain("plan", EXAMPLES / "gpu-fsdp.yaml", "--device", "k80")

    assert done.returncode == 1
    assert "--device k80: not known; known are B200, H200" in done.stderr


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (format_large(124_439_808), "124 M"),
        (format_large(12), "12 "),
        (format_bytes(300 << 20), "300 MiB"),
        (format_bytes(3 << 30), "3.0 GiB"),
        (format_duration(59.6), "1 min 0 s"),
        (format_duration(3 * 3600 + 120), "3 h 2 min"),
        (format_duration(50 * 3600), "2 d 2 h"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


def test_a_pretrained_model_is_counted_by_its_config(llmtrain: CommandLine, tmp_path: Path) -> None:
    manifest = tmp_path / "warm.yaml"
    job = yaml.safe_load((EXAMPLES / "minimal.yaml").read_text())
    job["spec"]["model"] = {"from": "s3://models/gpt2"}
    manifest.write_text(yaml.safe_dump(job))
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257}
        )
    )
    asked = llmtrain("plan", manifest)
    done = llmtrain("plan", manifest, "--model-config", config)
    assert "give a copy by --model-config" in asked.stderr
    assert "124 M parameters" in done.stdout, done.stderr
