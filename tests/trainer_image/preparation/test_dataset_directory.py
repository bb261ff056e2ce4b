"""Hugging Face datasets are read from the directories that `datasets` and the Hub make of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from llmtrain_api.run import StorageConfig
from llmtrain_api.sources import Source
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document, Rejection
from llmtrain_trainer.preparation.readers import read_documents
from llmtrain_trainer.preparation.sources import find_source_files

CLASSES = {
    "info": {
        "features": {
            "text": {"dtype": "string", "_type": "Value"},
            "label": {"names": ["bad", "good"], "_type": "ClassLabel"},
        }
    }
}
"""As `datasets` writes it into a schema."""


def make_table(texts: Iterable[str], labels: Iterable[int] | None = None) -> pa.Table:
    texts = list(texts)
    columns: dict[str, Any] = {"text": texts, "label": labels or [0] * len(texts)}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(CLASSES)})


def save_to_disk(folder: Path, parts: list[list[str]], **state: Any) -> None:
    """Write what `Dataset.save_to_disk` writes, and what caching leaves beside it."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, texts in zip((*names, "cache-1b2c.arrow"), (*parts, ["cached"]), strict=True):
        table = make_table(texts)
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as w,
        ):
            w.write_table(table, max_chunksize=2)
    record = {"_data_files": [{"filename": name} for name in names], "_split": None, **state}
    (folder / "state.json").write_text(json.dumps(record))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))


def read(folder: Path, uri: str, **fields: Any) -> list[Document | Rejection]:
    source = Source.model_validate({"uri": uri, "format": "huggingface", **fields})
    config = StorageConfig(uri="s3://unused", local_root=str(folder))
    files = find_source_files([source], config, field="data.sources")
    return [
        entry
        for file in files
        for entry in read_documents(file, folder / file.uri.removeprefix("s3://"))
    ]


def read_texts(folder: Path, uri: str, **fields: Any) -> list[str]:
    return [entry.text for entry in read(folder, uri, **fields) if isinstance(entry, Document)]


def test_saved_dataset_is_read_in_its_order(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "bucket" / "saved", [["a", "b", "c"], ["d"]])
    entries = read(tmp_path, "s3://bucket/saved/")
    assert [e.text for e in entries if isinstance(e, Document)] == ["a", "b", "c", "d"]
    assert entries[2].place == "s3://bucket/saved/data-00000-of-00002.arrow:row 3"
    assert read_texts(tmp_path, "s3://bucket/saved/", split="train") == ["a", "b", "c", "d"]


def test_split_of_a_saved_dataset_is_named(tmp_path: Path) -> None:
    root = tmp_path / "bucket" / "saved"
    for split in ("train", "test"):
        save_to_disk(root / split, [[split]], _split=split)
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read_texts(tmp_path, "s3://bucket/saved/", split="test") == ["test"]
    for wanted, said in ((None, "several splits"), ("dev", "no split 'dev'")):
        with pytest.raises(DataError) as failed:
            read(tmp_path, "s3://bucket/saved/", split=wanted)
        message = f"data.sources[0].split: {said}; the dataset has test, train"
        assert failed.value.message == message


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet"], None, [1, 0]),
        (
            ["data/train-00000-of-00001-ab12.parquet", "data/test-00000-of-00001.parquet"],
            "test",
            [1],
        ),
        (["train/0001.parquet", "train/0000.parquet", "test/0000.parquet"], "train", [1, 0]),
        (["train.parquet", "validation.parquet"], "validation", [1]),
    ],
)
def test_layouts_of_the_hub(
    tmp_path: Path, names: list[str], split: str | None, expected: list[int]
) -> None:
    root = tmp_path / "bucket" / "hub"
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(make_table([str(number)]), root / name)
    (root / "README.md").write_text("# no document")
    assert read_texts(tmp_path, "s3://bucket/hub/", split=split) == list(map(str, expected))


def test_numbers_of_classes_become_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "bucket" / "hub"
    folder.mkdir(parents=True)
    parquet.write_table(make_table("abc", [1, 0, -1]), folder / "train.parquet")
    first, second, third = read(tmp_path, "s3://bucket/hub/", fields={"label": "label"})
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert (first.facts.label, second.facts.label) == ("good", "bad")
    assert isinstance(third, Rejection)
    assert third.why == "field 'label' has no value"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": "x"}, "data.sources[0].uri: s3://bucket/d/ is no Hugging Face dataset"),
        ({"state.json": "{"}, "s3://bucket/d/state.json: not as save_to_disk writes it: _split"),
        ({"state.json": '{"_split": 7}'}, "s3://bucket/d/state.json: not as save_to_disk writes"),
        (
            {"state.json": '{"_data_files": [{"filename": "a.arrow"}]}'},
            "s3://bucket/d/a.arrow is missing, which state.json names",
        ),
        (
            {"state.json": '{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}'},
            "s3://bucket/d/state.json: a selection of rows, in the form of old versions",
        ),
        ({"dataset_dict.json": '{"splits": ["a"]}'}, "s3://bucket/d/a/state.json is missing"),
        (
            {"en/train-00000-of-00001.parquet": "", "de/train-00000-of-00001.parquet": ""},
            "data.sources[0].uri: s3://bucket/d/ holds several datasets: de, en",
        ),
    ],
)
def test_directory_that_cannot_be_used_is_named(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        path = tmp_path / "bucket" / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    with pytest.raises(DataError) as failed:
        read(tmp_path, "s3://bucket/d/")
    assert failed.value.message.startswith(message)
    assert failed.value.next_step


def test_dataset_that_is_not_called_one_is_pointed_out(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "bucket" / "saved", [["a"]])
    with pytest.raises(DataError, match=r"s3://bucket/saved/ is a Hugging Face dataset") as failed:
        read(tmp_path, "s3://bucket/saved/", format=None)
    assert failed.value.next_step == "set data.sources[0].format to huggingface"
