"""The optimizers against torch's own, and what each of them updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from llmtrain_api.network import Architecture, ModelSpec
from llmtrain_api.optimizer import OptimizerKind, OptimizerSpec
from llmtrain_api.training import TrainingSpec
from llmtrain_operator.forecast.optimizer import count_optimizer_numbers
from llmtrain_operator.forecast.size import compute_size
from llmtrain_trainer.model.network import build_model
from llmtrain_trainer.training.loss_scale import FIRST_SCALE, GROWTH_STEPS, LossScale
from llmtrain_trainer.training.optim import Optimizer, find_hidden_matrices

RATE, DECAY, STEPS = 0.01, 0.3, 5


def make_adamw(layer: nn.Linear, spec: OptimizerSpec) -> list[torch.optim.Optimizer]:
    groups = [
        {"params": [layer.weight], "weight_decay": DECAY},
        {"params": [layer.bias], "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW(groups, lr=RATE, betas=(spec.beta1, spec.beta2), fused=True)]


def make_muon(layer: nn.Linear, spec: OptimizerSpec) -> list[torch.optim.Optimizer]:
    muon = torch.optim.Muon(
        [layer.weight], lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"
    )
    betas = (spec.beta1, spec.beta2)
    return [muon, torch.optim.AdamW([layer.bias], lr=RATE, betas=betas, weight_decay=0.0)]


def make_adafactor(layer: nn.Linear, spec: OptimizerSpec) -> list[torch.optim.Optimizer]:
    groups = [
        {"params": [layer.weight], "weight_decay": DECAY},
        {"params": [layer.bias], "weight_decay": 0.0},
    ]
    return [torch.optim.Adafactor(groups, lr=RATE, foreach=False)]


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize(
    ("kind", "make_theirs"),
    [("adamw", make_adamw), ("muon", make_muon), ("adafactor", make_adafactor)],
)
def test_updates_are_those_of_torch(
    kind: str, make_theirs: Callable[[nn.Linear, OptimizerSpec], Any], clip: float
) -> None:
    spec = OptimizerSpec(kind=OptimizerKind(kind), weight_decay=DECAY, gradient_clip_norm=clip)
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    # torch's Muon has no other products than bfloat16.
    optimizer = Optimizer(
        ours.named_parameters(), spec, hidden_matrices={"weight"}, products=torch.bfloat16
    )
    references = make_theirs(theirs, spec)
    for step in range(STEPS):
        inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(step))
        for model in (ours, theirs):
            model.zero_grad()
            model(inputs).square().sum().backward()
        norm = optimizer.compute_gradient_norm()
        optimizer.step(RATE, norm)
        reference_norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip or float("inf"))
        for reference in references:
            reference.step()
        assert norm.item() == pytest.approx(reference_norm.item())
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def build(architecture: Architecture) -> tuple[ModelSpec, nn.Module]:
    heads = None if architecture is Architecture.LSTM else 2
    spec = ModelSpec(architecture=architecture, layers=2, heads=heads, hidden_size=64)
    built = build_model(
        spec, vocabulary_size=300, sequence_length=32, end_of_text=0, padding=0, seed=0
    )
    return spec, built


MATRICES_OF_A_BLOCK = {
    Architecture.GPT2: 4,
    Architecture.LLAMA: 7,
    Architecture.BERT: 6,
    Architecture.LSTM: 2,
    Architecture.T5: 7 + 11,
}


@pytest.mark.parametrize("architecture", Architecture)
def test_muon_is_for_the_matrices_of_blocks(architecture: Architecture) -> None:
    _, model = build(architecture)
    hidden = find_hidden_matrices(model)
    assert len(hidden) == 2 * MATRICES_OF_A_BLOCK[architecture]
    assert not [name for name in hidden if "emb" in name or "bias" in name or "norm" in name]


@pytest.mark.parametrize("kind", OptimizerKind)
@pytest.mark.parametrize("architecture", Architecture)
def test_the_state_is_as_large_as_the_plan_says(
    architecture: Architecture, kind: OptimizerKind
) -> None:
    spec, model = build(architecture)
    training = TrainingSpec(steps=1, sequence_length=32, optimizer=OptimizerSpec(kind=kind))
    optimizer = Optimizer(
        model.named_parameters(), training.optimizer, hidden_matrices=find_hidden_matrices(model)
    )
    kept = sum(
        t.numel() for name, t in optimizer.named_state().items() if not name.startswith("weight.")
    )
    size = compute_size(spec, vocabulary_size=300, sequence_length=32)
    expected = count_optimizer_numbers(training, spec.resolve(), size, size.parameters)
    assert expected == pytest.approx(kept, rel=0.05)


def test_gradients_beyond_float16_change_nothing_and_lower_the_scale() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    optimizer = Optimizer(layer.named_parameters(), OptimizerSpec(), products=torch.float16)
    before = {name: tensor.clone() for name, tensor in optimizer.named_state().items()}
    layer.weight.grad = torch.full_like(layer.weight, math.inf)
    assert not optimizer.step(RATE, optimizer.compute_gradient_norm())
    after = optimizer.named_state()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["loss_scale"]
    assert optimizer.skipped == 1

    plain = nn.Linear(5, 3)
    plain.load_state_dict(layer.state_dict())
    reference = Optimizer(plain.named_parameters(), OptimizerSpec())
    optimizer.set_step(1)  # as after a resume: the step that was left out does not count
    for model, each in ((layer, optimizer), (plain, reference)):
        each.clear_gradients()
        each.scale_loss(model(torch.ones(2, 5)).square().sum()).backward()
        assert each.step(RATE, each.compute_gradient_norm())
    torch.testing.assert_close(layer.weight, plain.weight)


def test_the_loss_scale_follows_the_gradients() -> None:
    scale = LossScale(torch.device("cpu"))
    fine, infinite = torch.tensor(1.0), torch.tensor(math.inf)
    assert not scale.hear(infinite)
    assert scale.scale == FIRST_SCALE / 2
    assert all(scale.hear(fine) for _ in range(GROWTH_STEPS))
    assert scale.scale == FIRST_SCALE
    while scale.scale > 1.0:
        assert not scale.hear(infinite)
    assert scale.hear(infinite)  # no scale helps: it is to be told as a divergence
    assert scale.skipped == 1 + math.log2(FIRST_SCALE)
