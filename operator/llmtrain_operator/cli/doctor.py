"""`llmtrain doctor`: what this machine lacks for local runs, and a cluster for jobs in it.

Below: `machine_checks`, `cluster_checks`. Above: the command line.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from llmtrain_operator.cli.findings import Finding, Verdict, lacks_something, print_findings
from llmtrain_operator.cli.machine import OPERATOR_MODULES, are_installed, require_packages
from llmtrain_operator.cli.machine_checks import check_machine


def examine_machine(store: Path, namespace: str | None) -> int:
    """Say what this machine lacks, and the cluster, where there is one; exit code 1: not ready.

    A local run needs no cluster, so what is missing there is a warning here.
    """
    console = Console()
    findings = check_machine(store)
    print_findings("this machine", findings, console)
    if are_installed(OPERATOR_MODULES) and (cluster := _examine(namespace)) is not None:
        print_findings("the cluster (`llmtrain run` needs none)", _soften(cluster), console)
    return int(lacks_something(findings))


def examine_cluster(namespace: str | None) -> int:
    """Say what the cluster lacks; exit code 1: something required.

    Raises:
        click.ClickException: there is nothing to ask it with.
    """
    require_packages(OPERATOR_MODULES, extra="operator")
    findings = _examine(namespace) or [
        Finding(
            subject="kubeconfig",
            verdict=Verdict.MISSING,
            said="there is none",
            advice="Name one in KUBECONFIG, or put it at ~/.kube/config.",
        )
    ]
    print_findings("the cluster", findings, Console())
    return int(lacks_something(findings))


def _examine(namespace: str | None) -> list[Finding] | None:
    """Look at the cluster; None where there is no kubeconfig."""
    from llmtrain_operator.cli.cluster import ClusterError, find_context
    from llmtrain_operator.cli.cluster_checks import check_cluster

    try:
        context = find_context()
    except ClusterError as error:
        return [Finding(subject="kubeconfig", verdict=Verdict.MISSING, said=str(error))]
    if context is None:
        return None
    return asyncio.run(check_cluster(context, namespace or context.namespace))


def _soften(findings: list[Finding]) -> list[Finding]:
    return [
        replace(finding, verdict=Verdict.WARNING) if finding.verdict is Verdict.MISSING else finding
        for finding in findings
    ]
