"""The first pass: documents read, refined each for itself, and kept in the store by units.

Below: `portions`, `collect`, `refine`, `workers`; `team` for who does which unit. Above: `prepare`;
`corpus` puts the parts together.

    work/read/000003.documents     what is left of the unit's files, a JSON object a line
                     .keys         keys for finding near-duplicates [documents, bands], uint64
                     .rejected     records left out, as in the dataset's list of them
                     .done         last: what was read, and what each step did, as JSON

A unit is as many whole source files in a row as hold 8 to 64 MiB, one larger file, or a range of
bytes of a file whose lines are records.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmtrain_api.base import Model
from llmtrain_api.data import DataSpec
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.dataset.shards import WORK, SourceObject
from llmtrain_trainer.dataset.step_record import StepRecord
from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.preparation.collect import Collection
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.erasure import Erasures, read_erasures
from llmtrain_trainer.preparation.minhash import choose_scheme
from llmtrain_trainer.preparation.portions import Portion, divide_files, shift_place
from llmtrain_trainer.preparation.refine import (
    BATCH_CHARACTERS,
    Refined,
    choose_steps,
    divide_documents,
    refine_documents,
)
from llmtrain_trainer.preparation.relabelling import NO_RELABELS, Relabels, read_relabels
from llmtrain_trainer.preparation.sources import Inputs
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.preparation.team import RECORD, Team, choose_unit_size, name_unit
from llmtrain_trainer.preparation.workers import open_workers
from llmtrain_trainer.store import Store

READ = "read"

LARGEST_UNIT_BYTES = 64 * 1024 * 1024
"""Of source files, packed or not: some seconds of work for each process of a task."""

PROCESS_BYTES = 8 * 1024 * 1024
"""Of all sources, packed or not: as much takes a process seconds, and the first start takes one."""

UNITS_AT_ONCE = 2
"""By a task whose processes refine: they have work while the next unit is fetched."""

RefineBatches = Callable[[Iterable[list[Document]]], Iterator[Refined]]


class PartRecord(Model):
    """What became of a unit of source files."""

    sources: list[SourceObject]

    steps: list[StepRecord]
    """Of reading, and of each step for single documents."""

    goes_on: bool = False
    """Whether the unit goes on with the file of the one before, whose lines its places lack."""

    num_lines: int = 0
    """Of a unit that is a portion of a file."""


@dataclass(frozen=True, slots=True)
class Part:
    """The documents of a unit, in files of a folder."""

    folder: Path

    @property
    def documents(self) -> Path:
        """One JSON object a line."""
        return self.folder / "documents"

    @property
    def keys(self) -> Path:
        """For finding near-duplicates and near copies; empty where neither is looked for."""
        return self.folder / "keys"

    @property
    def rejected(self) -> Path:
        """Records left out; not there where there is none."""
        return self.folder / "rejected"

    @property
    def record(self) -> Path:
        """A `PartRecord`."""
        return self.folder / "done"

    def list_files(self) -> list[Path]:
        """Return the files that there are, the record last."""
        files = [self.documents, self.keys, self.rejected, self.record]
        return [path for path in files if path.exists()]

    def remove(self) -> None:
        """Delete the files and their folder."""
        for path in self.list_files():
            path.unlink()
        self.folder.rmdir()


class FirstPass:
    """Reads units for a team, and gives what they left."""

    def __init__(
        self,
        data: DataSpec,
        inputs: Inputs,
        team: Team,
        scratch: Path,
        unit_bytes: int | None = None,
    ) -> None:
        """Divide the files of `inputs` into units.

        Args:
            data: the recipe.
            inputs: the objects that it reads.
            team: that does the units.
            scratch: folder for few units at a time.
            unit_bytes: source files of a unit hold so much; None: as their sum suggests.
        """
        self._data = data
        self._inputs = inputs
        self._team = team
        self._scratch = scratch
        self._total_bytes = sum(file.stored.size for file in inputs.documents)
        self._units = divide_files(
            inputs.documents,
            unit_bytes or choose_unit_size(self._total_bytes, LARGEST_UNIT_BYTES),
        )
        self._erasures: Erasures | None = None
        self._relabels = NO_RELABELS
        self._is_done = False
        shares = any(choose_num_processes(unit, self._total_bytes) > 1 for unit in self._units)
        self._at_once = UNITS_AT_ONCE if shares else 1
        self._opening = threading.Lock()
        """Of what units that are done at the same time share."""

        self._processes = ExitStack()
        self._refine: RefineBatches | None = None
        """Refines by several processes; they begin with the first unit that is worth it."""

    def close(self) -> None:
        """End the processes that refine."""
        self._processes.close()
        self._refine = None

    def help(self) -> bool:
        """Do units that nobody else does; return whether there was one."""
        units = range(len(self._units))
        if not self._is_done and not self._team.work_at(READ, units, self._do, self._at_once):
            self._is_done = len(self._team.list_done(READ)) == len(units)
            if self._is_done:
                self.close()
            return False
        return not self._is_done

    def finish(self) -> Iterator[Part]:
        """Do units until all are done, then yield their parts in order; each is for a moment.

        Raises:
            DataError: where a source cannot be used.
            StoreError: where the store fails.
        """
        units = range(len(self._units))
        self._team.finish(READ, units, self._do, self._at_once)
        self.close()
        return (part for unit in units for part in self._fetch(unit))

    def _do(self, unit: int) -> None:
        portions = self._units[unit]
        with self._opening:
            if self._erasures is None:
                sources = self._data.sources
                self._erasures = read_erasures(self._inputs.erase, self._scratch, sources)
                self._relabels = read_relabels(self._inputs.relabel, self._scratch, sources)
            refine = self._open_workers(portions)
        part = read_part(
            portions,
            self._data,
            self._erasures,
            self._relabels,
            self._scratch / f"unit-{unit}",
            self._team.report,
            refine,
        )
        upload_part(part, self._team, unit)
        part.remove()

    def _open_workers(self, portions: list[Portion]) -> RefineBatches | None:
        """Return what refines by several processes; None where a unit is not worth their start."""
        count = choose_num_processes(portions, self._total_bytes)
        if self._refine is None and count > 1:
            workers = open_workers(make_refiner(self._data), count)
            self._refine = self._processes.enter_context(workers)
        return self._refine

    def _fetch(self, unit: int) -> Iterator[Part]:
        part = Part(self._scratch / "part")
        part.folder.mkdir()
        fetch_part(part, self._team.store, unit)
        yield part
        part.remove()


def read_part(
    portions: list[Portion],
    data: DataSpec,
    erasures: Erasures,
    relabels: Relabels,
    folder: Path,
    report: Callable[[], None],
    refine: RefineBatches | None = None,
) -> Part:
    """Read a unit, refine each document, and write what is left to a new folder.

    Args:
        portions: of the unit, in their order.
        data: the recipe.
        erasures: documents that must not be used.
        relabels: documents that get another label.
        folder: for the part's files; made here.
        report: called now and then, to say that work goes on.
        refine: what refines batches by several processes; None: it is done in this one.

    Raises:
        DataError: where a source cannot be used.
        StoreError: where the store fails.
    """
    part = Part(folder)
    folder.mkdir()
    collection = Collection(
        portions, data.invalid, data.privacy, folder, part.rejected, erasures, relabels
    )
    steps = choose_steps(data)
    refine = refine or partial(map, make_refiner(data))
    batches = divide_documents(collection.read(report))
    tallies = [Tally(step.name) for step in steps]
    with part.documents.open("w", encoding="utf-8") as documents, part.keys.open("wb") as keys:
        for refined in refine(batches):
            report()
            documents.writelines(map(write_document, refined.documents))
            if refined.keys is not None:
                keys.write(refined.keys.data)
            for tally, of_batch in zip(tallies, refined.tallies, strict=True):
                tally.add(of_batch)
    record = PartRecord(
        sources=collection.sources,
        steps=[tally.record() for tally in (collection.tally, *tallies)],
        goes_on=portions[0].start > 0,
        num_lines=collection.num_lines,
    )
    part.record.write_text(record.model_dump_json(by_alias=True), encoding="utf-8")
    return part


def make_refiner(data: DataSpec) -> Callable[[list[Document]], Refined]:
    """Return what refines a batch, and can be sent to other processes."""
    return partial(refine_documents, steps=choose_steps(data), scheme=choose_scheme(data))


def write_document(document: Document) -> str:
    """Return a document as a line."""
    # Not by asdict, which copies deeply: a tenth of the time of a pass that does little else.
    record = {name: getattr(document, name) for name in Document.__slots__}
    facts = {name: getattr(document.facts, name) for name in Facts.__slots__}
    return json.dumps(record | {"facts": facts}, ensure_ascii=False) + "\n"


def iterate_documents(part: Part, lines_before: int) -> Iterator[Document]:
    """Yield the documents of a part, their places as many lines further on."""
    # Not by splitlines: a text may hold line ends that JSON does not escape.
    with part.documents.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            record = json.loads(line)
            place = shift_place(record["place"], lines_before)
            yield Document(**record | {"facts": Facts.load(record["facts"]), "place": place})


def iterate_rejected(part: Part, lines_before: int) -> Iterator[str]:
    """Yield the lines of a part about records left out, their places as many lines further on."""
    if not part.rejected.exists():
        return
    with part.rejected.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            record = json.loads(line)
            record["place"] = shift_place(record["place"], lines_before)
            yield json.dumps(record) + "\n"


def read_record(part: Part) -> PartRecord:
    """Return what became of a unit."""
    return PartRecord.model_validate_json(part.record.read_bytes())


def upload_part(part: Part, team: Team, unit: int) -> None:
    """Put a part into the store, its record last."""
    name = name_unit(READ, unit)
    *files, record = part.list_files()
    for path in files:
        team.store.upload(f"{WORK}{name}.{path.name}", path)
    team.put_record(f"{name}{RECORD}", record.read_bytes())


def fetch_part(part: Part, store: Store, unit: int) -> None:
    """Copy a part from the store into its folder."""
    prefix = f"{WORK}{name_unit(READ, unit)}."
    for item in store.list_objects(prefix):
        store.download(item.key, part.folder / item.key.removeprefix(prefix))


def choose_num_processes(portions: list[Portion], total_bytes: int) -> int:
    """Return how many processes are worth their start for a unit.

    Args:
        portions: of the unit; a process works at a batch of documents at a time.
        total_bytes: of all units: processes start faster once the first ones have.
    """
    size = sum(portion.size for portion in portions)
    useful = min(total_bytes // PROCESS_BYTES, size // BATCH_CHARACTERS)
    return max(1, min(count_usable_cores(), useful))
