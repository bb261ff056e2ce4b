"""Whatever is wrong with the data: a reason, the place, and what to do, before anything trains.

Each row is a file that a user may well have, and what the stage of preparation ends with.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from llmtrain_api.records import ExitCode
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.store import open_store
from testbed.prepared_topics import TopicsFolder, prepare
from testbed.source_files import pack_zip

RECORDS = [
    {"id": i, "text": f"Document {i} speaks of {i * i}.", "topic": "ab"[i % 2]} for i in range(40)
]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
LABELLED = LINES + b'{"id": 40, "text": "The newest one.", "topic": "rare"}\n'
HALF_BROKEN = LINES + b'{"text": 3}\n' * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> TopicsFolder:
    return TopicsFolder(tmp_path_factory.mktemp("folder"))


@pytest.mark.parametrize(
    ("name", "content", "data", "reason", "words"),
    [
        (
            "broken.jsonl",
            LINES + b'{"text": "cut\n' + LINES,
            {},
            "DocumentInvalid",
            ["broken.jsonl:41: not valid JSON: Unterminated string", "one JSON object on each"],
        ),
        (
            "field.jsonl",
            LINES,
            {"source": {"textField": "body"}},
            "DocumentInvalid",
            ["field.jsonl:1: no field 'body'; the record has id, text, topic", "[].textField"],
        ),
        (
            "field.csv",
            b"id,body\n1,a\n",
            {},
            "DocumentInvalid",
            ["field.csv:1: no field 'text'; the header has id, body", "[].textField"],
        ),
        (
            "label.jsonl",
            LINES,
            {"source": {"fields": {"label": "kind"}}},
            "DocumentInvalid",
            ["label.jsonl:1: no field 'kind'; the record has id,", "[].fields.label"],
        ),
        (
            "pairs.jsonl",
            LINES,
            {"source": {"fields": {"prompt": "text", "response": "answer"}}},
            "DocumentInvalid",
            ["pairs.jsonl:1: no field 'answer'; the record has", "[].fields.response"],
        ),
        (
            "skipped.jsonl",
            HALF_BROKEN,
            {"invalid": {"policy": "skip"}},
            "TooManyInvalid",
            ["40 of 80 records cannot be read", "skipped.jsonl:41: field 'text' is int, not text"],
        ),
        (
            "quarantined.jsonl",
            HALF_BROKEN,
            {"invalid": {"policy": "quarantine", "maxRate": 0.3}},
            "TooManyInvalid",
            ["40 of 80 records cannot be read", "raise data.invalid.maxRate"],
        ),
        (
            "none.jsonl",
            b'{"text": 3}\n',
            {"invalid": {"policy": "quarantine", "maxRate": 1}},
            "SourceEmpty",
            ["data.sources[0]: there is no document", "none.jsonl:1: field 'text' is int"],
        ),
        ("blank.jsonl", b"\n\n", {}, "SourceEmpty", ["data.sources[0]: there is no document"]),
        (
            "short.jsonl",
            LINES,
            {"clean": {"minCharacters": 500}},
            "DatasetEmpty",
            ["every document: select leaves out 40 of 40 (too short: 40, first", "short.jsonl:1"],
        ),
        ("one.txt", b"One text.", {}, "SplitEmpty", ["no document for validation", "tail"]),
        (
            "damaged.jsonl.gz",
            gzip.compress(LINES)[:-12],
            {},
            "ArchiveUnreadable",
            ["damaged.jsonl.gz cannot be unpacked: ", "pack it anew"],
        ),
        (
            "bomb.zip",
            pack_zip({"a.txt": bytes(80 << 20)}),
            {},
            "ArchiveTooLarge",
            ["bomb.zip unpacks to more than 200 times its size", "in smaller parts"],
        ),
        (
            "mixed.jsonl",
            LINES + '{"text": "café"}\n'.encode("latin-1") + LINES,
            {},
            "EncodingInvalid",
            ["mixed.jsonl:41: not valid UTF-8 at byte 13", "convert the text to UTF-8"],
        ),
        (
            "pinned.jsonl",
            LINES,
            {"source": {"sha256": "0" * 64}},
            "SourceChanged",
            ["pinned.jsonl has the SHA-256 ", "not that of data.sources[0].sha256"],
        ),
        (
            "labels.jsonl",
            LABELLED,
            {
                "source": {"fields": {"label": "topic"}, "splitField": "id"},
                "split": {"method": "time"},
            },
            "LabelUnseen",
            ["1 of 2 labels in validation occur in no training document", "'rare'", "stratified"],
        ),
    ],
)
def test_bad_input_is_named(
    folder: TopicsFolder,
    name: str,
    content: bytes,
    data: dict[str, Any],
    reason: str,
    words: list[str],
) -> None:
    source = {"uri": f"s3://tiny-bucket/bad/{name}", **data.get("source", {})}
    steps = {key: value for key, value in data.items() if key != "source"}
    config = folder.configure(name.replace(".", "-"), sources=[source], **steps)
    open_store("s3://tiny-bucket/bad", config.storage).write_bytes(name, content)
    with pytest.raises(DataError) as failed:
        prepare(config)
    assert (failed.value.code, failed.value.reason) == (ExitCode.DATA, reason)
    said = f"{failed.value.message}; {failed.value.next_step}"
    assert [word for word in words if word not in said] == [], said
