"""A real Prometheus that scrapes what a test tells it to.

Debian's program, on this machine; it reaches pods by the machine's route to them (`network`).
"""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from testbed.processes import ServerProcess, find_free_port

START_SECONDS = 30
SCRAPE_SECONDS = 1


def write_pod_targets(path: Path, pods: Sequence[dict[str, Any]], *, port_name: str) -> None:
    """Write the file of `scrape_file`: each pod that has an address and a port of that name.

    Debian builds Prometheus without its Kubernetes discovery, so a test lists the pods itself,
    and again after they changed. Each series carries the labels ``namespace`` and ``pod``.
    """
    groups = [
        {
            "targets": [f"{pod['status']['podIP']}:{port['containerPort']}"],
            "labels": {
                "namespace": pod["metadata"]["namespace"],
                "pod": pod["metadata"]["name"],
            },
        }
        for pod in pods
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
        if port.get("name") == port_name and pod["status"].get("podIP")
    ]
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(groups))
    partial.replace(path)


def scrape_file(path: Path, *, job: str) -> dict[str, Any]:
    """A scrape configuration of the targets in ``path`` (JSON), which may change at any time.

    Labels of a series stay as the target gives them, as by the chart's PodMonitor: ``job`` is an
    LLMTrainingJob where the target says so, else this scrape's name.
    """
    return {
        "job_name": job,
        "honor_labels": True,
        "file_sd_configs": [{"files": [str(path)]}],
    }


def scrape_addresses(*targets: str, job: str) -> dict[str, Any]:
    """A scrape configuration of fixed ``host:port`` targets."""
    return {"job_name": job, "static_configs": [{"targets": list(targets)}]}


class Prometheus:
    """A Prometheus with its data under ``directory``, on a free port of the loopback address."""

    def __init__(self, directory: Path, scrape_configurations: Sequence[dict[str, Any]]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        port = find_free_port()
        self.url = f"http://127.0.0.1:{port}"
        configuration = directory / "prometheus.yaml"
        configuration.write_text(
            yaml.safe_dump(
                {
                    "global": {
                        "scrape_interval": f"{SCRAPE_SECONDS}s",
                        "scrape_timeout": f"{SCRAPE_SECONDS}s",
                    },
                    "scrape_configs": list(scrape_configurations),
                }
            )
        )
        self._server = ServerProcess(
            "prometheus",
            [
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            log=directory / "prometheus.log",
        )

    def start(self) -> None:
        """Start it, and return when it answers queries."""
        self._server.start()
        self._server.wait_ready(self._is_ready, seconds=START_SECONDS)

    def stop(self) -> None:
        """Stop it."""
        self._server.stop()

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The instant vector of ``promql``: one ``{"metric": labels, "value": [time, text]}`` each.

        Raises:
            urllib.error.HTTPError: Prometheus refused the query.
        """
        parameters = urllib.parse.urlencode({"query": promql})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=10) as answer:
            series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return series

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
