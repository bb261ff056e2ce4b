"""What a job is expected to take, as its status says it."""

from __future__ import annotations

from datetime import datetime

from llmtrain_api import JobSpec, LLMTrainingJob
from llmtrain_api.records import Stage, StageResult
from llmtrain_operator.cli.inspect import describe_plan
from llmtrain_operator.plan import plan_job
from llmtrain_operator.plan.expectation import expect_job
from llmtrain_operator.plan.types import Observed, ProcessState
from llmtrain_operator.plan.writes import is_worth_writing
from testbed.jobs import observe_process, record_success


def describe(**model: object) -> JobSpec:
    return JobSpec.model_validate(
        {
            "data": {
                "sources": [{"uri": "s3://corpus/a.txt"}],
                "tokenizer": {"vocabularySize": 300},
            },
            "model": {"layers": 2, "heads": 2, "hiddenSize": 64, **model},
            "training": {"steps": 1000, "batchSize": 8, "sequenceLength": 100},
            "storage": {"uri": "s3://models/first"},
        }
    )


def test_it_is_said_at_first_and_once_more_when_the_data_is_known() -> None:
    spec = describe()
    first = expect_job(spec, None, None)
    assert (first.tokens, first.epochs, first.training_seconds) == (800_000, None, None)
    assert (
        first.parameters
        == first.trained_parameters
        == 2 * (12 * 64**2 + 13 * 64) + 2 * 64 + 64 * (300 + 100)
    )
    assert first.memory_limit_bytes is not None
    assert ["tokens for each parameter" in warning for warning in first.warnings] == [True]
    assert expect_job(spec, first, None) is first

    results = StageResult(train_tokens=100_000, vocabulary_size=300)
    second = expect_job(spec, first, results)
    assert second.epochs == 8
    assert "8.0 times" in second.warnings[1]
    assert expect_job(spec, second, results) is second
    assert describe_plan(second).endswith("8 epochs, 11 MiB of 2.7 GiB for each rank")


def test_of_a_model_that_is_not_read_only_tokens_are_known() -> None:
    spec = describe(layers=None, heads=None, hiddenSize=None, **{"from": "s3://models/gpt2"})
    plan = expect_job(spec, None, StageResult(train_tokens=400_000))
    assert (plan.tokens, plan.epochs, plan.parameters) == (800_000, 2, None)
    assert plan.warnings == []


def test_it_costs_no_write_of_its_own(job: LLMTrainingJob, now: datetime) -> None:
    job = job.model_copy(update={"status": plan_job(job, Observed(), now).status})
    assert job.status.plan is not None
    again = plan_job(job, Observed(), now).status
    assert not is_worth_writing(job.status, again, now)
    done = record_success(dataset="abc", train_tokens=5000)
    prepared = observe_process(
        "tiny", Stage.PREPARE, 0, 0, ProcessState.SUCCEEDED, exit_record=done
    )
    status = plan_job(job, Observed(processes=(prepared,)), now).status
    assert status.stage is Stage.TRAIN  # what is written for anyway
    assert status.plan is not None
    assert status.plan.data_tokens == 5000
