"""Jobs and processes for tables: what a test does not care about has a plain value."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from llmtrain_api import LLMTrainingJob
from testbed.jobs import make_job

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def job() -> LLMTrainingJob:
    """A job of two workers that nobody has looked at yet."""
    return make_job("tiny", replicas=2)


@pytest.fixture
def now() -> datetime:
    """Noon of a day."""
    return NOON
