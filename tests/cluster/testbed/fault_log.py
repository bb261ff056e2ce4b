"""What tests of faults saw, kept in a folder: a pytest plugin.

Below: `fault_table`. Above: `tests/conftest.py` registers it, `tests/bench/bench_faults.py` runs
with ``--fault-log FOLDER``. With that option only tests of faults run, and of those only the ones
that have not passed into the folder before, so a run that was broken off goes on where it was.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from testbed.fault_table import World, find_fault

OPTION = "--fault-log"
MARK = "fault"


@dataclass(slots=True, kw_only=True)
class Sighting:
    """Something that was said of a fault."""

    text: str
    seconds: float | None
    """Since the fault struck; None where that has no moment."""


@dataclass(slots=True, kw_only=True)
class FaultRecord:
    """One test of one fault, as it is kept."""

    number: int
    world: World
    test: str
    outcome: str = ""
    sightings: list[Sighting] = field(default_factory=list)
    seconds_down: float | None = None
    """From the fault to the next work that counts, where there is any."""
    test_seconds: float = 0.0

    @classmethod
    def read(cls, path: Path) -> FaultRecord:
        """Read what `write` wrote."""
        fields = json.loads(path.read_text())
        fields["world"] = World(fields["world"])
        fields["sightings"] = [Sighting(**each) for each in fields["sightings"]]
        return cls(**fields)

    def write(self, folder: Path) -> None:
        """Keep it under the name of its test."""
        locate_record(folder, self.test).write_text(json.dumps(asdict(self), indent=1) + "\n")


class FaultWatch:
    """A test's stop watch and note pad for the fault that it makes."""

    def __init__(self, record: FaultRecord | None) -> None:
        self._record = record
        self._struck_at: float | None = None

    def strikes(self) -> None:
        """The fault happens now."""
        self._struck_at = time.monotonic()

    def said(self, text: str, *words: str) -> None:
        """Keep what was said of it, which must hold all of `words`."""
        missing = [word for word in words if word not in text]
        assert not missing, f"{missing} not in {text!r}"
        if self._record is not None:
            self._record.sightings.append(Sighting(text=text, seconds=self._measure()))

    def is_over(self) -> None:
        """Work that counts goes on now."""
        if self._record is not None:
            self._record.seconds_down = self._measure()

    def _measure(self) -> float | None:
        return None if self._struck_at is None else round(time.monotonic() - self._struck_at, 2)


def locate_record(folder: Path, test: str) -> Path:
    """Return where the record of a test lies."""
    return folder / f"{re.sub('[^A-Za-z0-9_.-]+', '-', test)}.json"


def read_records(folder: Path) -> list[FaultRecord]:
    """Return every record of a folder, by row and test."""
    records = [FaultRecord.read(path) for path in folder.glob("*.json")]
    return sorted(records, key=lambda record: (record.number, record.test))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the folder."""
    parser.addoption(OPTION, type=Path, help="run tests of faults, and keep what they saw here")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that the folder lacks."""
    for item in items:
        if (mark := item.get_closest_marker(MARK)) is not None:
            _check_mark(item, mark)
    folder: Path | None = config.getoption(OPTION)
    if folder is None:
        return
    wanted = [item for item in items if _is_wanted(item, folder)]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> FaultWatch:
    """The stop watch and note pad of a test that is marked with a fault."""
    return FaultWatch(request.node.stash.get(RECORD, None))


RECORD = pytest.StashKey[FaultRecord]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Give the test a record before it begins, and keep it afterwards."""
    folder: Path | None = item.config.getoption(OPTION)
    mark = item.get_closest_marker(MARK)
    if folder is None or mark is None:
        return (yield)
    record = FaultRecord(number=mark.args[0], world=World(mark.kwargs["world"]), test=item.nodeid)
    item.stash[RECORD] = record
    began = time.monotonic()
    try:
        return (yield)
    finally:
        record.test_seconds = round(time.monotonic() - began, 2)
        folder.mkdir(parents=True, exist_ok=True)
        record.write(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note how the test ended: the worst of its setup, its body and its end."""
    report = yield
    record = item.stash.get(RECORD, None)
    if record is not None and (report.when == "call" or not report.passed):
        record.outcome = report.outcome
    return report


def _check_mark(item: pytest.Item, mark: pytest.Mark) -> None:
    try:
        (number,) = mark.args
        find_fault(number)
        World(mark.kwargs["world"])
    except (LookupError, ValueError) as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from None


def _is_wanted(item: pytest.Item, folder: Path) -> bool:
    if item.get_closest_marker(MARK) is None:
        return False
    path = locate_record(folder, item.nodeid)
    return not path.exists() or FaultRecord.read(path).outcome != "passed"
