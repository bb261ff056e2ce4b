"""What the operator is told when it starts: environment variables `LLMTRAIN_*`, read once.

Nothing below. Above: `__main__`, which hands each part its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, with its default. The field `log_level` is `LLMTRAIN_LOG_LEVEL`."""

    namespace: str = "default"
    """The operator's own namespace, where its Lease lies."""

    pod_name: str = "llmtrain-operator"
    """Name of this replica: who holds the Lease. No two replicas may have the same."""

    lease_name: str = "llmtrain-operator"
    """Lease that the working replica holds."""

    watch_namespaces: tuple[str, ...] = ()
    """Namespaces whose jobs are looked after, with commas between them; empty: all."""

    trainer_image: str = "llmtrain-trainer:latest"
    """What worker pods run where a job names no image."""

    trainer_image_pull_policy: str = "IfNotPresent"
    """Always, IfNotPresent or Never, for worker pods."""

    workers: int = 32
    """Jobs that are reconciled at the same time."""

    requests: int = 32
    """Requests to the apiserver at the same time, watches aside."""

    resync_seconds: float = 600.0
    """Every job is looked at anew after this time, even if nothing happened."""

    progress_seconds: float = 10.0
    """Worker 0 of a running job is asked for its progress so often, where few jobs run."""

    metrics_port: int = 9402
    """Port of /metrics; 0: none."""

    health_port: int = 9401
    """Port of /healthz; 0: none."""

    log_level: str = "info"
    """debug, info, warning or error."""

    log_format: str = "text"
    """text or json."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings from environment variables; what is absent or empty has its default.

    Raises:
        ValueError: a variable's value is not allowed; the message names it and what is.
    """
    given = {
        name.removeprefix("LLMTRAIN_").lower(): value
        for name, value in environment.items()
        if name.startswith("LLMTRAIN_") and value
    }
    default = Settings()
    return Settings(
        namespace=given.get("namespace", default.namespace),
        pod_name=given.get("pod_name", default.pod_name),
        lease_name=given.get("lease_name", default.lease_name),
        watch_namespaces=tuple(
            name.strip() for name in given.get("watch_namespaces", "").split(",") if name.strip()
        ),
        trainer_image=given.get("trainer_image", default.trainer_image),
        trainer_image_pull_policy=_choose(
            given, "trainer_image_pull_policy", PULL_POLICIES, default.trainer_image_pull_policy
        ),
        workers=int(_read_number(given, "workers", default.workers, least=1)),
        requests=int(_read_number(given, "requests", default.requests, least=1)),
        resync_seconds=_read_number(given, "resync_seconds", default.resync_seconds, least=1),
        progress_seconds=_read_number(given, "progress_seconds", default.progress_seconds, least=1),
        metrics_port=int(_read_number(given, "metrics_port", default.metrics_port, least=0)),
        health_port=int(_read_number(given, "health_port", default.health_port, least=0)),
        log_level=_choose(given, "log_level", LOG_LEVELS, default.log_level),
        log_format=_choose(given, "log_format", LOG_FORMATS, default.log_format),
    )


def _choose(given: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = given.get(name, default)
    if value not in allowed:
        raise ValueError(f"LLMTRAIN_{name.upper()}={value!r}: must be one of {', '.join(allowed)}")
    return value


def _read_number(given: Mapping[str, str], name: str, default: float, *, least: float) -> float:
    value = given.get(name, str(default))
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not number >= least:
        raise ValueError(f"LLMTRAIN_{name.upper()}={value!r}: must be a number, {least:g} or more")
    return number
