"""What server and pydantic refuse, each by the field's path and what is allowed."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from llmtrain_api import LLMTrainingJob
from testbed.control_plane import ControlPlane, KubectlError
from testbed.fault_log import FaultWatch
from testbed.refusal import Refusal
from testbed.refused_combinations import COMBINATIONS
from testbed.refused_fields import FIELDS
from testbed.smallest_job import DRY_RUN, SMALLEST, change, create

REFUSALS = FIELDS | COMBINATIONS


@pytest.mark.fault(23, world="apiserver")
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_the_server_refuses_with_path_and_range(
    server: ControlPlane, namespace: str, refusal: Refusal, fault: FaultWatch
) -> None:
    with pytest.raises(KubectlError) as caught:
        create(server, namespace, change(SMALLEST, **refusal.changes), DRY_RUN)
    fault.said(str(caught.value), refusal.field, refusal.server_says)


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_pydantic_refuses_with_path_and_range(refusal: Refusal) -> None:
    with pytest.raises(ValidationError) as caught:
        LLMTrainingJob.model_validate(change(SMALLEST, **refusal.changes))
    said = re.sub(r"\.([0-9]+)\b", r"[\1]", str(caught.value))
    assert refusal.field in said
    assert (refusal.pydantic_says or refusal.server_says) in said
