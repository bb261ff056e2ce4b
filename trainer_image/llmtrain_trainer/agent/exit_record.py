"""The exit record: what the pod leaves behind for the operator to read.

Below: the contract's `ExitRecord`. Above: `supervision` ends with one, `__main__` writes it to the
termination log, which the kubelet carries into the pod's status.
"""

from __future__ import annotations

from pathlib import Path

from llmtrain_api.records import (
    MAX_EXIT_RECORD_BYTES,
    MAX_MESSAGE_CHARACTERS,
    ExitCode,
    ExitRecord,
    StageResult,
)
from llmtrain_trainer.failures import StageError

MAX_REASON_CHARACTERS = 64
MAX_NEXT_STEP_CHARACTERS = 300
ELLIPSIS = "…"
SHORTEST_MESSAGE_CHARACTERS = 40

SPARED = ("checkpoints", "suites")
"""Fields of a result that give way where a record is too long, in this order."""


def describe_success(result: StageResult, *, checkpoint_step: int | None = None) -> ExitRecord:
    """Return the record of a stage that is done."""
    return ExitRecord(
        code=ExitCode.SUCCEEDED,
        reason="Succeeded",
        message="the stage is done",
        step=result.step,
        checkpoint_step=checkpoint_step,
        result=result,
    )


def describe_failure(
    error: StageError,
    *,
    rank: int | None = None,
    step: int | None = None,
    checkpoint_step: int | None = None,
) -> ExitRecord:
    """Return the record of a stage that ended by `error`, its texts cut to what fits."""
    return ExitRecord(
        code=error.code,
        reason=error.reason[:MAX_REASON_CHARACTERS],
        message=cut_text(error.message, MAX_MESSAGE_CHARACTERS),
        next_step=cut_text(error.next_step, MAX_NEXT_STEP_CHARACTERS),
        rank=rank,
        step=step,
        checkpoint_step=checkpoint_step,
    )


def cut_text(text: str, max_characters: int) -> str:
    """Return the text, its end replaced by an ellipsis where it is too long."""
    if len(text) <= max_characters:
        return text
    return text[: max_characters - len(ELLIPSIS)] + ELLIPSIS


def encode_exit_record(record: ExitRecord) -> bytes:
    """Return the record as JSON of at most 4,096 bytes.

    What the report has, too, gives way where it must: checkpoints, then metrics of suites; and
    after them the message.
    """
    while True:
        encoded = record.model_dump_json(by_alias=True, exclude_none=True).encode()
        if len(encoded) <= MAX_EXIT_RECORD_BYTES:
            return encoded
        given = [name for name in SPARED if getattr(record.result, name, None) is not None]
        if record.result is not None and given:
            result = record.result.model_copy(update={given[0]: None})
            record = record.model_copy(update={"result": result})
            continue
        # Characters that JSON escapes take six bytes: cut the message before the next step.
        longest = "message"
        if len(record.message) <= SHORTEST_MESSAGE_CHARACTERS:
            longest = "next_step"
        text = getattr(record, longest)
        record = record.model_copy(update={longest: cut_text(text, max(1, len(text) * 3 // 4))})


def write_exit_record(record: ExitRecord, path: Path) -> None:
    """Write the record in place: the termination log is a mount and cannot be renamed over."""
    path.write_bytes(encode_exit_record(record))
