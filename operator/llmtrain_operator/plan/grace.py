"""How long a worker is given to save and leave, from what a save was measured to take.

Below: the contract's `CheckpointStatus`. Above: `render.pods` writes it into each new pod, for the
kubelet and for the agent. Pods that exist keep theirs: a kubelet fixes it when a pod starts.
"""

from __future__ import annotations

import math

from llmtrain_api.status import CheckpointStatus

STEP_SECONDS = 30
"""To finish the step, have the other ranks hear of it, and say so afterwards."""

SAVES = 3
"""Saves that must fit in: one that is still on its way, the last one, and one more, since a store
may be slower when a whole node is drained."""

MIN_GRACE_SECONDS = 120
"""However fast saves are, and as long as none was measured."""

MAX_GRACE_SECONDS = 1800
"""However slow they are: who drains a node waits for it."""


def compute_grace_seconds(checkpoint: CheckpointStatus | None) -> int:
    """Return the seconds between SIGTERM and SIGKILL for a pod that is made now."""
    save_seconds = checkpoint.save_seconds if checkpoint is not None else None
    needed = math.ceil(STEP_SECONDS + SAVES * (save_seconds or 0.0))
    return min(max(needed, MIN_GRACE_SECONDS), MAX_GRACE_SECONDS)
