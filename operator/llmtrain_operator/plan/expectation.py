"""What a job is expected to take, for its status: the forecast, by what the operator knows.

Below: `forecast`. Above: `status`. It is computed when a job is first seen, and again once its data
is prepared, and both travel with statuses that are written anyway.
"""

from __future__ import annotations

from llmtrain_api import JobSpec
from llmtrain_api.devices import find_selected_device
from llmtrain_api.planned import PlanStatus
from llmtrain_api.records import StageResult
from llmtrain_operator.forecast.outlook import (
    Means,
    count_epochs,
    count_tokens,
    forecast_job,
    warn_of_epochs,
)

EPOCH_DECIMALS = 2


def expect_job(spec: JobSpec, before: PlanStatus | None, results: StageResult | None) -> PlanStatus:
    """Return what the status says already, or what it is to say from now on."""
    data_tokens = results.train_tokens if results is not None else None
    if before is not None and data_tokens in (None, before.data_tokens):
        return before
    epochs = count_epochs(spec, data_tokens)
    known = PlanStatus(
        tokens=count_tokens(spec, data_tokens),
        data_tokens=data_tokens,
        epochs=None if epochs is None else round(epochs, EPOCH_DECIMALS),
        warnings=warn_of_epochs(epochs),
    )
    if spec.model.pretrained is not None:
        return known
    means = Means(
        device=find_selected_device(spec.workers.node_selector),
        vocabulary_size=results.vocabulary_size if results is not None else None,
        data_tokens=data_tokens,
    )
    outlook = forecast_job(spec, means)
    return known.model_copy(
        update={
            "parameters": outlook.size.parameters,
            "trained_parameters": outlook.trained_parameters,
            "memory_bytes": outlook.memory.peak,
            "memory_limit_bytes": outlook.memory_limit,
            "flops": outlook.flops,
            "training_seconds": None if outlook.seconds is None else round(outlook.seconds),
            "warnings": list(outlook.warnings),
        }
    )
