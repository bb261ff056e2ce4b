"""Failures that have a name, a message and a next step.

Below: the exit codes of the contract. Above: every stage raises these; the agent turns the one
that ended a rank into the pod's exit record.

    StageError
    ├── ConfigurationError   the manifest asks for what cannot be
    ├── DataError            the data cannot be used as it is
    ├── StoreError           the store did not answer or refused (see `store`)
    ├── OutOfMemoryError     the worker's memory ran out
    ├── DeviceMemoryError    a GPU's memory ran out
    ├── DeviceFaultError     a GPU is broken
    ├── NoSpaceError         a disk or /dev/shm is full
    ├── DivergedError        the loss is infinite or not a number
    ├── RolledBackError      the loss ran away, and another round is to go on from before that
    └── PreemptedError       asked to leave, and the state is saved
"""

from __future__ import annotations

from llmtrain_api.records import ExitCode


class StageError(Exception):
    """A failure that the user can understand without a stack trace."""

    code: ExitCode = ExitCode.BUG

    def __init__(self, message: str, *, reason: str, next_step: str = "") -> None:
        """Say what happened (naming field, file and line), in one word too, and what to do."""
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.next_step = next_step

    def __reduce__(self) -> tuple[object, ...]:
        """Let the failure cross from a rank to its agent."""
        return (_rebuild, (type(self), self.message, self.reason, self.next_step))


def _rebuild(kind: type[StageError], message: str, reason: str, next_step: str) -> StageError:
    return kind(message, reason=reason, next_step=next_step)


class ConfigurationError(StageError):
    """The manifest asks for what cannot be."""

    code = ExitCode.CONFIGURATION


class DataError(StageError):
    """The data cannot be used as it is."""

    code = ExitCode.DATA


class StoreError(StageError):
    """The store did not answer or refused."""

    code = ExitCode.STORAGE


class OutOfMemoryError(StageError):
    """The worker's memory ran out."""

    code = ExitCode.OUT_OF_MEMORY


class DeviceMemoryError(StageError):
    """A GPU's memory ran out."""

    code = ExitCode.DEVICE_OUT_OF_MEMORY


class DeviceFaultError(StageError):
    """A GPU is broken."""

    code = ExitCode.DEVICE_FAULT


class NoSpaceError(StageError):
    """A disk or /dev/shm is full."""

    code = ExitCode.NO_SPACE


class DivergedError(StageError):
    """The loss is infinite or not a number."""

    code = ExitCode.DIVERGED


class RolledBackError(StageError):
    """The loss ran away: another round is to go on from before that."""

    code = ExitCode.DIVERGED


class PreemptedError(StageError):
    """Asked to leave; the state is saved."""

    code = ExitCode.PREEMPTED
