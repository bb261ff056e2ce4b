"""Tasks of preparation killed in each phase: pods of two nodes, a real operator and store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from llmtrain_api.status import Phase
from testbed.agent_world import AgentWorld
from testbed.divided_data import (
    NUM_FILES,
    NUM_TASKS,
    describe_data,
    prepare_undisturbed,
    read_digests,
    write_files,
)
from testbed.small_job import BUCKET

STEPS = 100_000
"""More than the test waits for."""


def test_tasks_killed_in_each_phase_make_the_same_dataset(
    world: AgentWorld, tmp_path: Path
) -> None:
    def says(pod: str, words: str) -> bool:
        found = world.jobs.list_pods().get(pod)
        has_begun = found is not None and found["status"]["phase"] != "Pending"
        return has_begun and words in world.nodes.read_log(pod)

    def kill_when(pod: str, words: str) -> None:
        world.await_condition(lambda: says(pod, words), f"{pod} to say {words}")
        world.nodes.kill_agent(pod)

    data = describe_data(BUCKET)
    write_files(world.minio, BUCKET)
    world.apply(steps=STEPS, data={**data, "tasks": NUM_TASKS})
    kill_when("tiny-prepare-1-0", "begins read/")
    kill_when("tiny-prepare-0-0", "begins with the tokenizer")
    nodes = {pod["spec"].get("nodeName") for pod in world.jobs.list_pods().values()} - {None}
    assert nodes == set(world.nodes.names)
    kill_when("tiny-prepare-2-0", "begins tokens/")
    job = world.await_job(lambda j: j.status.phase is Phase.TRAINING, "training to begin")
    assert {(a.index, a.incarnation) for a in job.status.attempts} == {(0, 0), (1, 0), (2, 0)}

    # Pods that came too late to do anything have been deleted; their logs are there.
    logs = [path.read_text() for path in (tmp_path / "pods").glob("tiny-prepare-*/log")]
    lines = "\n".join(logs).splitlines()
    units = Counter(line.partition(" did ")[2] for line in lines if " did " in line)
    assert set(units.values()) == {1}
    # A task may be killed when it has put a record and not yet said so.
    assert sum(name.startswith("read/") for name in units) in (NUM_FILES - 1, NUM_FILES)
    assert sum(name.startswith("tokens/") for name in units) > 2

    uri = f"s3://{BUCKET}/reference"
    fingerprint, storage = prepare_undisturbed(world.minio, tmp_path, data, uri)
    assert job.status.results is not None
    assert job.status.results.dataset == fingerprint
    disturbed = read_digests(job.spec.storage.uri, fingerprint, storage)
    assert disturbed == read_digests(uri, fingerprint, storage)
