"""A GPT and its loop as one would write them by hand: the ideas of nanoGPT, in plain torch.

Learned positions, norms before each part, matrices without biases, exact GELU, tied embeddings,
fused attention; random batches from one array of tokens; torch's AdamW, which is fused on GPUs,
and clipping. See github.com/karpathy/nanoGPT, whose loop this stands for in benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

INITIAL_DEVIATION = 0.02
LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP_NORM = 1e-3, (0.9, 0.95), 0.1, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GptShape:
    """The shape of a network."""

    layers: int
    heads: int
    hidden_size: int
    context: int
    vocabulary_size: int


class Attention(nn.Module):
    """Attention to the tokens before."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.read = nn.Linear(shape.hidden_size, 3 * shape.hidden_size, bias=False)
        self.write = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, width = x.shape
        query, key, value = (
            part.view(n, t, self.heads, width // self.heads).transpose(1, 2)
            for part in self.read(x).split(width, dim=2)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        written: torch.Tensor = self.write(mixed.transpose(1, 2).contiguous().view(n, t, width))
        return written


class Block(nn.Module):
    """One layer."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.norm_1, self.norm_2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attention = Attention(shape)
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm_1(x))
        added: torch.Tensor = x + self.narrow(functional.gelu(self.widen(self.norm_2(x))))
        return added


class Gpt(nn.Module):
    """A decoder of GPT-2's shape."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary_size, shape.hidden_size)
        self.places = nn.Embedding(shape.context, shape.hidden_size)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.hidden_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                # What is added to the residual stream begins smaller, as in GPT-2.
                is_added = name.endswith(("write.weight", "narrow.weight"))
                scale = (2 * shape.layers) ** -0.5 if is_added else 1.0
                nn.init.normal_(parameter, std=INITIAL_DEVIATION * scale)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of tokens [n, t]."""
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def train_gpt(
    model: nn.Module,
    tokens: NDArray[np.uint16],
    *,
    steps: int,
    batch_size: int,
    context: int,
    on_step: Callable[[int], None],
    dtype: torch.dtype = torch.float32,
    schedule: Callable[[int], float] = lambda step: LEARNING_RATE,
) -> None:
    """Train on random places of a text; `on_step` hears of each step that was done.

    Args:
        model: gives the mean loss of (ids, targets); of several ranks each has its own.
        tokens: of the training text [count].
        steps: optimizer steps.
        batch_size: sequences of a step.
        context: tokens of a sequence.
        on_step: is called after each step with its number, counted from 1.
        dtype: of products; bfloat16 by autocast.
        schedule: the learning rate of each step.
    """
    device = next(model.parameters()).device
    is_gpu = device.type == "cuda"
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=BETAS,
        fused=is_gpu,
    )
    random = np.random.default_rng(0)
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        ids, targets = draw_batch(tokens, random, batch_size, context, device)
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            loss = model(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(step)


def draw_batch(
    tokens: NDArray[np.uint16],
    random: np.random.Generator,
    batch_size: int,
    context: int,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and targets [batch_size, context] from random places of a text."""
    starts = random.integers(len(tokens) - context - 1, size=batch_size)
    rows = np.stack([tokens[start : start + context + 1].astype(np.int64) for start in starts])
    batch = torch.from_numpy(rows)
    if device.type == "cuda":
        batch = batch.pin_memory().to(device, non_blocking=True)
    return batch[:, :-1], batch[:, 1:]
