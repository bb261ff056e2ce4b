"""The loss without all logits is the plain loss, to rounding, and never has all logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CONFIG_MAPPING

import llmtrain_trainer.model.lstm  # noqa: F401  (makes its configuration known)
from llmtrain_api.objective import Objective
from llmtrain_trainer.model.chunked_loss import judge_targets, sum_losses
from llmtrain_trainer.model.losses import compute_loss_sum, judge_batch
from llmtrain_trainer.model.network import (
    compute_logits,
    compute_losses,
    compute_token_losses,
    create_model,
)
from llmtrain_trainer.model.output_layer import ENDING_IN_LOGITS, find_output_layer
from llmtrain_trainer.objective.batch import NOT_A_TARGET, Batch

VOCABULARY, SEQUENCES, LENGTH, WIDTH = 120, 3, 10, 16
CHUNK_BYTES = 7 * 4 * VOCABULARY
"""The logits of seven targets: 30 are no multiple of it."""


def make_network(model_type: str) -> Any:
    kind: Any = CONFIG_MAPPING[model_type]
    configuration = kind(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=32,
        head_dim=8,
        d_kv=8,
        d_ff=32,
        pad_token_id=0,
    )
    objectives = {"bert": Objective.MASKED, "t5": Objective.SPAN_CORRUPTION}
    model = create_model(configuration, objectives.get(model_type, Objective.CAUSAL), seed=0)
    for parameter in model.parameters():  # biases begin at zero, which would hide them
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def make_batch(model_type: str, *, is_partial: bool) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids, targets = torch.randint(1, VOCABULARY, (2, SEQUENCES, LENGTH), generator=generator)
    if is_partial:
        targets[torch.rand(targets.shape, generator=generator) < 0.6] = NOT_A_TARGET
    inputs: dict[str, Any] = {"input_ids": ids}
    if model_type == "t5":
        inputs["decoder_input_ids"] = ids
    return Batch(inputs=inputs, targets=targets)


def read_gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


@pytest.mark.parametrize("is_partial", [False, True], ids=["all", "some"])
@pytest.mark.parametrize("model_type", sorted(ENDING_IN_LOGITS))
def test_loss_and_gradients_are_the_plain_ones(model_type: str, is_partial: bool) -> None:
    model, batch = make_network(model_type), make_batch(model_type, is_partial=is_partial)
    places = batch.locate_targets() if is_partial else None
    for smoothing in (0.0, 0.1):
        plain = compute_token_losses(model, batch, smoothing).sum()
        (plain * 0.37).backward()
        expected = read_gradients(model)
        assert find_output_layer(model) is not None
        loss = compute_loss_sum(
            model, batch, logits_bytes=CHUNK_BYTES, places=places, label_smoothing=smoothing
        )
        (loss * 0.37).backward()
        torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0.0)
        gradients = read_gradients(model)
        assert gradients.keys() == expected.keys()
        joined, expected_joined = (
            torch.cat([each[name].flatten() for name in expected]) for each in (gradients, expected)
        )
        assert (joined - expected_joined).norm() <= 1e-6 * expected_joined.norm()


@pytest.mark.parametrize("model_type", ["gpt2", "llmtrain_lstm"])
def test_evaluations_get_the_plain_losses_and_guesses(model_type: str) -> None:
    model, batch = make_network(model_type), make_batch(model_type, is_partial=True)
    losses, best = judge_batch(model, batch, logits_bytes=CHUNK_BYTES)
    logits = compute_logits(model, batch)
    torch.testing.assert_close(losses, compute_losses(logits, batch).detach())
    is_target = batch.targets != NOT_A_TARGET
    assert torch.equal(best[is_target], logits.argmax(dim=2)[is_target])
    assert torch.equal(compute_logits(model, batch), logits)  # the output layer is back


def test_a_network_that_caps_its_logits_keeps_them() -> None:
    model, batch = make_network("gemma2"), make_batch("gemma2", is_partial=True)
    loss = compute_loss_sum(model, batch, logits_bytes=CHUNK_BYTES, places=batch.locate_targets())
    torch.testing.assert_close(loss, compute_token_losses(model, batch).sum())


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made meanwhile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.numel = max(self.numel, made.numel())
        return made


def test_there_is_no_tensor_of_all_logits() -> None:
    states = torch.randn(500, WIDTH, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    targets = torch.arange(500) % VOCABULARY
    with LargestTensor() as largest:
        sum_losses(states, weight, None, targets, chunk_rows=64).backward()
        judge_targets(states, weight, None, targets, chunk_rows=64)
    assert largest.numel == max(states.numel(), 64 * VOCABULARY)


def test_bfloat16_products_are_as_near_as_those_of_autocast() -> None:
    """Losses and softmax stay fp32, and so does the sum of the weight's gradient over chunks."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(300, 32, generator=generator, requires_grad=True)
    weight = torch.randn(200, 32, generator=generator, requires_grad=True)
    targets = torch.randint(200, (300,), generator=generator)
    inputs = (states, weight)
    exact = nn.functional.cross_entropy(states @ weight.T, targets, reduction="sum")
    exact_gradients = torch.autograd.grad(exact, inputs)

    with torch.autocast("cpu", torch.bfloat16):
        logits = nn.functional.linear(states, weight).float()
        ours = sum_losses(states, weight, None, targets, chunk_rows=64)
    plain = nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=0.0)
    for gradient, of_autocast, right in zip(
        torch.autograd.grad(ours, inputs),
        torch.autograd.grad(plain, inputs),
        exact_gradients,
        strict=True,
    ):
        assert gradient.dtype is torch.float32
        assert (gradient - right).norm() <= 1.05 * (of_autocast - right).norm()
