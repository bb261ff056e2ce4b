"""What a person sees of a local run: a live picture on a terminal, lines in a pipe.

Below: rich. Above: `run` shows a snapshot after every pass. Both views are handed the same facts,
and neither looks anything up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmtrain_api import LLMTrainingJob, ProgressRecord
from llmtrain_api.records import RankPhase, Stage
from llmtrain_api.status import Phase, Progress
from llmtrain_operator.plan.progress import count_process_restarts, describe_progress
from llmtrain_operator.plan.stages import PHASE_OF_STAGE, STAGES
from llmtrain_operator.plan.types import Event, EventKind

LINE_SECONDS = 10.0
"""At most one line of progress in a pipe in this time."""

TOLD_PHASES = (RankPhase.EVALUATING, RankPhase.CHECKPOINTING)
"""What training waits for; the seconds of this round are shown,"""
MIN_TOLD_SECONDS = 1.0
"""from so many on."""

GIBIBYTE = 1 << 30
MAX_BAR_CHARACTERS = 40
MIN_BAR_CHARACTERS = 10
INDENT = "  "
GAP = "   "
MARKS = {"done": ("✓", "green"), "now": ("●", "cyan"), "later": ("○", "dim")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run at one moment."""

    name: str
    moment: datetime
    stage: Stage | None
    """The stage that is under way; None once all are done."""
    activity: str
    """What worker 0 does beyond training steps, as restoring; empty: nothing worth a word."""
    progress: Progress | None
    details: Sequence[str]
    """More of what worker 0 just said of its steps, in words."""
    restarts: int
    """Processes that were replaced, and ranks that were started anew within theirs."""
    checkpoint_step: int | None
    message: str


class View(Protocol):
    """Shows a run while it lasts."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the screen as it was found, with what was said on it."""

    def tell(self, event: Event) -> None:
        """Say what happened."""

    def show(self, snapshot: Snapshot) -> None:
        """Show how far the run is."""


def open_view(console: Console, now: datetime) -> View:
    """Return the view that suits where the output goes."""
    return LiveView(console, now) if console.is_terminal else PlainView(console)


def take_snapshot(job: LLMTrainingJob, record: ProgressRecord | None, now: datetime) -> Snapshot:
    """Put together what there is to see, from the status and from what worker 0 just said."""
    status = job.status
    progress = status.progress
    activity, restarts, checkpoint = "", status.process_restarts, status.checkpoint
    details: list[str] = []
    if record is not None and record.stage is status.stage and status.phase is not Phase.SUCCEEDED:
        progress = describe_progress(job.spec, progress, record, now)
        activity = _describe_activity(record)
        details = _list_details(record)
        if record.stage is Stage.TRAIN:
            restarts += count_process_restarts(status.progress, record)
    return Snapshot(
        name=job.metadata.name,
        moment=now,
        stage=None if status.phase is Phase.SUCCEEDED else status.stage or Stage.PREPARE,
        activity=activity,
        progress=progress,
        details=details,
        restarts=status.restarts + restarts,
        checkpoint_step=checkpoint.step if checkpoint is not None else None,
        message=status.message if status.phase in PHASE_OF_STAGE.values() else "",
    )


def format_seconds(seconds: float) -> str:
    """Write a duration as 7 s, 1:05 or 2:00:09."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


class PlainView:
    """Lines that end up in a file or another program."""

    def __init__(self, console: Console) -> None:
        """Write to a console that is no terminal."""
        self._console = console
        self._last_line: datetime | None = None
        self._last_step = -1
        self._last_message = ""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is left to do: every line is out."""

    def tell(self, event: Event) -> None:
        """Say what happened, on a line of its own."""
        self._print(_describe_event(event))

    def show(self, snapshot: Snapshot) -> None:
        """Say how far training is, from time to time."""
        if snapshot.message and snapshot.message != self._last_message:
            self._print(snapshot.message)
        self._last_message = snapshot.message
        progress = snapshot.progress
        if progress is None or progress.step == self._last_step:
            return
        is_last = progress.step == progress.total_steps
        age = (snapshot.moment - self._last_line).total_seconds() if self._last_line else None
        if age is None or age >= LINE_SECONDS or is_last:
            self._last_line, self._last_step = snapshot.moment, progress.step
            count = f"step {progress.step}/{progress.total_steps} ({progress.percent} %)"
            self._print(", ".join([count, *_describe_numbers(snapshot)]))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """A picture at the bottom of a terminal that is drawn anew with each snapshot."""

    def __init__(self, console: Console, now: datetime) -> None:
        """Draw on a terminal."""
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._began = now
        self._stage_began = now
        self._stage: Stage | None = None
        self._seconds: dict[Stage, float] = {}

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the picture away; what was told stays."""
        self._live.stop()

    def tell(self, event: Event) -> None:
        """Say what happened, above the picture."""
        style = "yellow" if event.kind is EventKind.WARNING else "dim"
        self._console.print(Text(_describe_event(event), style=style))

    def show(self, snapshot: Snapshot) -> None:
        """Draw the picture anew."""
        if snapshot.stage is not self._stage:
            if self._stage is not None:
                elapsed = snapshot.moment - self._stage_began
                self._seconds[self._stage] = elapsed.total_seconds()
                self._stage_began = snapshot.moment
            self._stage = snapshot.stage
        self._live.update(self._draw(snapshot), refresh=True)

    def _draw(self, snapshot: Snapshot) -> RenderableType:
        width = self._console.width
        elapsed = (snapshot.moment - self._began).total_seconds()
        head = Text.assemble((snapshot.name, "bold"), f"  {format_seconds(elapsed)}")
        rows: list[RenderableType] = [head, *lay_out(self._describe_stages(snapshot), width)]
        progress = snapshot.progress
        if progress is not None:
            rows.append(_draw_bar(progress, width))
            rows += lay_out([Text(number) for number in _describe_numbers(snapshot)], width)
        if snapshot.message:
            rows.append(Padding(Text(snapshot.message, style="yellow"), (0, 0, 0, len(INDENT))))
        return Group(*rows)

    def _describe_stages(self, snapshot: Snapshot) -> list[Text]:
        texts = []
        current = len(STAGES) if snapshot.stage is None else STAGES.index(snapshot.stage)
        for position, stage in enumerate(STAGES):
            state = "done" if position < current else "now" if position == current else "later"
            mark, style = MARKS[state]
            words = [mark, stage.value]
            if state == "now":
                spent = (snapshot.moment - self._stage_began).total_seconds()
                words += [format_seconds(spent), snapshot.activity]
            elif stage in self._seconds:
                words.append(format_seconds(self._seconds[stage]))
            texts.append(Text(" ".join(filter(None, words)), style=style))
        return texts


def lay_out(items: Sequence[Text], width: int) -> list[Text]:
    """Put items side by side, on as many lines as they need; none is broken."""
    lines: list[Text] = []
    for item in items:
        if lines and lines[-1].cell_len + len(GAP) + item.cell_len <= width:
            lines[-1].append(GAP).append_text(item)
        else:
            lines.append(Text(INDENT).append_text(item))
    return lines


def _draw_bar(progress: Progress, width: int) -> RenderableType:
    count = f"{progress.step:,}/{progress.total_steps:,} steps  {progress.percent} %"
    room = width - 2 * len(INDENT) - len(count)
    if room < MIN_BAR_CHARACTERS:
        return Text(INDENT + count)
    bar = ProgressBar(
        total=progress.total_steps,
        completed=progress.step,
        width=min(MAX_BAR_CHARACTERS, room),
        complete_style="cyan",
        finished_style="green",
    )
    grid = Table.grid(padding=(0, len(INDENT), 0, 0))
    grid.add_row(Padding(bar, (0, 0, 0, len(INDENT))), count)
    return grid


def _describe_numbers(snapshot: Snapshot) -> list[str]:
    progress = snapshot.progress
    assert progress is not None
    numbers = []
    if progress.loss is not None:
        numbers.append(f"loss {progress.loss:.3f}")
    if progress.validation_loss is not None:
        numbers.append(f"held-out loss {progress.validation_loss:.3f}")
    if progress.tokens_per_second is not None:
        numbers.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.utilization_percent is not None:
        numbers.append(f"MFU {progress.utilization_percent} %")
    numbers += snapshot.details
    if progress.remaining_seconds:
        numbers.append(f"{format_seconds(progress.remaining_seconds)} left")
    if snapshot.checkpoint_step is not None:
        numbers.append(f"checkpoint {snapshot.checkpoint_step}")
    if snapshot.restarts:
        numbers.append(f"{snapshot.restarts} restart{'s' if snapshot.restarts > 1 else ''}")
    return numbers


def _list_details(record: ProgressRecord) -> list[str]:
    details = []
    if record.learning_rate is not None:
        details.append(f"learning rate {record.learning_rate:.2g}")
    if record.gradient_norm is not None:
        details.append(f"gradient norm {record.gradient_norm:.2f}")
    if record.data_share is not None:
        details.append(f"data {record.data_share:.1%}".replace("%", " %"))
    if record.device_memory_bytes is not None:
        details.append(f"{record.device_memory_bytes / GIBIBYTE:.1f} GiB of GPU memory")
    for phase in TOLD_PHASES:
        seconds = record.phase_seconds.get(phase, 0.0)
        if seconds >= MIN_TOLD_SECONDS:
            details.append(f"{phase} {format_seconds(seconds)}")
    return details


def _describe_activity(record: ProgressRecord) -> str:
    phase = next((rank.phase for rank in record.ranks if rank.rank == 0), RankPhase.STARTING)
    return "" if phase is RankPhase.TRAINING else phase.value


def _describe_event(event: Event) -> str:
    return f"{event.reason}: {event.message}"
