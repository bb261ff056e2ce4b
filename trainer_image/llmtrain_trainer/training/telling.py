"""What is said of a step: to the agent at once, and in the curve for good.

Below: `step`, `speedometer`, `stragglers`, `curve`. Above: `train`, once for each step.
"""

from __future__ import annotations

import time

import torch

from llmtrain_trainer.training.curve import note_step
from llmtrain_trainer.training.run import TrainingRun
from llmtrain_trainer.training.speedometer import Pace
from llmtrain_trainer.training.step import Agreed, StepNumbers


def tell_step(run: TrainingRun, numbers: StepNumbers, agreed: Agreed, pace: Pace | None) -> None:
    """Tell of a step that all ranks have done; `pace` is None until it is known."""
    facts: dict[str, float | bool | str] = {
        "loss": agreed.loss,
        "learning_rate": numbers.learning_rate,
        "step_tokens": agreed.tokens,
    }
    point = {
        "step": numbers.step,
        "loss": agreed.loss,
        "learningRate": numbers.learning_rate,
        "time": time.time(),
    }
    if run.optimizer.skipped is not None:
        facts["overflows"] = run.optimizer.skipped
    if not numbers.was_skipped:
        facts["gradient_norm"] = point["gradientNorm"] = agreed.gradient_norm
    if pace is not None:
        facts |= {"tokens_per_second": pace.tokens_per_second, "data_share": pace.data_share}
        point |= {"tokensPerSecond": pace.tokens_per_second, "dataShare": pace.data_share}
        if pace.utilization is not None:
            facts["utilization"] = point["utilization"] = pace.utilization
    if run.ranks.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(run.ranks.device)
        facts["device_memory_bytes"] = point["deviceMemoryBytes"] = peak
    note_step(run.curve, point, total_steps=run.total_steps)

    spread = run.stragglers.hear(agreed.own_seconds)
    if spread is not None:
        facts["straggler_ratio"] = spread.ratios[run.ranks.group.rank]
        facts["straggler"] = spread.message
        facts["straggler_rank"] = spread.straggler or 0
    run.reporter.report(step=numbers.step, **facts)
