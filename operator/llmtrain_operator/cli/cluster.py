"""Which cluster the command line talks to, and what to say where it does not answer.

Below: `kubernetes` reads kubeconfig files, `kube` sends requests. Above: `submit`, and the
checks of `doctor`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import aiohttp
import yaml
from kubernetes.aio import config
from kubernetes.aio.config import ConfigException

from llmtrain_operator.world.kube import ApiError, KubeClient, open_client

DEFAULT_KUBECONFIG = Path("~/.kube/config")
ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DEFAULT_NAMESPACE = "default"

CONNECT_SECONDS = 10.0
"""An apiserver that says nothing for so long is not there."""
NUM_REQUESTS = 4
"""At a time; a command has few to make."""


class ClusterError(Exception):
    """The cluster cannot be talked to; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The cluster that is meant, as kubectl would mean it."""

    name: str
    namespace: str
    """Where an object goes that names no namespace."""


def find_context() -> Context | None:
    """Return the current context of the kubeconfig, or the pod's own cluster; None: neither.

    Raises:
        ClusterError: the kubeconfig is not one, or has no current context.
    """
    named = os.environ.get("KUBECONFIG")
    if named is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        return Context(name="this pod's cluster", namespace=_read_account_namespace())
    paths = named or str(DEFAULT_KUBECONFIG.expanduser())
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        return None
    try:
        _, current = config.list_kube_config_contexts(config_file=paths)
        namespace = current["context"].get("namespace") or DEFAULT_NAMESPACE
        return Context(name=current["name"], namespace=namespace)
    # The library takes the file as it comes, so each mistake in it has an exception of its own.
    except (AttributeError, ConfigException, KeyError, OSError, TypeError, yaml.YAMLError) as error:
        raise ClusterError(
            f"{paths} cannot be used as a kubeconfig: {error}; try `kubectl config view`"
        ) from error


def require_context() -> Context:
    """Return the cluster that is meant.

    Raises:
        ClusterError: there is none.
    """
    context = find_context()
    if context is None:
        where = os.environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
        raise ClusterError(
            f"no kubeconfig at {where}: name one in KUBECONFIG, or run the job on this machine "
            "with `llmtrain run`"
        )
    return context


@asynccontextmanager
async def connect() -> AsyncIterator[KubeClient]:
    """Connect to the cluster that `find_context` found.

    Raises:
        ClusterError: it cannot be connected to, or it fell silent.
    """
    try:
        async with open_client(requests=NUM_REQUESTS) as client:
            yield client
    except BrokenPipeError:  # whoever read our output has left; the cluster is well
        raise
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        said = str(error) or f"no answer within {CONNECT_SECONDS:g} s"
        raise ClusterError(
            f"the apiserver does not answer: {said}; check the cluster, the VPN, and "
            "`kubectl cluster-info`"
        ) from error
    except ConfigException as error:
        raise ClusterError(f"the kubeconfig cannot be used: {error}") from error


async def read_version(client: KubeClient) -> str:
    """Return the apiserver's version, as v1.36.3: the first question, so it must answer soon.

    Raises:
        TimeoutError: it does not.
        ApiError: it answers, but not to us.
    """
    async with asyncio.timeout(CONNECT_SECONDS):
        answer = await client.get("/version")
    return str(answer["gitVersion"])


def explain_refusal(error: ApiError) -> str:
    """Say what the apiserver refused, in its own words, and what to do about it."""
    if error.status == HTTPStatus.UNAUTHORIZED:
        return "the apiserver does not know you (401): log in again, as for kubectl"
    return f"{error.message} ({error.status} {error.reason})"


def _read_account_namespace() -> str:
    try:
        return ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        return DEFAULT_NAMESPACE
