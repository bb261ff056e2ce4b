"""What a loss is multiplied by, so that its gradients are within what float16 can tell from 0.

Below: torch. Above: `optim`, which divides gradients by it and leaves a step out where they are not
finite.

After Micikevicius et al. 2018 (Mixed Precision Training, arXiv:1710.03740, section 3.2), with the
numbers of `torch.amp.GradScaler`. That one looks at the gradients of one rank, and steps
optimizers of torch's own; here the norm over all ranks says it, so that all do alike.
"""

from __future__ import annotations

import torch

FIRST_SCALE = 2.0**16
LEAST_SCALE = 1.0
"""Below it gradients are too large by themselves: no step is left out any more."""

GROWTH = 2.0
GROWTH_STEPS = 2000
"""Steps in a row with finite gradients, after which the scale grows."""


class LossScale:
    """A loss scale that follows the gradients."""

    def __init__(self, device: torch.device) -> None:
        """Begin with the largest scale that is usual."""
        numbers = [FIRST_SCALE, 0.0, 0.0]
        self._state = torch.tensor(numbers, dtype=torch.float64, device=device)

    @property
    def state(self) -> torch.Tensor:
        """The scale, steps since it last changed, and steps that were left out, float64 [3]; live.

        It is part of a checkpoint.
        """
        return self._state

    @property
    def scale(self) -> torch.Tensor:
        """What the loss is multiplied by now, float32 []."""
        return self._state[0].float()

    @property
    def skipped(self) -> int:
        """Steps that were left out since the run began."""
        return int(self._state[2])

    def hear(self, gradient_norm: torch.Tensor) -> bool:
        """Take in the norm of a step's gradients; return whether the step is to be done.

        It waits for the device. All ranks come to the same: the norm is one number.
        """
        scale, steps, skipped = self._state.tolist()
        is_finite = bool(torch.isfinite(gradient_norm))
        if is_finite:
            steps += 1
            if steps == GROWTH_STEPS:
                scale, steps = scale * GROWTH, 0
        elif scale > LEAST_SCALE:
            scale, steps, skipped = scale / GROWTH, 0, skipped + 1
        else:
            return True  # what follows is a run that diverges, and is told as one
        self._state.copy_(torch.tensor([scale, steps, skipped], dtype=torch.float64))
        return is_finite
