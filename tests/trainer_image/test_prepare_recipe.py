"""What the steps of a recipe do to documents, seen in what is trained on and in the manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from llmtrain_trainer.dataset.document_index import DOCUMENTS as DOCUMENTS_INDEX
from llmtrain_trainer.dataset.document_index import find_entry, make_entry
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.store import open_store
from testbed.prepared_topics import (
    DOCUMENTS,
    JSONL_DATA,
    TopicsFolder,
    list_documents,
    list_texts,
    open_prepared,
    open_result,
    prepare,
    read_manifest,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> TopicsFolder:
    return TopicsFolder(tmp_path_factory.mktemp("folder"))


def test_records_that_cannot_be_read_are_left_out_and_listed(folder: TopicsFolder) -> None:
    records = [{"text": text} for text in DOCUMENTS]
    uri = folder.write_lines("broken.jsonl", [*records, {"body": "x"}], "{\n")
    total = len(DOCUMENTS) + 2
    data: dict[str, Any] = {"sources": [{"uri": uri}], "invalid": {"policy": "skip"}}
    with pytest.raises(DataError, match=f"2 of {total} records cannot be read") as failed:
        prepare(folder.configure("strict", **data))
    assert failed.value.reason == "TooManyInvalid"
    data["invalid"] = {"policy": "skip", "maxRate": 0.05}
    config = folder.configure("lenient", **data)
    result = prepare(config)
    assert result.documents == len(DOCUMENTS)
    lines = open_prepared(config, result).read_bytes("rejected.jsonl").splitlines()
    assert [json.loads(line)["place"] for line in lines] == [f"{uri}:{total - 1}", f"{uri}:{total}"]
    step = read_manifest(config, result).steps[0]
    assert (step.documents_in, step.documents_out) == (total, len(DOCUMENTS))
    assert step.rules["unreadable"].count == 2


def test_quarantine_keeps_what_was_found_without_personal_data(folder: TopicsFolder) -> None:
    records = [{"text": text} for text in DOCUMENTS]
    uri = folder.write_lines("bad.jsonl", records, '{"text": "ann@example.org, say hello"\n')
    data: dict[str, Any] = {
        "sources": [{"uri": uri}],
        "invalid": {"policy": "quarantine", "maxRate": 0.001},
        "privacy": {"action": "replace"},
    }
    with pytest.raises(DataError, match="1 of") as failed:
        prepare(folder.configure("strict", **data))
    assert failed.value.reason == "TooManyInvalid"
    data["invalid"]["maxRate"] = 0.05
    config = folder.configure("quarantine", **data)
    result = prepare(config)
    (line,) = open_prepared(config, result).read_bytes("quarantine.jsonl").splitlines()
    assert json.loads(line) == {
        "place": f"{uri}:{len(DOCUMENTS) + 1}",
        "why": "not valid JSON: Expecting ',' delimiter at column 38",
        "bytes": 38,
        "record": '{"text": "<EMAIL>, say hello"\n',
    }
    manifest = read_manifest(config, result)
    assert manifest.steps[0].rules["quarantined"].count == 1
    assert "quarantine.jsonl" in {item.key for item in manifest.objects}
    report = json.loads(open_prepared(config, result).read_bytes("report.json"))
    assert report["steps"][0]["rules"]["quarantined"]["count"] == 1


def test_weights_repeat_and_thin_training_documents(folder: TopicsFolder, tmp_path: Path) -> None:
    sources = [
        {
            "uri": folder.write_lines(
                f"{i}.jsonl", [{"text": f"{i} {text}"} for text in DOCUMENTS]
            ),
            "weight": weight,
        }
        for i, weight in enumerate((3.0, 0.4, 1.0))
    ]
    config = folder.configure("weights", sources=sources, split={"method": "document"})
    dataset = open_result(config, prepare(config), tmp_path / "cache")
    train, held_out = list_documents(dataset, tmp_path / "tokenizer")
    counts = {i: [train.count(f"{i} {text}") for text in DOCUMENTS] for i in range(3)}
    kept = [sum(text[0] == str(i) for text in held_out) for i in range(3)]
    assert len(set(held_out)) == len(held_out)
    assert counts[0].count(3) == len(DOCUMENTS) - kept[0]
    assert counts[2].count(1) == len(DOCUMENTS) - kept[2]
    assert set(counts[1]) == {0, 1}
    assert 0.2 < sum(counts[1]) / len(DOCUMENTS) < 0.6


def test_cleaned_text_is_what_is_trained_on(folder: TopicsFolder, tmp_path: Path) -> None:
    records = [{"text": f"{text}\r\n\x00"} for text in DOCUMENTS]
    uri = folder.write_lines("unclean.jsonl", [*records, {"text": "N/A"}])
    clean = {"collapseWhitespace": True, "minCharacters": 500, "languages": ["en"]}
    config = folder.configure("clean", sources=[{"uri": uri}], clean=clean)
    result = prepare(config)
    texts = list_texts(config, result, tmp_path)
    assert not [text for text in texts if len(text) < 500 or text != text.strip() or "\r" in text]
    read, normalize, select, privacy, exact = read_manifest(config, result).steps
    assert (read.step, normalize.step, select.step) == ("read", "normalize", "select")
    assert privacy.documents_changed == 0
    assert (exact.step, exact.documents_out) == ("exact duplicates", len(texts))
    assert read.documents_out == normalize.documents_in == len(DOCUMENTS) + 1
    assert normalize.rules["control characters removed"].count == len(DOCUMENTS)
    assert len(texts) <= select.documents_out < len(DOCUMENTS)
    assert {"missing value", "too short"} <= set(select.rules)


def test_steps_that_leave_nothing_are_named(folder: TopicsFolder) -> None:
    with pytest.raises(DataError, match=r"every document: select leaves out") as failed:
        prepare(folder.configure("nothing", clean={"minCharacters": 1_000_000}))
    assert failed.value.reason == "DatasetEmpty"


def test_copies_and_evaluation_sets_are_not_trained_on(
    folder: TopicsFolder, tmp_path: Path
) -> None:
    copies = [text.replace("the ", "that ", 3) + f"\n{i}." for i, text in enumerate(DOCUMENTS[:30])]
    uri = folder.write_lines("copies.jsonl", [{"text": text} for text in (*DOCUMENTS, *copies)])
    number, exam = next((i, t) for i, t in enumerate(DOCUMENTS[40:], start=40) if len(t) > 1500)
    against = folder.write_lines("exam.jsonl", [{"text": exam[200:900]}])
    config = folder.configure(
        "copies",
        sources=[{"uri": uri}],
        deduplicate={"near": "edited", "paragraphs": True, "against": [{"uri": against}]},
    )
    result = prepare(config)
    steps = {step.step: step for step in read_manifest(config, result).steps}
    assert steps["near duplicates"].rules["duplicate"].count >= 27
    contaminated = steps["contamination"].rules["in a set to evaluate on"]
    assert f"{uri}:{number + 1}" in {example.place for example in contaminated.examples}
    assert steps["paragraphs"].documents_out == steps["paragraphs"].documents_in
    left = list_texts(config, result, tmp_path)
    assert len(left) == steps["paragraphs"].documents_out
    assert not [text for text in left if exam[300:500] in text]

    folder.write_lines("exam.jsonl", [{"text": "another exam, with other questions"}])
    assert prepare(config).dataset != result.dataset


@pytest.mark.parametrize("action", ["report", "replace", "drop"])
def test_personal_data_is_counted_and_goes_nowhere(
    folder: TopicsFolder, tmp_path: Path, action: str
) -> None:
    secret = "jane.roe@example.org"
    records = [{"text": f"{text[:500]}\nWrite to {secret}."} for text in DOCUMENTS[:5]]
    records += [{"text": text[:500]} for text in DOCUMENTS[5:]]
    uri = folder.write_lines("people.jsonl", records)
    privacy = {"action": action, "kinds": ["email"]}
    config = folder.configure(f"privacy-{action}", sources=[{"uri": uri}], privacy=privacy)
    result = prepare(config)
    (step,) = (s for s in read_manifest(config, result).steps if s.step == "privacy")
    assert step.rules["email"].count == 5
    assert secret not in step.model_dump_json()
    left = list_texts(config, result, tmp_path)
    assert sum(secret in text for text in left) == (5 if action == "report" else 0)
    assert sum("Write to <EMAIL>." in text for text in left) == (5 if action == "replace" else 0)
    assert len(left) == len(DOCUMENTS) - (5 if action == "drop" else 0)


def test_source_is_cut_to_its_cap(folder: TopicsFolder) -> None:
    sources = [{**source, "maxCharacters": 40_000} for source in JSONL_DATA["sources"]]
    config = folder.configure("cap", sources=sources)
    (step,) = (s for s in read_manifest(config, prepare(config)).steps if s.step == "reduce")
    assert step.documents_in == len(DOCUMENTS) > step.documents_out
    assert 20_000 < step.characters_out <= 40_000


def test_documents_to_be_erased_are_not_used(folder: TopicsFolder, tmp_path: Path) -> None:
    records = [{"text": text, "name": f"topic {i}"} for i, text in enumerate(DOCUMENTS)]
    uri = folder.write_lines("named.jsonl", records)
    data = {
        "sources": [{"uri": uri, "fields": {"id": "name"}}],
        "privacy": {"erase": [{"uri": "s3://tiny-bucket/erase/list.txt"}]},
    }
    lists = open_store("s3://tiny-bucket/erase", folder.configure("any").storage)
    digest = hashlib.sha256(DOCUMENTS[3].encode()).hexdigest()
    found = []
    for run, lines in (("before", "\n"), ("after", f"{digest}\nid:topic 4\n")):
        lists.write_bytes("list.txt", lines.encode())
        config = folder.configure(run, **data)
        result = prepare(config)
        found.append((result.dataset, sorted(list_texts(config, result, tmp_path / run))))
        prepared = open_prepared(config, result)
        index = prepared.find_object(DOCUMENTS_INDEX)
        assert index is not None
        for name in (digest, "id:topic 3", "id:topic 4"):
            entry = make_entry(name)
            assert entry is not None
            assert find_entry(prepared, index.size, entry) == (run == "before")
    assert read_manifest(config, result).steps[0].rules["erased"].count == 2
    assert found[0][0] != found[1][0]
    assert found[0][1] == sorted(DOCUMENTS)
    assert found[1][1] == sorted([*DOCUMENTS[:3], *DOCUMENTS[5:]])
