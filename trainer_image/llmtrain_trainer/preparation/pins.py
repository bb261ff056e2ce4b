"""Which versions of its sources a run reads: found once, recorded, and the same from then on.

Below: `sources`, `store`. Above: `prepare`.

    runs/<run>/pins.json    an `InputPins`; where the bucket of some source keeps versions

Tasks start at different times and start again, and sources may be replaced meanwhile. The first
task records what it found; the others, and each that starts again, go by the record. Where no
versions are kept there is nothing that could be read after a source was replaced, and each task
finds out for itself that it was. `data.pins` names the manifest of a dataset, whose record takes
the place of a listing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import ValidationError

from llmtrain_api.data import DataSpec
from llmtrain_api.run import RunConfig, StorageConfig
from llmtrain_api.sources import Source
from llmtrain_trainer.dataset.input_pins import InputPins, PinnedObject
from llmtrain_trainer.dataset.shards import DatasetManifest
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.sources import (
    GLOB_CHARACTERS,
    Inputs,
    SourceFile,
    find_inputs,
)
from llmtrain_trainer.store import (
    ObjectExistsError,
    ObjectMissingError,
    StoredObject,
    open_store,
    split_uri,
)

PINS = "pins.json"
"""Key of the record, below a run."""


def resolve_inputs(config: RunConfig) -> Inputs:
    """Return every object that the recipe of a run reads, the same ones for each of its tasks.

    Raises:
        DataError: where a source names no object, or `data.pins` no record of these sources.
        StoreError: where the store fails or lacks the bucket.
    """
    data, storage = config.data, config.storage
    if data.pins is not None:
        return restore_inputs(read_dataset_pins(data.pins, storage), data, storage)
    run = open_store(config.run_uri, storage)
    if run.find_object(PINS) is None:
        found = find_inputs(data, storage)
        if not has_versions(found):
            return found
        record = describe_inputs(found).model_dump_json(by_alias=True, indent=1)
        try:
            run.create_bytes(PINS, record.encode())
        except ObjectExistsError:
            pass  # another task was first
        else:
            return found
    return restore_inputs(InputPins.model_validate_json(run.read_bytes(PINS)), data, storage)


def has_versions(inputs: Inputs) -> bool:
    """Return whether some object can be read again after it was replaced."""
    lists = (inputs.documents, inputs.against, inputs.erase, inputs.relabel)
    return any(file.stored.version is not None for files in lists for file in files)


def describe_inputs(inputs: Inputs) -> InputPins:
    """Return the record of what was found."""
    return InputPins(
        documents=[_describe(file) for file in inputs.documents],
        against=[_describe(file) for file in inputs.against],
        erase=[_describe(file) for file in inputs.erase],
        relabel=[_describe(file) for file in inputs.relabel],
    )


def restore_inputs(pins: InputPins, data: DataSpec, storage: StorageConfig) -> Inputs:
    """Return the objects of a record as the sources of a recipe.

    Raises:
        DataError: where the record was made of other sources.
    """

    def restore(
        pinned: list[PinnedObject], sources: Sequence[Source], name: str
    ) -> list[SourceFile]:
        if {item.source for item in pinned} != set(range(len(sources))):
            raise _refuse(f"it has objects of other sources than {name}")
        return [_restore(item, sources[item.source], storage, name) for item in pinned]

    return Inputs(
        documents=restore(pins.documents, data.sources, "data.sources"),
        against=restore(pins.against, data.deduplicate.against, "data.deduplicate.against"),
        erase=restore(pins.erase, data.privacy.erase, "data.privacy.erase"),
        relabel=restore(pins.relabel, data.relabel, "data.relabel"),
    )


def read_dataset_pins(uri: str, storage: StorageConfig) -> InputPins:
    """Return the record that the manifest of a dataset keeps.

    Raises:
        DataError: where there is none.
        StoreError: where the store fails.
    """
    folder, _, key = uri.rpartition("/")
    try:
        manifest = DatasetManifest.model_validate_json(open_store(folder, storage).read_bytes(key))
    except (ObjectMissingError, ValidationError):
        raise _refuse(f"{uri} is not the manifest of a dataset") from None
    if manifest.pins is None:
        raise _refuse(f"{uri} was made by a version of llmtrain that kept no record")
    return manifest.pins


def _describe(file: SourceFile) -> PinnedObject:
    stored = file.stored
    return PinnedObject(
        source=file.index,
        uri=file.uri,
        size=stored.size,
        etag=stored.etag,
        version=stored.version,
    )


def _restore(item: PinnedObject, source: Source, storage: StorageConfig, name: str) -> SourceFile:
    field = f"{name}[{item.source}]"
    named = re.split(f"[{re.escape(GLOB_CHARACTERS)}]", source.uri)[0]
    if not item.uri.startswith(named):
        raise _refuse(f"{item.uri} of it is none of {field}, which is {source.uri}")
    bucket, key = split_uri(item.uri)
    return SourceFile(
        store=open_store(f"s3://{bucket}", storage),
        stored=StoredObject(key=key, size=item.size, etag=item.etag, version=item.version),
        source=source,
        index=item.source,
        field=field,
    )


def _refuse(why: str) -> DataError:
    return DataError(
        f"data.pins: {why}",
        reason="PinsInvalid",
        next_step="name the manifest.json of a dataset that was made of the same data.sources",
    )
