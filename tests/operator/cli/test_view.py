"""What people see of a run: lines in a pipe, and a picture that fits its terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from llmtrain_api import JobStatus, ProgressRecord
from llmtrain_api.records import RankPhase, RankProgress, Stage
from llmtrain_api.status import CheckpointStatus, Phase, Progress
from llmtrain_operator.cli.view import (
    LiveView,
    PlainView,
    Snapshot,
    format_seconds,
    lay_out,
    open_view,
    take_snapshot,
)
from llmtrain_operator.plan.types import Event, EventKind
from testbed.jobs import make_job

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
LATE = Progress(
    step=123_400,
    total_steps=1_000_000,
    percent=12,
    loss=3.25,
    validation_loss=3.5,
    tokens_per_second=123_456.0,
    remaining_seconds=36_000,
)


def make_snapshot(*, after_seconds: float = 0, **facts: Any) -> Snapshot:
    plain: dict[str, Any] = {
        "name": "tiny",
        "moment": NOON + timedelta(seconds=after_seconds),
        "stage": Stage.TRAIN,
        "activity": "",
        "progress": None,
        "details": [],
        "restarts": 0,
        "checkpoint_step": None,
        "message": "",
    }
    return Snapshot(**(plain | facts))


def at_step(step: int) -> Progress:
    return Progress(step=step, total_steps=100, percent=step, loss=2.5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (65, "1:05"), (7209, "2:00:09")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (80, ["  loss 3   1 s left   checkpoint 2"]),
        (33, ["  loss 3   1 s left", "  checkpoint 2"]),
        (5, ["  loss 3", "  1 s left", "  checkpoint 2"]),
    ],
)
def test_items_are_laid_out_whole(width: int, lines: list[str]) -> None:
    items = [Text("loss 3"), Text("1 s left"), Text("checkpoint 2")]
    assert [line.plain for line in lay_out(items, width)] == lines


def test_lines_in_a_pipe_come_from_time_to_time_and_at_the_end() -> None:
    file = io.StringIO()
    console = Console(file=file, width=40)
    with open_view(console, NOON) as view:
        assert isinstance(view, PlainView)
        view.tell(Event(kind=EventKind.NORMAL, reason="Began", message="a [b] " + "c" * 60))
        for seconds, step in ((0, 1), (5, 2), (9, 3), (10, 4), (12, 5), (13, 100)):
            view.show(make_snapshot(after_seconds=seconds, progress=at_step(step)))
    assert file.getvalue().splitlines() == [
        f"Began: a [b] {'c' * 60}",
        "step 1/100 (1 %), loss 2.500",
        "step 4/100 (4 %), loss 2.500",
        "step 100/100 (100 %), loss 2.500",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_picture_fits_its_terminal(width: int) -> None:
    file = io.StringIO()
    console = Console(file=file, width=width, height=30, force_terminal=True, color_system=None)
    facts = {"progress": LATE, "restarts": 2, "checkpoint_step": 123_000, "activity": "restoring"}
    with LiveView(console, NOON) as view:
        view.show(make_snapshot(stage=Stage.PREPARE))
        view.show(make_snapshot(after_seconds=5, **facts, message="1 of 2 workers starts"))
        picture = file.getvalue()
    lines = Text.from_ansi(picture[picture.rindex("tiny") :]).plain.splitlines()
    assert max(map(len, lines)) <= width
    whole = "\n".join(lines)
    for words in (
        "✓ prepare 5 s", "● train 0 s restoring", "○ evaluate", "123,400/1,000,000 steps  12 %",
        "loss 3.250", "held-out loss 3.500", "123,456 tokens/s", "10:00:00 left",
        "checkpoint 123000", "2 restarts",
    ):  # fmt: skip
        assert words in whole


def test_worker_0_knows_more_than_the_status() -> None:
    status = JobStatus(
        phase=Phase.TRAINING,
        stage=Stage.TRAIN,
        restarts=1,
        checkpoint=CheckpointStatus(step=20),
        progress=at_step(20),
    )
    record = ProgressRecord(
        stage=Stage.TRAIN,
        index=0,
        incarnation=0,
        round=3,
        step=25,
        loss=2.0,
        learning_rate=3e-4,
        gradient_norm=1.25,
        utilization=0.414,
        data_share=0.002,
        phase_seconds={"evaluating": 75.0, "checkpointing": 0.2},
        ranks=[RankProgress(rank=0, phase=RankPhase.CHECKPOINTING, heartbeat=0.0)],
        now=0.0,
    )
    snapshot = take_snapshot(make_job("tiny", status=status), record, NOON)
    assert snapshot.progress is not None
    assert (snapshot.progress.step, snapshot.progress.loss) == (25, 2.0)
    assert snapshot.progress.utilization_percent == 41
    assert snapshot.details == [
        "learning rate 0.0003",
        "gradient norm 1.25",
        "data 0.2 %",
        "evaluating 1:15",
    ]
    assert (snapshot.activity, snapshot.restarts, snapshot.checkpoint_step) == (
        "checkpointing",
        3,
        20,
    )


@pytest.mark.parametrize(
    ("phase", "stage", "shown"),
    [
        (None, None, Stage.PREPARE),
        (Phase.EVALUATING, Stage.EVALUATE, Stage.EVALUATE),
        (Phase.SUCCEEDED, Stage.EVALUATE, None),
    ],
)
def test_the_stage_is_the_one_under_way(
    phase: Phase | None, stage: Stage | None, shown: Stage | None
) -> None:
    status = JobStatus(phase=phase, stage=stage, message="said")
    snapshot = take_snapshot(make_job("tiny", status=status), None, NOON)
    assert snapshot.stage is shown
    assert snapshot.message == ("said" if phase is Phase.EVALUATING else "")
