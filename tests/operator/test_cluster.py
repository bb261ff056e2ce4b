"""The operator as a process on a real control plane; the tests play user and kubelet."""

from __future__ import annotations

from llmtrain_api import RunConfig
from llmtrain_api.status import ConditionType, Phase
from testbed.operators import Jobs, Operator


def test_a_job_gets_its_pods_its_service_and_its_configuration(
    jobs: Jobs, operator: Operator
) -> None:
    jobs.apply(workers={"replicas": 2})
    uid = jobs.read().metadata.uid
    jobs.await_pods("tiny-prepare-0-0")
    jobs.finish_prepare()
    pods = jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0", "tiny-train-1-0")

    config = RunConfig.model_validate_json(jobs.get("configmap", "tiny-run")["data"]["run.json"])
    assert (config.name, config.uid, config.replicas) == ("tiny", uid, 2)
    service = jobs.get("service", "tiny-train")
    assert config.rendezvous.leader_host == "tiny-train-0.tiny-train"
    assert service["spec"]["clusterIP"] == "None"
    children = [*pods.values(), service, jobs.get("configmap", "tiny-run")]
    for child in children:
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("LLMTrainingJob", uid, True)
    for pod in pods.values():
        assert pod["spec"]["containers"][0]["image"] == "trainer:test"

    job = jobs.await_job(lambda j: j.status.phase is Phase.TRAINING, "training to be said")
    assert job.status.results is not None
    assert job.status.results.dataset == "f1"
    assert {c.type for c in job.status.conditions} == set(ConditionType)
    reasons = {event["reason"] for event in jobs.get("events")["items"]}
    assert "StageStarted" in reasons


def test_a_failed_pod_is_replaced_and_counted_once(jobs: Jobs, operator: Operator) -> None:
    jobs.apply()
    jobs.await_pods("tiny-prepare-0-0")
    jobs.end_pod(
        "tiny-prepare-0-0", 22, reason="StorageUnreachable", message="no route to the store"
    )
    jobs.await_pods("tiny-prepare-0-0", "tiny-prepare-0-1")
    job = jobs.await_job(lambda j: bool(j.status.attempts), "the attempt to be listed")
    (attempt,) = job.status.attempts
    assert (attempt.index, attempt.incarnation, attempt.reason) == (0, 0, "StorageUnreachable")
    assert "no route to the store" in attempt.message
    assert job.status.restarts == 1


def test_a_failure_that_would_repeat_itself_ends_the_job(jobs: Jobs, operator: Operator) -> None:
    jobs.apply()
    jobs.await_pods("tiny-prepare-0-0")
    jobs.end_pod(
        "tiny-prepare-0-0", 21, reason="DatasetInvalid", message="books.jsonl:812 is no JSON"
    )
    job = jobs.await_job(lambda j: j.status.phase is Phase.FAILED, "the job to fail")
    assert "books.jsonl:812 is no JSON" in job.status.message


def test_every_stage_follows_the_one_before(jobs: Jobs, operator: Operator) -> None:
    jobs.apply()
    jobs.finish_prepare()
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0")
    jobs.end_pod("tiny-train-0-0", 0, reason="Completed", message="", result={"step": 100})
    jobs.await_pods("tiny-prepare-0-0", "tiny-train-0-0", "tiny-evaluate-0-0")
    jobs.end_pod("tiny-evaluate-0-0", 0, reason="Completed", message="", result={"perplexity": 3})
    job = jobs.await_job(lambda j: j.status.phase is Phase.SUCCEEDED, "success")
    assert job.status.results is not None
    results = job.status.results
    assert (results.dataset, results.step, results.perplexity) == ("f1", 100, 3)
