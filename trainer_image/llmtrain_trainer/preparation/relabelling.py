"""Documents whose label was found to be wrong, and the label that they get.

Below: `sources`, `document_index` for how documents are named, the contract's line of a list.
Above: `collect` looks at every document before anything is done to it, so that the label that is
kept is the new one, and the document stays in the part of the split that it was in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from llmtrain_api.findings import RelabelLine
from llmtrain_api.sources import Source
from llmtrain_trainer.dataset.document_index import ENTRY_BYTES, ID_PREFIX
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.sources import SourceFile, fetch_source_file
from llmtrain_trainer.preparation.tally import Tally

RELABELLED, OUTDATED = "relabelled", "has another label than the list says"
"""Rules of the tally."""


@dataclass(frozen=True, slots=True)
class Relabels:
    """Labels to be replaced: the new one by the label as it is, by digest, or by id: and an id."""

    by_name: dict[str, dict[str, str]]

    def apply(self, document: Document, tally: Tally) -> Document:
        """Return the document with its new label, where it gets one.

        What was changed may be changed on, as by the list of a later run. A label that is not what
        any line says stays: somebody corrected it at its source.
        """
        facts = document.facts
        found = self.by_name.get(document.digest) or self.by_name.get(f"{ID_PREFIX}{facts.id}")
        if found is None:
            return document
        label, left = facts.label, dict(found)
        while label in left:
            label = left.pop(label)
        if len(left) == len(found):
            tally.count_rule(document.place, OUTDATED)
            return document
        tally.count_rule(document.place, RELABELLED)
        return replace(document, facts=replace(facts, label=label))


NO_RELABELS = Relabels({})


def read_relabels(files: list[SourceFile], scratch: Path, sources: Sequence[Source]) -> Relabels:
    """Return what the files list: a JSON object with document, from and to in each line.

    Args:
        files: the lists.
        scratch: folder for one of them at a time.
        sources: of documents.

    Raises:
        DataError: where a line is none, names a document by an id where no source has ids, or
            gives a document another label than a line before.
        StoreError: where the store fails.
    """
    by_name: defaultdict[str, dict[str, str]] = defaultdict(dict)
    have_ids = any(source.fields is not None and source.fields.id for source in sources)
    path = scratch / "relabels"
    for file in files:
        fetch_source_file(file, path)
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            place = f"{file.uri}:{number}"
            try:
                read = RelabelLine.model_validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, first["loc"])) or "the line"
                raise _refuse(f"{place}: {where}: {first['msg']}") from None
            is_id = read.document.startswith(ID_PREFIX)
            if is_id and not have_ids:
                raise _refuse(f"{place}: an id, but no source in data.sources has fields.id")
            name = read.document if is_id else read.document[: 2 * ENTRY_BYTES]
            change = by_name[name]
            if change.setdefault(read.from_label, read.to_label) != read.to_label:
                raise _refuse(f"{place}: the document gets another label in a line before")
        path.unlink()
    return Relabels(dict(by_name))


def _refuse(message: str) -> DataError:
    return DataError(
        message,
        reason="DocumentInvalid",
        next_step='write lines as {"document": "<SHA-256> or id:…", "from": "…", "to": "…"}',
    )
