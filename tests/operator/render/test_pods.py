"""Rendered pods: what they say, and that a real apiserver takes them under `restricted`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.evaluation import EvaluationSpec
from llmtrain_api.records import Stage
from llmtrain_api.run import RunConfig
from llmtrain_api.status import CheckpointStatus
from llmtrain_operator.plan.types import Process
from llmtrain_operator.render.avoidance import read_avoided_nodes
from llmtrain_operator.render.config import render_config
from llmtrain_operator.render.pods import render_pod
from llmtrain_operator.render.services import render_service
from llmtrain_operator.world.pod_facts import read_pod
from llmtrain_trainer.__main__ import parse_arguments
from testbed.control_plane import ControlPlane

AVOIDED = ("gpu-1", "gpu-2")


def make_job(namespace: str = "default", **workers: Any) -> LLMTrainingJob:
    return LLMTrainingJob.model_validate(
        {
            "metadata": {"name": "tiny", "namespace": namespace, "uid": "0123456789ab"},
            "spec": {
                "data": {"sources": [{"uri": "s3://corpus/books/"}]},
                "training": {"steps": 100},
                "workers": {"image": "trainer:1", **workers},
                "storage": {
                    "uri": "s3://models/tiny",
                    "credentialsSecret": "store",
                    "caConfigMap": "store-ca",
                },
            },
        }
    )


def name_trainer(index: int = 1, stage: Stage = Stage.TRAIN) -> Process:
    return Process(job="tiny", stage=stage, index=index, incarnation=2)


def test_the_name_changes_with_the_incarnation_and_the_host_name_does_not() -> None:
    pod = render_pod(make_job(replicas=2), name_trainer(), pull_policy="Never")
    assert pod["metadata"]["name"] == "tiny-train-1-2"
    assert pod["spec"]["hostname"] == "tiny-train-1"
    service = render_service(make_job(), Stage.TRAIN)
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_workers_of_an_evaluation_find_each_other_where_there_are_several() -> None:
    alone = make_job(replicas=2)
    spec = alone.spec.model_copy(update={"evaluation": EvaluationSpec(workers=2)})
    told = []
    for job in (alone, alone.model_copy(update={"spec": spec})):
        pod = render_pod(job, name_trainer(stage=Stage.EVALUATE), pull_policy="Never")
        config = RunConfig.model_validate_json(render_config(job)["data"]["run.json"])
        leader = config.rendezvous.find_leader(Stage.EVALUATE)
        told.append((pod["spec"].get("subdomain"), config.count_workers(Stage.EVALUATE), leader))
    assert told[0] == (None, 1, "tiny-train-0.tiny-train")
    assert told[1] == ("tiny-evaluate", 2, "tiny-evaluate-0.tiny-evaluate")


def test_the_agent_takes_its_arguments_and_leaves_its_record_where_the_kubelet_looks() -> None:
    pod = render_pod(make_job(), name_trainer(), pull_policy="Never")["spec"]
    told = parse_arguments(pod["containers"][0]["args"])
    assert (told.stage, told.index, told.incarnation) == (Stage.TRAIN, 1, 2)
    # Kubernetes' default for terminationMessagePath.
    assert str(told.termination_log) == "/dev/termination-log"
    assert told.grace_seconds < pod["terminationGracePeriodSeconds"]


def test_a_pod_of_a_run_that_may_be_resized_is_told_of_how_many_it_is_one() -> None:
    for workers in (None, 3):
        process = replace(name_trainer(), workers=workers)
        pod = render_pod(make_job(), process, pull_policy="Never")
        assert parse_arguments(pod["spec"]["containers"][0]["args"]).workers == workers
        seen = read_pod(
            pod
            | {
                "metadata": pod["metadata"]
                | {
                    "uid": "1",
                    "resourceVersion": "1",
                    "creationTimestamp": "2026-11-24T12:00:00Z",
                }
            }
        )
        assert seen is not None
        assert seen.observed.process.workers == workers


def test_the_grace_follows_what_a_save_takes() -> None:
    status = JobStatus(checkpoint=CheckpointStatus(save_seconds=200.0))
    job = make_job().model_copy(update={"status": status})
    pod = render_pod(job, name_trainer(), pull_policy="Never")["spec"]
    assert pod["terminationGracePeriodSeconds"] == 630
    assert parse_arguments(pod["containers"][0]["args"]).grace_seconds == 620


def test_only_stages_that_train_get_gpus() -> None:
    job = make_job(resources={"gpu": 2})
    limits = {
        stage: render_pod(job, name_trainer(0, stage), pull_policy="Never")["spec"]["containers"][
            0
        ]["resources"]["limits"].get("nvidia.com/gpu")
        for stage in Stage
    }
    assert limits == {Stage.PREPARE: None, Stage.TRAIN: "2", Stage.EVALUATE: "2"}


def test_a_pod_tells_which_nodes_it_keeps_away_from() -> None:
    for avoided in ((), AVOIDED):
        pod = render_pod(make_job(), name_trainer(), pull_policy="Never", avoided_nodes=avoided)
        assert read_avoided_nodes(pod["spec"]) == set(avoided)
        assert ("affinity" in pod["spec"]) is bool(avoided)


def test_the_apiserver_takes_every_field_under_the_restricted_standard(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.kubectl(
        "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    job = make_job(
        namespace,
        replicas=4,
        nodeSelector={"pool": "gpu"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
    )
    for kind, manifest in (
        (
            "pods",
            render_pod(job, name_trainer(), pull_policy="IfNotPresent", avoided_nodes=AVOIDED),
        ),
        ("services", render_service(job, Stage.TRAIN)),
    ):
        answer = control_plane.kubectl(
            "create", "--raw",
            f"/api/v1/namespaces/{namespace}/{kind}?dryRun=All&fieldValidation=Strict",
            "-f", "-",
            input=json.dumps(manifest),
        )  # fmt: skip
        assert json.loads(answer)["metadata"]["name"] == manifest["metadata"]["name"]
