"""Several tasks, perhaps pods, that work on one dataset through the store.

Below: `claims`, `store`. Above: `reading` and `encoding` divide their work into units here,
`prepare` says what each task does.

    work/<kind>/000003…            what a unit of some kind of work left
    work/<kind>/000003.done        its record, last: the unit is done

A unit is the same whoever does it and whatever the number of tasks, so that the dataset is, too.
A task begins with the units whose number is its own modulo the number of tasks, and goes on with
those that nobody living has claimed. One that was killed and started again finds its own claims
and what was done, and does the rest.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmtrain_trainer.dataset.shards import MANIFEST, WORK
from llmtrain_trainer.preparation.claims import Claims, LifeWatch, Pace, show_life
from llmtrain_trainer.store import ObjectExistsError, Store

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.05
"""Doubled with each look that brought nothing, up to `Pace.poll_seconds`."""

UNITS_AHEAD = 64
"""Units that are tried before it is asked again which ones are done."""

NUM_UNITS = 256
"""As many units has a pass, but for much work or little: enough to keep a hundred tasks busy."""

SMALLEST_UNIT = 8 * 1024 * 1024
"""Bytes or characters: enough for the processes of a task to share, and for some requests to the
store to cost little beside it.
"""

DATASET_CLAIM = "dataset"

RECORD = ".done"
"""Ends the key of the record that makes a unit done."""


class OvertakenError(Exception):
    """A run that took this one for dead has made the dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which task of which run this is."""

    run: str
    """Names the run among all that may prepare the same data."""

    task: int = 0
    num_tasks: int = 1

    @property
    def name(self) -> str:
        """Of the task, among those of all runs; it stays when the task is started again."""
        return f"{self.run}/{self.task}"


class Team:
    """The tasks that work on one dataset, as one of them sees it."""

    def __init__(self, store: Store, place: Place, pace: Pace, report: Callable[[], None]) -> None:
        """Work in `store`, rooted at the dataset; `report` is called now and then."""
        self.store = store
        self.place = place
        self._report = report
        self._reporting = threading.Lock()
        self._pace = pace
        self._claims = Claims(store, LifeWatch(store, pace))
        self._pause = FIRST_PAUSE_SECONDS

    def report(self) -> None:
        """Say that work goes on; units that are done at the same time may all say so."""
        with self._reporting:
            self._report()

    def await_turn(self) -> bool:
        """Wait until this run is the one that prepares the dataset; False: it is there already.

        Raises:
            StoreError: where the store fails.
        """
        is_told = False
        while not self.is_complete():
            if self._claims.take(DATASET_CLAIM, self.place.run):
                self._pause = FIRST_PAUSE_SECONDS
                # The claim may be new because the dataset was just finished and swept.
                return not self.is_complete()
            if not is_told:
                logger.info("waits: another run prepares the same data")
                is_told = True
            self.wait()
        return False

    def is_complete(self) -> bool:
        """Return whether the dataset is there."""
        return self.store.find_object(MANIFEST) is not None

    def list_done(self, kind: str) -> set[int]:
        """Return the units of a kind that are done."""
        prefix = f"{WORK}{kind}/"
        names = (item.key.removeprefix(prefix) for item in self.store.list_objects(prefix))
        return {int(name.removesuffix(RECORD)) for name in names if name.endswith(RECORD)}

    def work_at(
        self,
        kind: str,
        units: Iterable[int],
        work: Callable[[int], None],
        at_once: int = 1,
    ) -> bool:
        """Do units that are missing and that nobody else does; return whether there was one.

        Args:
            kind: of work.
            units: all that are to be done.
            work: does one; puts its record as the last thing.
            at_once: so many are done at the same time, each by a thread: processes that they
                share have work while one unit is fetched and another one uploaded.

        Raises:
            Exception: what `work` raised, of several units the first one's.
        """
        done = self.list_done(kind)
        missing = sorted(
            (unit for unit in units if unit not in done),
            key=lambda unit: ((unit - self.place.task) % self.place.num_tasks, unit),
        )

        def do(unit: int, name: str) -> None:
            logger.info("begins %s", name)
            work(unit)
            logger.info("did %s", name)
            self.report()

        has_worked = False
        running: deque[Future[None]] = deque()
        with ThreadPoolExecutor(at_once, "units") as threads:
            for unit in missing[:UNITS_AHEAD]:
                if len(running) == at_once:
                    running.popleft().result()
                name = name_unit(kind, unit)
                if not self._claims.take(name, self.place.name):
                    continue
                done_since = self.store.find_object(f"{WORK}{name}{RECORD}") is not None
                if done_since or self.is_complete():
                    continue
                running.append(threads.submit(do, unit, name))
                has_worked = True
            while running:
                running.popleft().result()
        if has_worked:
            self._pause = FIRST_PAUSE_SECONDS
        return has_worked

    def finish(
        self, kind: str, units: Sequence[int], work: Callable[[int], None], at_once: int = 1
    ) -> None:
        """Return once every unit is done, by whomever; see `work_at`.

        Raises:
            OvertakenError: another run has made the dataset, and swept.
        """
        while set(units) - self.list_done(kind):
            if not self.work_at(kind, units, work, at_once):
                if self.is_complete():
                    raise OvertakenError
                self.wait()

    def put(self, kind: str, unit: int, data: bytes) -> None:
        """Put what a unit left, and its record."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self.store.upload(f"{WORK}{name_unit(kind, unit)}", Path(file.name))
        self.put_record(f"{name_unit(kind, unit)}{RECORD}")

    def put_record(self, key: str, data: bytes = b"") -> None:
        """Create a small object below `work/`; where there is one, it has the same bytes."""
        try:
            self.store.create_bytes(f"{WORK}{key}", data)
        except ObjectExistsError:
            logger.info("%s was there already", key)

    def wait(self) -> None:
        """Pause before the next look, longer each time until there was work."""
        self.report()
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, self._pace.poll_seconds)


@contextmanager
def join_team(store: Store, place: Place, pace: Pace, report: Callable[[], None]) -> Iterator[Team]:
    """Take part in the work on the dataset that `store` is rooted at, during the block."""
    with show_life(store, place.name, pace):
        yield Team(store, place, pace, report)


def name_unit(kind: str, unit: int) -> str:
    """Return where a unit's objects lie, below `work/`."""
    return f"{kind}/{unit:06d}"


def choose_unit_size(total: int, largest: int) -> int:
    """Return how large units are to be, so that even little work has some for several tasks.

    It follows from the work alone: tasks must mean the same by the number of a unit.
    """
    return min(largest, max(SMALLEST_UNIT, total // NUM_UNITS))


def sweep_work(store: Store) -> int:
    """Delete all that tasks left below `work/`; return how many objects there were.

    Nothing refers to it once the manifest is there.
    """
    keys = [item.key for item in store.list_objects(WORK)]
    if keys:
        logger.info("begins to sweep")
    for key in keys:
        store.delete(key)
    if keys:  # looking for what broke off takes long in a large bucket
        store.abort_uploads(WORK)
    return len(keys)
