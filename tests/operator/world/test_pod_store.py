"""What is known of pods, whatever comes first: the watch, or the answer to our own request."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrain_api import LLMTrainingJob
from llmtrain_api.records import Stage
from llmtrain_operator.plan.types import Process, ProcessState
from llmtrain_operator.render.pods import render_pod
from llmtrain_operator.world.pod_store import PodStore
from testbed.jobs import make_job


@pytest.fixture
def job() -> LLMTrainingJob:
    job = make_job("tiny")
    workers = job.spec.workers.model_copy(update={"image": "trainer:test"})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"workers": workers})})


def store_pod(job: LLMTrainingJob, *, version: int, uid: str = "first") -> dict[str, Any]:
    """Return the pod of the first worker as an apiserver would answer."""
    process = Process(job="tiny", stage=Stage.TRAIN, index=0, incarnation=0)
    pod = render_pod(job, process, pull_policy="Never")
    pod["metadata"] |= {
        "uid": uid,
        "resourceVersion": str(version),
        "creationTimestamp": "2026-11-24T12:00:00Z",
    }
    return pod


def list_states(store: PodStore, job: LLMTrainingJob) -> list[ProcessState]:
    return [process.state for process in store.list_of(job.metadata.uid)]


def test_an_answer_that_comes_after_the_pod_went_brings_it_not_back(job: LLMTrainingJob) -> None:
    store = PodStore(lambda key: None)
    store.note(store_pod(job, version=5))
    store.note_gone(store_pod(job, version=7))
    store.note(store_pod(job, version=5))
    assert list_states(store, job) == [ProcessState.FAILED]


def test_a_pod_that_came_and_went_before_the_answer_is_gone(job: LLMTrainingJob) -> None:
    store = PodStore(lambda key: None)
    store.note_gone(store_pod(job, version=7))
    store.note(store_pod(job, version=5))
    assert ProcessState.WAITING not in list_states(store, job)


def test_another_pod_of_the_name_is_another_pod(job: LLMTrainingJob) -> None:
    store = PodStore(lambda key: None)
    store.note(store_pod(job, version=5))
    store.dismiss(job.metadata.uid, "tiny-train-0-0")
    store.note_gone(store_pod(job, version=7))
    store.note(store_pod(job, version=9, uid="second"))
    store.note_gone(store_pod(job, version=8))
    assert list_states(store, job) == [ProcessState.WAITING]


def test_a_list_tells_what_went_unseen_and_nothing_of_what_is_younger(job: LLMTrainingJob) -> None:
    store = PodStore(lambda key: None)
    store.note(store_pod(job, version=5))
    store.replace_all([], version=4, namespace="")
    assert list_states(store, job) == [ProcessState.WAITING]
    store.replace_all([], version=6, namespace="other")
    assert list_states(store, job) == [ProcessState.WAITING]
    store.replace_all([], version=6, namespace="")
    assert list_states(store, job) == [ProcessState.FAILED]


def test_a_job_that_is_forgotten_leaves_nothing(job: LLMTrainingJob) -> None:
    store = PodStore(lambda key: None)
    store.note(store_pod(job, version=5))
    store.forget_job(job.metadata.uid)
    store.note_gone(store_pod(job, version=7))
    assert list_states(store, job) == []
