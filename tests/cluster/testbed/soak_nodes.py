"""The soak's real nodes: pods of the project's images, and the kubelets and the store under them.

Below: `cluster`, `installation` (the chart), `containers`. Above: `soak`. Many runs share a
cluster; each has a namespace of its own.
"""

from __future__ import annotations

import io
import random
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmtrain_api import JobStatus, ProgressRecord
from llmtrain_api.records import Stage
from llmtrain_api.status import Phase
from testbed.cluster import Cluster
from testbed.containers import kill_main_process, kill_process, list_ranks
from testbed.images import list_project_images
from testbed.installation import Installation, restrict_namespace
from testbed.minio import MinioServer
from testbed.operators import Jobs
from testbed.processes import wait_until
from testbed.requirements import find_repository
from testbed.run_digest import digest_run
from testbed.small_job import BUCKET, CORPUS_KEY, describe_small_job, write_corpus
from testbed.soak import END_SECONDS, JOB, Kind
from testbed.workers import AGENT_COMMAND, Workers

SECRET = "store"
RESTART_LIMIT = 1000
MAX_OUTAGE_SECONDS = 5.0
RESOURCES = {"cpu": "500m", "memory": "2Gi"}
"""Both workers and the operator fit on one node."""


class SoakNodes:
    """One job on two nodes that stand already, with the chart installed."""

    name = "nodes"

    def __init__(self, cluster: Cluster, installation: Installation, minio: MinioServer) -> None:
        self._cluster = cluster
        self._installation = installation
        self._minio = minio
        self._jobs = Jobs(cluster.control_plane, f"soak-{secrets.token_hex(4)}")
        self._workers = Workers(self._jobs, JOB)

    def list_kinds(self) -> Mapping[str, Kind]:
        """Return what can be killed."""
        kinds = (
            Kind(name="rank", weight=35, kill=self._kill_rank),
            Kind(name="agent", weight=10, kill=self._kill_agent),
            Kind(name="pod", weight=10, kill=self._delete_pod),
            Kind(name="operator", weight=15, kill=self._kill_operator),
            Kind(name="minio", weight=10, kill=self._kill_store),
            Kind(name="kubelet", weight=20, kill=self._kill_kubelet),
        )
        return {kind.name: kind for kind in kinds}

    def begin(self, steps: int) -> None:
        """Put the corpus and the credentials in place, and start the job."""
        server, namespace = self._jobs.server, self._jobs.namespace
        server.apply(restrict_namespace(namespace))
        client, text = self._minio.connect(), write_corpus()
        client.put_object(BUCKET, CORPUS_KEY, io.BytesIO(text), len(text))
        keys = {"accessKey": self._minio.access_key, "secretKey": self._minio.secret_key}
        server.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": SECRET, "namespace": namespace},
                "stringData": keys,
            }
        )
        spec = describe_small_job(
            steps=steps,
            runPolicy={"restartLimit": RESTART_LIMIT},
            storage={"endpoint": self._minio.endpoint, "credentialsSecret": SECRET},
            workers={"resources": RESOURCES},
        )
        self._jobs.apply(JOB, **spec)

    def ask(self) -> ProgressRecord | None:
        """Return what worker 0 of the training stage says; None where it does not answer."""
        progress = self._workers.ask(0)
        return progress if progress is not None and progress.stage is Stage.TRAIN else None

    def read_status(self) -> JobStatus:
        """Return the job's status."""
        return self._jobs.read(JOB).status

    def await_end(self) -> JobStatus:
        """Wait until the job has succeeded; return its status."""
        ended = (Phase.SUCCEEDED, Phase.FAILED)
        wait_until(
            lambda: self.read_status().phase in ended,
            seconds=END_SECONDS,
            what="the job to end",
            poll_seconds=1.0,
        )
        status = self.read_status()
        assert status.phase is Phase.SUCCEEDED, self._workers.explain()
        return status

    def digest(self) -> str:
        """Return a digest of the run's losses and weights."""
        return digest_run(self._minio, BUCKET, self.read_status())

    def close(self) -> None:
        """Take the namespace and its pods away."""
        self._jobs.server.kubectl("delete", "namespace", self._jobs.namespace)

    def _kill_rank(self, rng: random.Random) -> Sequence[str]:
        kill_process(list_ranks(self._workers.find_newest(rng.randrange(2)))[-1])
        return ()

    def _kill_agent(self, rng: random.Random) -> Sequence[str]:
        pod = self._workers.find_newest(rng.randrange(2))
        return (pod["metadata"]["name"],) if kill_main_process(pod, AGENT_COMMAND) else ()

    def _delete_pod(self, rng: random.Random) -> Sequence[str]:
        name = self._workers.find_newest(rng.randrange(2))["metadata"]["name"]
        self._jobs.server.kubectl("-n", self._jobs.namespace, "delete", "pod", name, "--wait=false")
        return (name,)

    def _kill_operator(self, rng: random.Random) -> Sequence[str]:
        self._installation.kill_operator()
        return ()

    def _kill_store(self, rng: random.Random) -> Sequence[str]:
        self._minio.kill()
        time.sleep(rng.uniform(0, MAX_OUTAGE_SECONDS))
        self._minio.start()
        return ()

    def _kill_kubelet(self, rng: random.Random) -> Sequence[str]:
        rng.choice(self._cluster.nodes).kill_kubelet()
        return ()


@contextmanager
def offer_nodes(directory: Path) -> Iterator[tuple[Cluster, Installation, MinioServer]]:
    """Give two nodes with the project's images and chart, and a store that their pods reach."""
    cluster = Cluster(list_project_images(find_repository()))
    minio = MinioServer(directory / "minio", address=cluster.host_address)
    installation = Installation(cluster)
    try:
        cluster.start()
        minio.start()
        minio.create_bucket(BUCKET)
        installation.install()
        yield cluster, installation, minio
    finally:
        minio.kill()
        cluster.stop()
