from __future__ import annotations

import pytest

from llmtrain_operator.settings import Settings, read_settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read_settings({"PATH": "/bin", "LLMTRAIN_WORKERS": ""}) == Settings()


def test_every_setting_is_read_from_the_environment() -> None:
    settings = read_settings(
        {
            "LLMTRAIN_NAMESPACE": "system",
            "LLMTRAIN_POD_NAME": "operator-1",
            "LLMTRAIN_LEASE_NAME": "lease",
            "LLMTRAIN_WATCH_NAMESPACES": "team-a, team-b,",
            "LLMTRAIN_TRAINER_IMAGE": "trainer:2",
            "LLMTRAIN_TRAINER_IMAGE_PULL_POLICY": "Never",
            "LLMTRAIN_WORKERS": "3",
            "LLMTRAIN_REQUESTS": "5",
            "LLMTRAIN_RESYNC_SECONDS": "60.5",
            "LLMTRAIN_PROGRESS_SECONDS": "2",
            "LLMTRAIN_METRICS_PORT": "0",
            "LLMTRAIN_HEALTH_PORT": "1",
            "LLMTRAIN_LOG_LEVEL": "debug",
            "LLMTRAIN_LOG_FORMAT": "json",
        }
    )
    assert settings == Settings(
        namespace="system",
        pod_name="operator-1",
        lease_name="lease",
        watch_namespaces=("team-a", "team-b"),
        trainer_image="trainer:2",
        trainer_image_pull_policy="Never",
        workers=3,
        requests=5,
        resync_seconds=60.5,
        progress_seconds=2.0,
        metrics_port=0,
        health_port=1,
        log_level="debug",
        log_format="json",
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LLMTRAIN_WORKERS", "0", "a number, 1 or more"),
        ("LLMTRAIN_WORKERS", "many", "a number, 1 or more"),
        ("LLMTRAIN_RESYNC_SECONDS", "nan", "a number, 1 or more"),
        ("LLMTRAIN_LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("LLMTRAIN_TRAINER_IMAGE_PULL_POLICY", "always", "one of Always, IfNotPresent, Never"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{name}='{value}': must be {allowed}"):
        read_settings({name: value})
