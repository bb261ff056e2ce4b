"""Directories of Hugging Face datasets: which of their files hold a split.

Below: `store`. Above: `sources`, for sources of format: huggingface. Two layouts are known:

    by save_to_disk     state.json, which names its files, data-00000-of-00002.arrow, …
      of several splits dataset_dict.json, which names the splits, and such a directory of each
    as on the Hub       data/train-00000-of-00002.parquet, …; train/0000.parquet; or train.parquet
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any

from llmtrain_trainer.failures import DataError
from llmtrain_trainer.store import Store, StoredObject

DIVIDED = re.compile(r"(.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.parquet")
NUMBERED = re.compile(r"\d+\.parquet")

STATE = "state.json"
SPLITS = "dataset_dict.json"

DEFAULT_SPLIT = "train"
"""Of a dataset that was saved without a name, as `datasets` calls it."""


def choose_split_files(
    store: Store, found: list[StoredObject], prefix: str, split: str | None, field: str
) -> list[StoredObject]:
    """Return the files of a split, in its order.

    Args:
        store: rooted at the bucket.
        found: every object below the prefix.
        prefix: of the directory; ends in /.
        split: its name; None: the only one.
        field: name of the source in the manifest, for messages.

    Raises:
        DataError: where there is no such dataset, split or file.
        StoreError: where the store fails.
    """
    objects = {item.key.removeprefix(prefix): item for item in found}
    place = f"{store.uri}/{prefix}"
    if SPLITS in objects:
        names = _read_json(store, objects[SPLITS], list, "splits")
        splits = {str(name): f"{name}/" for name in names}
        chosen = splits[_choose_split(list(splits), split, field)]
        return _list_saved_files(store, objects, chosen, place)
    if STATE in objects:
        name = _read_json(store, objects[STATE], str | None, "_split") or DEFAULT_SPLIT
        _choose_split([name], split, field)
        return _list_saved_files(store, objects, "", place)
    by_split: defaultdict[str, list[str]] = defaultdict(list)
    for key in sorted(objects):
        if key.lower().endswith(".parquet"):
            by_split[_guess_split(key)].append(key)
    if not by_split:
        raise _refuse(
            f"{field}.uri: {place} is no Hugging Face dataset: it has neither {STATE} nor {SPLITS}"
            " nor a Parquet file",
            "name the directory that save_to_disk made, or a copy of one of the Hub's",
        )
    keys = by_split[_choose_split(list(by_split), split, field)]
    folders = {_find_configuration(key) for key in keys}
    if len(folders) > 1:
        raise _refuse(
            f"{field}.uri: {place} holds several datasets: {', '.join(sorted(folders))}",
            "name the directory of one of them",
        )
    return [objects[key] for key in keys]


def is_saved_dataset(keys: set[str]) -> bool:
    """Return whether a directory with objects of these keys was made by save_to_disk."""
    return SPLITS in keys or {STATE, "dataset_info.json"} <= keys


def _list_saved_files(
    store: Store, objects: dict[str, StoredObject], folder: str, place: str
) -> list[StoredObject]:
    """Return the files that the state of a saved dataset names."""
    key = f"{folder}{STATE}"
    if key not in objects:
        raise _refuse(f"{place}{key} is missing", "upload all that save_to_disk wrote")
    if _read_json(store, objects[key], list | None, "_indices_data_files"):
        raise _refuse(
            f"{place}{key}: a selection of rows, in the form of old versions of datasets",
            "load it and save it anew by a version from 2022 on",
        )
    files = _read_json(store, objects[key], list, "_data_files")
    chosen = []
    for file in files:
        name = folder + str(file["filename"] if isinstance(file, dict) else file)
        if name not in objects:
            raise _refuse(
                f"{place}{name} is missing, which {STATE} names",
                "upload all that save_to_disk wrote",
            )
        chosen.append(objects[name])
    return chosen


def _choose_split(names: list[str], wanted: str | None, field: str) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None:
        why, advice = "several splits", f"set {field}.split to one of them"
    elif wanted in names:
        return wanted
    else:
        why, advice = f"no split {wanted!r}", f"correct {field}.split"
    raise _refuse(f"{field}.split: {why}; the dataset has {', '.join(sorted(names))}", advice)


def _guess_split(key: str) -> str:
    """Return the split that the path of a Parquet file speaks of."""
    path = PurePosixPath(key)
    if (match := DIVIDED.fullmatch(path.name)) is not None:
        return match.group(1)
    is_numbered = NUMBERED.fullmatch(path.name) is not None
    return path.parent.name if is_numbered and path.parent.name else path.stem


def _find_configuration(key: str) -> str:
    """Return the folder of a Parquet file, without that of its split."""
    path = PurePosixPath(key)
    is_numbered = NUMBERED.fullmatch(path.name) is not None
    return str(path.parent.parent if is_numbered else path.parent)


def _read_json(store: Store, item: StoredObject, kind: Any, field: str) -> Any:
    """Return a field of a JSON object, absent ones as None; it must be of a kind."""
    try:
        record = json.loads(store.read_bytes(item.key))
        value = record.get(field)
    except (ValueError, RecursionError, AttributeError):
        value = ...
    if not isinstance(value, kind):
        raise _refuse(
            f"{store.uri}/{item.key}: not as save_to_disk writes it: {field}", "save it anew"
        )
    return value


def _refuse(message: str, next_step: str) -> DataError:
    return DataError(message, reason="DatasetDirectoryInvalid", next_step=next_step)
