"""A few steps on made-up tokens: how fast a rank would be here, and how much memory it would take.

    python -m llmtrain_trainer.training.trial < request.json

Below: `model`, `optim`, `precision`: what a real step is made of, without data, peers and saves.
Above: `llmtrain plan --measure` runs it as a process of its own, whose memory is the run's alone.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from llmtrain_api.base import Model
from llmtrain_api.network import Architecture, ModelSpec
from llmtrain_api.objective import OBJECTIVES
from llmtrain_api.training import TrainingSpec
from llmtrain_trainer.linux import keep_freed_memory
from llmtrain_trainer.model.attention import choose_attention
from llmtrain_trainer.model.losses import compute_loss_sum
from llmtrain_trainer.model.network import build_model
from llmtrain_trainer.model.recomputation import recompute_activations
from llmtrain_trainer.objective.choosing import make_objective
from llmtrain_trainer.parallel import place_model
from llmtrain_trainer.precision import Arithmetic, choose_arithmetic
from llmtrain_trainer.tokenizer.special_tokens import SENTINELS, SpecialTokens
from llmtrain_trainer.training.optim import Optimizer, find_hidden_matrices
from llmtrain_trainer.training.peak_memory import begin_peak, read_peak

WARM_STEPS = 1
TIMED_STEPS = 3
LEARNING_RATE = 1e-4
MADE_UP = SpecialTokens(mask=1, padding=2, sentinels=list(range(3, 3 + len(SENTINELS))))


class TrialRequest(Model):
    """What is tried."""

    model: ModelSpec
    training: TrainingSpec
    """Of it count the objective, the length of sequences, the precision, the optimizer
    and what is computed again."""

    vocabulary_size: int
    sequences: int
    """Of a micro-batch."""

    threads: int


class TrialResult(Model):
    """What came out."""

    tokens_per_second: float
    peak_bytes: int
    """Of the training itself, without what the process held before."""

    bf16: bool
    """Products were computed in bfloat16, or float16."""


def run_trial(request: TrialRequest) -> TrialResult:
    """Do a few optimizer steps, and measure the fastest of those that are not the first."""
    torch.set_num_threads(request.threads)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision, width = request.training.precision, request.model.resolve().hidden_size
    arithmetic = choose_arithmetic(precision, device, hidden_size=width)
    arithmetic.apply()
    # Kernels, threads and autograd come into being at their first use; they are the process's.
    smallest = request.model_copy(
        update={"model": _shrink(request.model.architecture), "sequences": 1}
    )
    _time_steps(smallest, device, arithmetic)
    before = begin_peak(device)
    seconds = _time_steps(request, device, arithmetic)
    return TrialResult(
        tokens_per_second=request.sequences * request.training.sequence_length / seconds,
        peak_bytes=read_peak(device) - before,
        bf16=arithmetic.autocast,
    )


def _shrink(architecture: Architecture) -> ModelSpec:
    """Return the smallest model of a family."""
    heads = None if architecture is Architecture.LSTM else 1
    return ModelSpec(architecture=architecture, layers=1, heads=heads, hidden_size=8)


def _time_steps(request: TrialRequest, device: torch.device, arithmetic: Arithmetic) -> float:
    """Do a few steps of a new model; return the seconds of the fastest."""
    built = build_model(
        request.model,
        vocabulary_size=request.vocabulary_size,
        sequence_length=request.training.sequence_length,
        end_of_text=0,
        seed=0,
    )
    choose_attention(built, arithmetic.dtype, device)
    recompute_activations(built, request.training.activation_checkpointing)
    model = place_model(built, device)
    model.train()
    optimizer = Optimizer(
        model.named_parameters(),
        request.training.optimizer,
        hidden_matrices=find_hidden_matrices(model),
        products=arithmetic.dtype,
    )
    objective = make_objective(
        OBJECTIVES[request.model.architecture],
        request.training,
        special=MADE_UP,
        vocabulary_size=request.vocabulary_size,
        end_of_text=0,
    )
    assert objective is not None
    generator = np.random.default_rng(0)
    shape = (request.sequences, request.training.sequence_length + 1)
    numbers = np.arange(request.sequences)
    seconds = []
    for _ in range(WARM_STEPS + TIMED_STEPS):
        tokens = generator.integers(request.vocabulary_size, size=shape)
        batch = objective.make_batch(tokens, numbers, is_training=True)
        places = batch.locate_targets()
        began = time.perf_counter()
        optimizer.clear_gradients()
        with torch.autocast(device.type, arithmetic.dtype, enabled=arithmetic.autocast):
            loss = compute_loss_sum(
                model,
                batch.move(device),
                logits_bytes=request.training.find_logits_bytes(on_gpu=device.type == "cuda"),
                places=places.to(device) if objective.fixed_targets is None else None,
                label_smoothing=request.training.label_smoothing,
            )
        (loss / len(places)).backward()
        optimizer.step(LEARNING_RATE, optimizer.compute_gradient_norm())
        loss.item()  # on a GPU all of the above has only been queued
        seconds.append(time.perf_counter() - began)
    return min(seconds[WARM_STEPS:])


if __name__ == "__main__":
    request = TrialRequest.model_validate_json(sys.stdin.read())
    sys.stdout.write(run_trial(request).model_dump_json(by_alias=True))
