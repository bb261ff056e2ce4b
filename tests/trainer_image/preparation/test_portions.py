"""Large files of lines are divided by bytes, each line whole and in one portion."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmtrain_api.recipe import Privacy
from llmtrain_api.run import StorageConfig
from llmtrain_api.sources import Invalid, InvalidPolicy, Source
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation import portions
from llmtrain_trainer.preparation.collect import Collection, name_rule
from llmtrain_trainer.preparation.portions import (
    Portion,
    count_lines_before,
    divide_files,
    fetch_portion,
    iterate_lines,
    shift_place,
)
from llmtrain_trainer.preparation.sources import SourceFile, find_source_files
from llmtrain_trainer.store import StoredObject
from llmtrain_trainer.store.folder import FolderStore


def describe_file(name: str, size: int, **fields: Any) -> SourceFile:
    return SourceFile(
        store=FolderStore(Path("unused"), "bucket", ""),
        stored=StoredObject(key=name, size=size, etag=""),
        source=Source.model_validate({"uri": f"s3://bucket/{name}", **fields}),
        index=0,
        field="data.sources[0]",
    )


def find_file(folder: Path, content: bytes, **fields: Any) -> SourceFile:
    (folder / "bucket").mkdir(exist_ok=True)
    (folder / "bucket" / "a.jsonl").write_bytes(content)
    source = Source.model_validate({"uri": "s3://bucket/a.jsonl", **fields})
    config = StorageConfig(uri="s3://unused", local_root=str(folder))
    (file,) = find_source_files([source], config, field="data.sources")
    return file


@pytest.mark.parametrize(
    ("files", "units"),
    [
        ([], []),
        ([("a", 0)], [["a"]]),
        ([("a", 4), ("b", 4), ("c", 4)], [["a", "b", "c"]]),
        ([("a", 4), ("b", 6), ("c", 1)], [["a", "b"], ["c"]]),
        ([("a.jsonl", 19), ("b", 1)], [["a.jsonl"], ["b"]]),
        (
            [("a", 1), ("b.jsonl", 31), ("c", 1)],
            [["a"], ["b.jsonl 0-10"], ["b.jsonl 10-20"], ["b.jsonl 20-31"], ["c"]],
        ),
        (
            [("a.csv", 99), ("b.jsonl.gz", 99), ("c.txt", 99)],
            [["a.csv"], ["b.jsonl.gz"], ["c.txt"]],
        ),
    ],
)
def test_units_follow_from_names_and_sizes(
    files: list[tuple[str, int]], units: list[list[str]]
) -> None:
    found = divide_files([describe_file(name, size) for name, size in files], 10)

    def name(portion: Portion) -> str:
        key = portion.file.stored.key
        return key if portion.is_whole else f"{key} {portion.start}-{portion.end}"

    assert [[name(portion) for portion in unit] for unit in found] == units


def test_format_of_the_manifest_decides(tmp_path: Path) -> None:
    assert len(divide_files([describe_file("log.txt", 40, format="jsonl")], 10)) == 4
    assert len(divide_files([describe_file("a.jsonl", 40, format="text")], 10)) == 1


@given(
    content=st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r\n", b"def\n"]), max_size=40),
    unit_bytes=st.integers(1, 12),
    chunk_bytes=st.integers(1, 9),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_line_is_in_the_portion_in_which_it_begins(
    tmp_path: Path, content: list[bytes], unit_bytes: int, chunk_bytes: int
) -> None:
    whole = b"".join(content)
    file = find_file(tmp_path, whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portions, "CHUNK_BYTES", chunk_bytes)
        before, begins = 0, 0
        for (portion,) in divide_files([file], unit_bytes):
            lines = b"".join(iterate_lines(portion))
            assert whole[begins : begins + len(lines)] == lines
            assert not lines or portion.start <= begins < portion.end
            assert begins == 0 or not lines or whole[begins - 1] == ord("\n")
            assert count_lines_before(portion) == before
            begins += len(lines)
            before += lines.count(b"\n")
        assert begins == len(whole)


def test_line_that_never_ends_is_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "MAX_RECORD_BYTES", 20)
    file = find_file(tmp_path, b"x" * 100)
    (first,), *_ = divide_files([file], 10)
    assert len(b"".join(iterate_lines(first))) == 31


def test_first_portion_describes_the_file(tmp_path: Path) -> None:
    content = b'{"text": "a"}\n' * 5
    file = find_file(tmp_path, content)
    first, second, *_ = [portion for (portion,) in divide_files([file], 10)]
    described = fetch_portion(first, tmp_path / "lines")
    assert described is not None
    assert described.sha256 == hashlib.sha256(content).hexdigest()
    assert fetch_portion(second, tmp_path / "lines") is None
    pinned = find_file(tmp_path, content, sha256="0" * 64)
    with pytest.raises(DataError, match="not that of data"):
        fetch_portion(divide_files([pinned], 10)[0][0], tmp_path / "lines")
    (tmp_path / "bucket" / "a.jsonl").write_bytes(content + b"\n")
    with pytest.raises(DataError, match=r"a\.jsonl changed while it was read"):
        fetch_portion(second, tmp_path / "lines")


@pytest.mark.parametrize("policy", InvalidPolicy)
def test_bad_line_of_any_portion_is_named_by_its_number(
    tmp_path: Path, policy: InvalidPolicy
) -> None:
    lines = [b'{"text": "%d"}' % number for number in range(1, 41)]
    lines[29] = b"{"
    file = find_file(tmp_path, b"\n".join(lines))
    *_, third, _ = [portion for (portion,) in divide_files([file], 130)]
    reading = Collection(
        [third], Invalid(policy=policy), Privacy(), tmp_path, tmp_path / "rejected"
    )
    if policy is InvalidPolicy.FAIL:
        with pytest.raises(DataError, match=r"s3://bucket/a\.jsonl:30: not valid JSON"):
            list(reading.read(lambda: None))
        return
    before = count_lines_before(third)
    places = [document.place for document in reading.read(lambda: None)]
    places += [
        example.place for example in reading.tally.examples[name_rule(Invalid(policy=policy))]
    ]
    numbers = sorted(int(shift_place(place, before).rpartition(":")[2]) for place in places)
    assert numbers == list(range(before + 1, before + 1 + reading.num_lines))
    assert 30 in numbers
