"""`llmtrain plan`: what a job will take, before it takes it.

Below: `forecast`; for `--measure` the trainer, as a process of its own. Above: the command line.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from llmtrain_api import LLMTrainingJob
from llmtrain_api.data import TokenizerKind
from llmtrain_api.devices import DEVICES, find_device, find_selected_device
from llmtrain_api.network import Architecture, Network
from llmtrain_api.training import TrainingSpec
from llmtrain_operator.cli.machine import TRAINER_MODULES, require_packages
from llmtrain_operator.forecast.outlook import (
    DEFAULT_UTILIZATION,
    Means,
    Outlook,
    forecast_job,
)
from llmtrain_operator.forecast.pretrained import FAMILIES, read_shape
from llmtrain_operator.plan.run_config import count_threads

MEBIBYTE, GIBIBYTE = 1 << 20, 1 << 30
MINUTE, HOUR, DAY = 60, 3600, 86400
LARGE = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def print_outlook(
    job: LLMTrainingJob,
    *,
    device: str | None,
    utilization: float | None,
    price_per_gpu_hour: float | None,
    vocabulary_size: int | None,
    model_config: Path | None,
    measure: bool,
    as_json: bool,
) -> None:
    """Print what the job will take.

    Raises:
        click.ClickException: a GPU that is not known, a model of which nothing is known, or a trial
            that failed.
    """
    if job.spec.model.pretrained is not None:
        job, own_vocabulary = take_shape(job, model_config)
        vocabulary_size = vocabulary_size or own_vocabulary
    spec = job.spec
    means = Means(
        device=find_selected_device(spec.workers.node_selector),
        utilization=utilization or DEFAULT_UTILIZATION,
        price_per_gpu_hour=price_per_gpu_hour,
        vocabulary_size=vocabulary_size,
    )
    if device is not None:
        known = find_device(device)
        if known is None:
            names = ", ".join(device.name for device in DEVICES)
            raise click.ClickException(f"--device {device}: not known; known are {names}")
        means = dataclasses.replace(means, device=known)
    outlook = forecast_job(spec, means)
    trial = None
    if measure:
        trial = measure_rank(job, outlook)
        speed = trial["tokensPerSecond"]
        outlook = forecast_job(spec, dataclasses.replace(means, tokens_per_second=speed))
    if as_json:
        click.echo(json.dumps(describe_outlook(outlook, trial), indent=2))
    else:
        _print_table(job, outlook, means, trial)


def take_shape(job: LLMTrainingJob, model_config: Path | None) -> tuple[LLMTrainingJob, int]:
    """Return the job with the shape of the model that it goes on from, and its vocabulary.

    Raises:
        click.ClickException: there is no config.json to read, or none of a known family.
    """
    uri = job.spec.model.pretrained
    if model_config is None:
        raise click.ClickException(
            f"model.from: the shape is in {uri}/config.json; give a copy by --model-config"
        )
    try:
        found = read_shape(json.loads(model_config.read_text(encoding="utf-8")))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise click.ClickException(
            f"--model-config: {model_config} cannot be read ({error})"
        ) from None
    if found is None:
        raise click.ClickException(
            f"--model-config: of this family nothing is known; known are {', '.join(FAMILIES)}"
        )
    model, vocabulary_size = found
    spec = job.spec.model_copy(update={"model": model})
    return job.model_copy(update={"spec": spec}), vocabulary_size


def measure_rank(job: LLMTrainingJob, outlook: Outlook) -> dict[str, Any]:
    """Do a few steps of one rank on this machine.

    Raises:
        click.ClickException: the trial failed.
    """
    require_packages(TRAINER_MODULES, extra="trainer")
    spec = job.spec
    request = {
        "model": spec.model.dump(),
        "training": spec.training.dump(),
        "vocabularySize": outlook.vocabulary_size,
        "sequences": outlook.micro_batch_size,
        "threads": count_threads(job),
    }
    done = subprocess.run(
        [sys.executable, "-m", "llmtrain_trainer.training.trial"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise click.ClickException(f"the trial failed on this machine: {last[0]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def describe_outlook(outlook: Outlook, trial: dict[str, Any] | None) -> dict[str, Any]:
    """Return an outlook as JSON-ready data."""
    return {
        "parameters": outlook.size.parameters,
        "trainedParameters": outlook.trained_parameters,
        "model": dataclasses.asdict(outlook.network),
        "learningRate": outlook.learning_rate,
        "vocabularySize": outlook.vocabulary_size,
        "tokens": outlook.tokens,
        "epochs": outlook.epochs,
        "tokensPerParameter": outlook.tokens and outlook.tokens / outlook.size.parameters,
        "flops": outlook.flops,
        "ranks": outlook.world_size,
        "microBatchSize": outlook.micro_batch_size,
        "memoryOfRank": {
            **dataclasses.asdict(outlook.memory),
            "peak": outlook.memory.peak,
            "limit": outlook.memory_limit,
        },
        "seconds": outlook.seconds,
        "gpuHours": outlook.gpu_hours,
        "kilowattHours": outlook.kilowatt_hours,
        "cost": outlook.cost,
        "measured": trial,
        "warnings": list(outlook.warnings),
    }


def _print_table(
    job: LLMTrainingJob, outlook: Outlook, means: Means, trial: dict[str, Any] | None
) -> None:
    console = Console()
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    spec = job.spec
    model = spec.model.resolve()
    is_guess = means.vocabulary_size is None and spec.data.tokenizer.kind in (
        TokenizerKind.CHARACTER,
        TokenizerKind.PRETRAINED,
    )
    guess = " (a guess; see --vocabulary)" if is_guess else ""
    table.add_row(
        "model",
        f"{format_large(outlook.size.parameters)} parameters",
        f"{model.architecture}, {model.layers} layers of {model.hidden_size}"
        f"{_describe_heads(model)}, vocabulary {outlook.vocabulary_size:,}{guess}",
    )
    training = spec.training
    if outlook.trained_parameters != outlook.size.parameters:
        share = outlook.trained_parameters / outlook.size.parameters
        table.add_row(
            "trained",
            f"{format_large(outlook.trained_parameters)} parameters",
            f"{share:.1%} of them: the others stay as they are",
        )
    if spec.model.size is not None:
        table.add_row(
            "from model.size",
            f"{format_large(model.block_parameters)} parameters",
            f"of the layers ({format_large(spec.model.size)}asked for); the learning rate rises "
            f"to {outlook.learning_rate:.2g}",
        )
    table.add_row("tokens", *_describe_tokens(training, outlook))
    if outlook.flops is not None:
        table.add_row("arithmetic", f"{format_large(outlook.flops)}FLOP", "forward and backward")
    memory = outlook.memory
    limit = f" of {format_bytes(outlook.memory_limit)}" if outlook.memory_limit is not None else ""
    table.add_row(
        "memory of a rank",
        f"{format_bytes(memory.peak)}{limit}",
        ", ".join(
            f"{name} {format_bytes(size)}"
            for name, size in dataclasses.asdict(memory).items()
            if size
        )
        + f"; micro-batch of {outlook.micro_batch_size}",
    )
    if trial is not None:
        table.add_row(
            "measured here",
            f"{trial['tokensPerSecond']:,.0f} tokens/s",
            f"by one rank of {count_threads(job)} threads in "
            f"{'bf16' if trial['bf16'] else 'fp32'}; memory at its peak "
            f"{format_bytes(trial['peakBytes'])}",
        )
    table.add_row("time", *_describe_time(outlook, means, trial))
    if outlook.gpu_hours is not None:
        table.add_row("GPU hours", f"{outlook.gpu_hours:,.1f}", "")
    if outlook.kilowatt_hours is not None:
        about = "at the full power of the boards"
        table.add_row("energy", f"{outlook.kilowatt_hours:,.1f} kWh", about)
    if outlook.cost is not None:
        table.add_row("cost", f"{outlook.cost:,.2f}", "at --price-per-gpu-hour")
    console.print(table)
    for warning in outlook.warnings:
        console.print(f"[yellow]warning[/yellow]  {warning}", highlight=False)


def _describe_tokens(training: TrainingSpec, outlook: Outlook) -> tuple[str, str]:
    if outlook.tokens is None:
        return "not known", f"{training.epochs:g} times those of the training split"
    each = f"{outlook.tokens / outlook.size.parameters:.1f} for each parameter"
    steps = training.count_steps()
    if steps is None:
        return format_large(outlook.tokens), f"{training.epochs:g} epochs; {each}"
    shape = f"{training.global_batch} sequences × {training.sequence_length} tokens"
    return format_large(outlook.tokens), f"{steps:,} steps × {shape}; {each}"


def _describe_heads(network: Network) -> str:
    if network.architecture is Architecture.LSTM:
        return ""
    if network.key_value_heads != network.heads:
        return f", {network.heads} heads over {network.key_value_heads} of keys and values"
    return f", {network.heads} heads"


def _describe_time(outlook: Outlook, means: Means, trial: dict[str, Any] | None) -> tuple[str, str]:
    if outlook.seconds is None:
        return "not known", "--device names the GPU, --measure tries a few steps on this machine"
    ranks = "1 rank" if outlook.world_size == 1 else f"{outlook.world_size} ranks"
    if trial is not None:
        return format_duration(outlook.seconds), f"{ranks} at the measured speed, if none waits"
    assert means.device is not None
    return (
        format_duration(outlook.seconds),
        f"{ranks} on {means.device.name} at {means.utilization:.0%} of its peak",
    )


def format_large(number: float) -> str:
    """Write a number with three digits and a unit, as 124 M."""
    for size, unit in LARGE:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g} "


def format_bytes(number: int) -> str:
    """Write a number of bytes in MiB or GiB."""
    if number >= GIBIBYTE:
        return f"{number / GIBIBYTE:.1f} GiB"
    return f"{number / MEBIBYTE:.0f} MiB"


def format_duration(seconds: float) -> str:
    """Write a duration in its two largest units."""
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"
