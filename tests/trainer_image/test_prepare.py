"""Preparation from end to end, on the text of Python's own documentation."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from llmtrain_api.naming import locate_dataset
from llmtrain_api.records import StageResult
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.document_index import DOCUMENTS as DOCUMENTS_INDEX
from llmtrain_trainer.dataset.document_index import find_entry, make_entry
from llmtrain_trainer.dataset.loading import Dataset, open_dataset
from llmtrain_trainer.dataset.shards import DatasetManifest
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.sources import find_inputs
from llmtrain_trainer.prepare import compute_fingerprint, run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.store import BucketMissingError, open_store
from llmtrain_trainer.tokenizer.marks import Role
from testbed.fault_log import FaultWatch
from testbed.minio import MinioServer
from testbed.tiny_run import configure_tiny_run

DOCUMENTS = list(dict.fromkeys(topics[name] for name in sorted(topics)))
"""Some topics have several names."""

JSONL_DATA: dict[str, Any] = {
    "sources": [{"uri": "s3://tiny-bucket/topics/*.jsonl", "textField": "body"}],
    "tokenizer": {"kind": "bpe", "vocabularySize": 1000},
    "split": {"method": "document", "validationFraction": 0.1},
}

ConfigureAt = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def configure_folder(tmp_path_factory: pytest.TempPathFactory) -> ConfigureAt:
    """Describes runs whose store is a folder with the topics."""
    root = tmp_path_factory.mktemp("folder")

    def configure(run: str = "run", **sections: Any) -> RunConfig:
        return configure_tiny_run(root, run=run, **sections)

    write_topics(configure())
    return configure


@pytest.fixture(scope="module")
def configure_minio(minio: MinioServer, tmp_path_factory: pytest.TempPathFactory) -> ConfigureAt:
    """Describes runs whose store is a MinIO with the topics."""
    folder = tmp_path_factory.mktemp("minio-keys")
    (folder / "accessKey").write_text(minio.access_key)
    (folder / "secretKey").write_text(minio.secret_key)
    minio.create_bucket("tiny-bucket")

    def configure(run: str = "run", **sections: Any) -> RunConfig:
        storage = {
            "localRoot": None,
            "endpoint": minio.endpoint,
            "credentialsDirectory": str(folder),
        }
        return configure_tiny_run(folder, run=run, storage=storage, **sections)

    write_topics(configure())
    return configure


def write_topics(config: RunConfig) -> None:
    """Put the topics into two JSON lines files."""
    store = open_store("s3://tiny-bucket/topics", config.storage)
    half = len(DOCUMENTS) // 2
    for name, documents in (("a", DOCUMENTS[:half]), ("b", DOCUMENTS[half:])):
        lines = [json.dumps({"body": text}) for text in documents]
        store.write_bytes(f"{name}.jsonl", "\n".join(lines).encode())


def prepare(config: RunConfig) -> StageResult:
    return run_prepare(config, Reporter(0, lambda update: None))


def open_result(config: RunConfig, result: StageResult, cache: Path) -> Dataset:
    assert result.dataset is not None
    uri = locate_dataset(config.storage.uri, result.dataset)
    return open_dataset(open_store(uri, config.storage), cache)


def list_documents(dataset: Dataset, folder: Path) -> list[list[str]]:
    """Return the text of the training and the held-out documents."""
    folder.mkdir()
    dataset.save_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [
        [str(tokenizer.decode(split.read_document(i))) for i in range(split.num_documents)]
        for split in (dataset.train, dataset.validation)
    ]


def test_folder_and_minio_give_the_same_data(
    configure_folder: ConfigureAt, configure_minio: ConfigureAt, tmp_path: Path
) -> None:
    manifests = []
    for name, configure in (("folder", configure_folder), ("minio", configure_minio)):
        config = configure(data=JSONL_DATA)
        result = prepare(config)
        assert (result.documents, result.dataset_reused) == (len(DOCUMENTS), False)
        assert result.vocabulary_size == 1000
        uri = locate_dataset(config.storage.uri, str(result.dataset))
        manifests.append(json.loads(open_store(uri, config.storage).read_bytes("manifest.json")))

        dataset = open_result(config, result, tmp_path / f"{name}-cache")
        train, held_out = list_documents(dataset, tmp_path / f"{name}-tokenizer")
        assert sorted(train + held_out) == sorted(DOCUMENTS)
        assert [text for text in DOCUMENTS if text in set(train)] == train
        assert 0.02 < len(held_out) / len(DOCUMENTS) < 0.25
        assert dataset.validation.num_bytes == sum(len(text.encode()) for text in held_out)
        assert dataset.unigram_counts.sum() == dataset.train.num_tokens == result.train_tokens
        assert dataset.unigram_counts[dataset.end_of_text] == len(train)
        assert dataset.validation.num_tokens == result.validation_tokens
    assert manifests[0]["objects"] == manifests[1]["objects"]


def test_second_job_uses_the_data_of_the_first(configure_minio: ConfigureAt) -> None:
    data = {**JSONL_DATA, "tokenizer": {"kind": "byte"}}
    first = prepare(configure_minio("first", data=data))
    second_config = configure_minio("second", data=data)
    second = prepare(second_config)
    assert (first.dataset_reused, second.dataset_reused) == (False, True)
    assert second.model_copy(update={"dataset_reused": False}) == first
    store = open_store(second_config.run_uri, second_config.storage)
    record = json.loads(store.read_bytes("dataset.json"))
    assert record["fingerprint"] == first.dataset
    other = configure_minio("third", data={**data, "split": {"validationFraction": 0.2}})
    assert prepare(other).dataset != first.dataset


def test_changed_source_is_prepared_anew(configure_minio: ConfigureAt) -> None:
    data = {"sources": [{"uri": "s3://tiny-bucket/changing.txt"}]}
    config = configure_minio("changing", data=data)
    store = open_store("s3://tiny-bucket", config.storage)
    results = []
    for text in ("one " * 100, "two " * 100):
        store.write_bytes("changing.txt", text.encode())
        results.append(prepare(config))
    assert results[0].dataset != results[1].dataset
    assert results[1].dataset_reused is False


def test_jobs_at_the_same_time_agree(configure_minio: ConfigureAt, tmp_path: Path) -> None:
    data = {**JSONL_DATA, "tokenizer": {"kind": "character"}}
    configs = [configure_minio(f"rival-{i}", data=data) for i in range(3)]
    with ThreadPoolExecutor(len(configs)) as pool:
        results = list(pool.map(prepare, configs))
    assert len({result.dataset for result in results}) == 1
    assert [result.dataset_reused for result in results].count(False) == 1
    dataset = open_result(configs[0], results[0], tmp_path / "cache")
    train, held_out = list_documents(dataset, tmp_path / "tokenizer")
    assert sorted(train + held_out) == sorted(DOCUMENTS)


def test_tail_split_holds_out_the_end_of_each_document(
    configure_folder: ConfigureAt, tmp_path: Path
) -> None:
    data = {**JSONL_DATA, "split": {"method": "tail", "validationFraction": 0.25}}
    config = configure_folder("tail", data={**data, "tokenizer": {"kind": "byte"}})
    dataset = open_result(config, prepare(config), tmp_path / "cache")
    train, held_out = list_documents(dataset, tmp_path / "tokenizer")
    joined = [start + end for start, end in zip(train, held_out, strict=True)]
    assert joined == DOCUMENTS
    share = sum(map(len, held_out)) / sum(map(len, DOCUMENTS))
    assert share == pytest.approx(0.25, abs=0.001)


def test_test_part_is_a_third_file_and_changes_no_other_fingerprint(
    configure_folder: ConfigureAt, tmp_path: Path
) -> None:
    data = {**JSONL_DATA, "tokenizer": {"kind": "byte"}}
    split = {**JSONL_DATA["split"], "testFraction": 0.2}
    config = configure_folder("tested", data={**data, "split": split})
    result = prepare(config)
    assert result.dataset != prepare(configure_folder("untested", data=data)).dataset
    dataset = open_result(config, result, tmp_path / "cache")
    assert dataset.test is not None
    train, held_out = list_documents(dataset, tmp_path / "tokenizer")
    last = dataset.test.num_documents
    assert len(train) + len(held_out) + last == len(DOCUMENTS)
    assert 0.1 < last / len(DOCUMENTS) < 0.35
    assert dataset.unigram_counts.sum() == dataset.train.num_tokens


@pytest.mark.fault(21, world="ranks")
def test_bad_line_stops_the_stage_and_leaves_no_dataset(
    configure_folder: ConfigureAt, fault: FaultWatch
) -> None:
    data = {"sources": [{"uri": "s3://tiny-bucket/bad/"}]}
    config = configure_folder("bad", data=data)
    store = open_store("s3://tiny-bucket/bad", config.storage)
    store.write_bytes("lines.jsonl", b'{"text": "fine"}\n' * 811 + b'{"text": \n')
    listing = open_store("s3://tiny-bucket/datasets", config.storage)
    before = [item.key for item in listing.list_objects()]
    fault.strikes()
    with pytest.raises(DataError) as failed:
        prepare(config)
    fault.said(failed.value.message, "s3://tiny-bucket/bad/lines.jsonl:812: not valid JSON")
    assert [item.key for item in listing.list_objects()] == before


def test_missing_sources_are_named(configure_minio: ConfigureAt) -> None:
    def prepare_from(uri: str) -> None:
        prepare(configure_minio("missing", data={"sources": [{"uri": uri}]}))

    with pytest.raises(BucketMissingError, match="bucket elsewhere does not exist at http://"):
        prepare_from("s3://elsewhere/*.txt")
    with pytest.raises(DataError, match=r"data\.sources\[0\]\.uri: no object matches"):
        prepare_from("s3://tiny-bucket/nothing/")


def test_split_of_one_document_is_refused(configure_folder: ConfigureAt) -> None:
    config = configure_folder(
        "single",
        data={"sources": [{"uri": "s3://tiny-bucket/one.txt"}], "split": {"method": "document"}},
    )
    open_store("s3://tiny-bucket", config.storage).write_bytes("one.txt", b"one document")
    with pytest.raises(DataError, match=r"data\.split leaves no document for") as failed:
        prepare(config)
    assert "method: tail" in failed.value.next_step


def test_stage_needs_neither_torch_nor_transformers() -> None:
    check = (
        "import sys, llmtrain_trainer.prepare, llmtrain_trainer.store.s3;"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_counts_of_held_out_tokens(configure_folder: ConfigureAt, tmp_path: Path) -> None:
    data = {**JSONL_DATA, "tokenizer": {"kind": "byte"}}
    config = configure_folder("counts", data=data)
    dataset = open_result(config, prepare(config), tmp_path / "cache")
    _, held_out = list_documents(dataset, tmp_path / "tokenizer")
    counts = np.bincount(np.frombuffer("".join(held_out).encode(), np.uint8), minlength=257)
    counts[256] = len(held_out)
    assert dataset.validation.count_tokens(dataset.vocabulary_size).tolist() == counts.tolist()


def write_lines(config: RunConfig, name: str, records: list[dict[str, Any]], end: str = "") -> str:
    """Put a JSON lines file into a store of its own bucket; return its URI."""
    lines = "".join(json.dumps(record) + "\n" for record in records) + end
    open_store("s3://tiny-bucket/lines", config.storage).write_bytes(name, lines.encode())
    return f"s3://tiny-bucket/lines/{name}"


def read_manifest(config: RunConfig, result: StageResult) -> DatasetManifest:
    uri = locate_dataset(config.storage.uri, str(result.dataset))
    data = open_store(uri, config.storage).read_bytes("manifest.json")
    return DatasetManifest.model_validate_json(data)


def test_records_that_cannot_be_read_are_left_out_and_listed(configure_folder: ConfigureAt) -> None:
    records = [{"text": text} for text in DOCUMENTS]
    uri = write_lines(configure_folder(), "broken.jsonl", [*records, {"body": "x"}], "{\n")
    data: dict[str, Any] = {"sources": [{"uri": uri}], "invalid": {"policy": "skip"}}
    with pytest.raises(DataError, match="2 of 80 records cannot be read") as failed:
        prepare(configure_folder("strict", data={**data, "sources": [{"uri": uri}]}))
    assert failed.value.reason == "TooManyInvalid"
    data["invalid"]["maxRate"] = 0.05
    config = configure_folder("lenient", data=data)
    result = prepare(config)
    assert result.documents == len(DOCUMENTS)
    folder = open_store(locate_dataset(config.storage.uri, str(result.dataset)), config.storage)
    rejected = [json.loads(line) for line in folder.read_bytes("rejected.jsonl").splitlines()]
    assert [line["place"] for line in rejected] == [
        f"{uri}:{len(DOCUMENTS) + 1}",
        f"{uri}:{len(DOCUMENTS) + 2}",
    ]
    step = read_manifest(config, result).steps[0]
    assert (step.documents_in, step.documents_out) == (len(DOCUMENTS) + 2, len(DOCUMENTS))
    assert step.rules["unreadable"].count == 2


def test_weights_repeat_and_thin_training_documents(
    configure_folder: ConfigureAt, tmp_path: Path
) -> None:
    config = configure_folder()
    sources = [
        {"uri": write_lines(config, f"{i}.jsonl", [{"text": f"{i} {t}"} for t in DOCUMENTS])}
        | {"weight": weight}
        for i, weight in enumerate((3.0, 0.4, 1.0))
    ]
    config = configure_folder("weights", data={"sources": sources, "split": {"method": "document"}})
    dataset = open_result(config, prepare(config), tmp_path / "cache")
    train, held_out = list_documents(dataset, tmp_path / "tokenizer")
    counts = {i: [train.count(f"{i} {text}") for text in DOCUMENTS] for i in range(3)}
    kept = [sum(text[0] == str(i) for text in held_out) for i in range(3)]
    assert len(set(held_out)) == len(held_out)
    assert counts[0].count(3) == len(DOCUMENTS) - kept[0]
    assert counts[2].count(1) == len(DOCUMENTS) - kept[2]
    assert set(counts[1]) == {0, 1}
    assert 0.2 < sum(counts[1]) / len(DOCUMENTS) < 0.6


def test_sources_are_recorded_by_their_digest(configure_folder: ConfigureAt) -> None:
    config = configure_folder("digests", data=JSONL_DATA)
    manifest = read_manifest(config, prepare(config))
    store = open_store("s3://tiny-bucket/topics", config.storage)
    digests = [hashlib.sha256(store.read_bytes(f"{name}.jsonl")).hexdigest() for name in "ab"]
    assert [source.sha256 for source in manifest.sources] == digests


def test_cleaned_text_is_what_is_trained_on(configure_folder: ConfigureAt, tmp_path: Path) -> None:
    records = [{"text": f"{text[:2000]}\r\n\x00"} for text in DOCUMENTS]
    uri = write_lines(configure_folder(), "unclean.jsonl", [*records, {"text": "N/A"}])
    data = {"sources": [{"uri": uri}], "split": {"method": "document"}}
    clean = {"collapseWhitespace": True, "minCharacters": 500, "languages": ["en"]}
    config = configure_folder("clean", data={**data, "clean": clean})
    result = prepare(config)
    dataset = open_result(config, result, tmp_path / "cache")
    texts = [text for side in list_documents(dataset, tmp_path / "tokenizer") for text in side]
    assert not [text for text in texts if len(text) < 500 or text != text.strip() or "\r" in text]
    read, normalize, select, privacy, exact = read_manifest(config, result).steps
    assert (read.step, normalize.step, select.step) == ("read", "normalize", "select")
    assert privacy.documents_changed == 0
    assert (exact.step, exact.documents_out) == ("exact duplicates", len(texts))
    assert read.documents_out == normalize.documents_in == len(DOCUMENTS) + 1
    assert normalize.rules["control characters removed"].count == len(DOCUMENTS)
    assert len(texts) <= select.documents_out < len(DOCUMENTS)
    assert {"missing value", "too short"} <= set(select.rules)


def test_steps_that_leave_nothing_are_named(configure_folder: ConfigureAt) -> None:
    data = {**JSONL_DATA, "clean": {"minCharacters": 1_000_000}}
    with pytest.raises(DataError, match=r"every document; .* its step select") as failed:
        prepare(configure_folder("nothing", data=data))
    assert failed.value.reason == "DatasetEmpty"


def test_copies_and_evaluation_sets_are_not_trained_on(
    configure_folder: ConfigureAt, tmp_path: Path
) -> None:
    base = configure_folder()
    texts = [text[:3000] for text in DOCUMENTS]
    copies = [text.replace("the ", "that ", 3) + f"\n{i}." for i, text in enumerate(texts[:30])]
    uri = write_lines(base, "copies.jsonl", [{"text": text} for text in (*texts, *copies)])
    against = write_lines(base, "exam.jsonl", [{"text": texts[40][200:900]}])
    data = {
        "sources": [{"uri": uri}],
        "split": {"method": "document"},
        "deduplicate": {"near": "edited", "paragraphs": True, "against": [{"uri": against}]},
    }
    config = configure_folder("copies", data=data)
    result = prepare(config)
    steps = {step.step: step for step in read_manifest(config, result).steps}
    assert steps["near duplicates"].rules["duplicate"].count >= 29
    contaminated = steps["contamination"].rules["in a set to evaluate on"]
    assert f"{uri}:41" in {example.place for example in contaminated.examples}
    assert steps["paragraphs"].documents_out == steps["paragraphs"].documents_in
    dataset = open_result(config, result, tmp_path / "cache")
    left = [text for side in list_documents(dataset, tmp_path / "tokenizer") for text in side]
    assert len(left) == steps["paragraphs"].documents_out
    assert not [text for text in left if texts[40][300:500] in text]

    write_lines(base, "exam.jsonl", [{"text": "another exam, with other questions"}])
    assert prepare(config).dataset != result.dataset


@pytest.mark.parametrize("action", ["report", "replace", "drop"])
def test_personal_data_is_counted_and_goes_nowhere(
    configure_folder: ConfigureAt, tmp_path: Path, action: str
) -> None:
    base = configure_folder()
    secret = "jane.roe@example.org"
    records = [{"text": f"{text[:500]}\nWrite to {secret}."} for text in DOCUMENTS[:5]]
    records += [{"text": text[:500]} for text in DOCUMENTS[5:]]
    uri = write_lines(base, "people.jsonl", records)
    data = {"sources": [{"uri": uri}], "privacy": {"action": action, "kinds": ["email"]}}
    config = configure_folder(f"privacy-{action}", data={**data, "split": {"method": "document"}})
    result = prepare(config)
    (step,) = (s for s in read_manifest(config, result).steps if s.step == "privacy")
    assert step.rules["email"].count == 5
    assert secret not in step.model_dump_json()
    dataset = open_result(config, result, tmp_path / "cache")
    left = [text for side in list_documents(dataset, tmp_path / "tokenizer") for text in side]
    assert sum(secret in text for text in left) == (5 if action == "report" else 0)
    assert sum("Write to <EMAIL>." in text for text in left) == (5 if action == "replace" else 0)
    assert len(left) == len(DOCUMENTS) - (5 if action == "drop" else 0)


def test_tokenizer_learns_from_a_sample_and_is_described(configure_folder: ConfigureAt) -> None:
    tokenizer: dict[str, Any] = {"kind": "bpe", "vocabularySize": 1000}
    files = []
    for sample in (100_000, 1_000_000_000):
        data: dict[str, Any] = {**JSONL_DATA}
        data["tokenizer"] = {**tokenizer, "sampleCharacters": sample}
        config = configure_folder(f"sample-{sample}", data=data)
        result = prepare(config)
        manifest = read_manifest(config, result)
        store = open_store(locate_dataset(config.storage.uri, str(result.dataset)), config.storage)
        files.append(store.read_bytes("tokenizer/tokenizer.json"))
        assert manifest.tokenizer is not None
        assert 1.0 < manifest.tokenizer.tokens_per_word < 4.0
        assert 2.0 < manifest.tokenizer.bytes_per_token < 5.0
        assert manifest.tokenizer.unknown_rate == 0.0
        assert 500 < manifest.tokenizer.tokens_used <= 1000
    assert files[0] != files[1]


def test_source_is_cut_to_its_cap(configure_folder: ConfigureAt) -> None:
    sources = [{**source, "maxCharacters": 200_000} for source in JSONL_DATA["sources"]]
    data = {**JSONL_DATA, "sources": sources, "tokenizer": {"kind": "byte"}}
    config = configure_folder("cap", data=data)
    (step,) = (s for s in read_manifest(config, prepare(config)).steps if s.step == "reduce")
    assert step.documents_in == len(DOCUMENTS) > step.documents_out
    assert 100_000 < step.characters_out <= 200_000


def test_documents_to_be_erased_are_not_used(configure_folder: ConfigureAt, tmp_path: Path) -> None:
    base = configure_folder()
    records = [{"text": text, "name": f"topic {i}"} for i, text in enumerate(DOCUMENTS)]
    uri = write_lines(base, "named.jsonl", records)
    store = open_store("s3://tiny-bucket/erase", base.storage)
    erase = [{"uri": "s3://tiny-bucket/erase/list.txt"}]
    data = {
        "sources": [{"uri": uri, "fields": {"id": "name"}}],
        "tokenizer": {"kind": "byte"},
        "split": {"method": "document"},
        "privacy": {"erase": erase},
    }
    digest = hashlib.sha256(DOCUMENTS[3].encode()).hexdigest()
    found = []
    for run, lines in (("before", "\n"), ("after", f"{digest}\nid:topic 4\n")):
        store.write_bytes("list.txt", lines.encode())
        config = configure_folder(run, data=data)
        result = prepare(config)
        dataset = open_result(config, result, tmp_path / f"{run}-cache")
        sides = list_documents(dataset, tmp_path / f"{run}-tokenizer")
        found.append((result.dataset, sorted(text for side in sides for text in side)))
        at = open_store(locate_dataset(config.storage.uri, str(result.dataset)), config.storage)
        index = at.find_object(DOCUMENTS_INDEX)
        assert index is not None
        for name in (digest, "id:topic 3", "id:topic 4"):
            entry = make_entry(name)
            assert entry is not None
            assert find_entry(at, index.size, entry) == (run == "before")
    assert read_manifest(config, result).steps[0].rules["erased"].count == 2
    assert found[0][0] != found[1][0]
    assert found[0][1] == sorted(DOCUMENTS)
    assert found[1][1] == sorted([*DOCUMENTS[:3], *DOCUMENTS[5:]])


CHATS = [
    [
        {"role": "system", "content": "Explain Python."},
        {"role": "user", "content": f"What is {name}? "},
        {"role": "assistant", "content": text[:400]},
    ]
    for name, text in zip(sorted(topics), DOCUMENTS, strict=False)
]


@pytest.mark.parametrize("kind", ["byte", "character", "bpe", "wordpiece", "unigram"])
def test_conversations_are_tokens_as_transformers_make_them(
    configure_folder: ConfigureAt, tmp_path: Path, kind: str
) -> None:
    records = [{"chat": chat, "topic": f"t{i % 2}"} for i, chat in enumerate(CHATS)]
    uri = write_lines(configure_folder(), "chats.jsonl", records)
    fields = {"messages": "chat", "label": "topic", "id": "topic"}
    data = {
        "sources": [{"uri": uri, "fields": fields}],
        "tokenizer": {"kind": kind, "vocabularySize": 900},
        "split": {"method": "document", "validationFraction": 0.1},
    }
    config = configure_folder(f"chats-{kind}", data=data)
    result = prepare(config)
    dataset = open_result(config, result, tmp_path / "cache")
    (tmp_path / "tokenizer").mkdir()
    dataset.save_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    expected = [
        tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False) for chat in CHATS
    ]
    found = [
        split.read_document(i).tolist()
        for split in (dataset.train, dataset.validation)
        for i in range(split.num_documents)
    ]
    assert sorted(found) == sorted(expected)

    manifest = read_manifest(config, result)
    assert manifest.labels == ["t0", "t1"]
    shard = manifest.train.shards[0]
    roles = np.fromfile(dataset.folder / str(shard.roles), np.uint8)
    tokens = np.fromfile(dataset.folder / shard.tokens, manifest.token_type)
    spoken = str(tokenizer.decode(tokens[roles == Role.ASSISTANT]))
    *words, rest = spoken.split("<|im_end|>")
    assert (len(words), rest) == (dataset.train.num_documents, "")
    assert set(words) <= {chat[2]["content"].strip() for chat in CHATS}
    lines = (dataset.folder / str(shard.facts)).read_text().splitlines()
    assert len(lines) == dataset.train.num_documents
    assert json.loads(lines[0])["label"] in {"t0", "t1"}


def test_label_that_is_only_held_out_is_refused(configure_folder: ConfigureAt) -> None:
    records = [{"text": text, "topic": f"topic {i}"} for i, text in enumerate(DOCUMENTS)]
    uri = write_lines(configure_folder(), "labels.jsonl", records)
    data = {
        "sources": [{"uri": uri, "fields": {"label": "topic"}}],
        "split": {"method": "document", "validationFraction": 0.2},
    }
    with pytest.raises(DataError, match=r"labels of validation are not trained on") as failed:
        prepare(configure_folder("labels", data=data))
    assert failed.value.reason == "LabelUnseen"


def test_rows_budget_and_copies_are_counted(configure_folder: ConfigureAt, tmp_path: Path) -> None:
    data = {
        **JSONL_DATA,
        "augment": {"synonym": 0.3, "typo": 0.1, "fillInMiddle": 0.5},
        "reduce": {"tokens": 60_000, "typicalShare": 0.9, "minNovelty": 0.1},
        "pack": {"sequenceLength": 128},
        "shardMebibytes": 1,
    }
    config = configure_folder("shaped", data=data)
    result = prepare(config)
    manifest = read_manifest(config, result)
    train = manifest.train
    assert train.num_tokens % 128 == 0
    assert train.num_tokens - train.num_padding <= 60_000
    assert train.num_padding < 0.05 * train.num_tokens
    steps = {step.step: step for step in manifest.steps}
    assert steps["typical"].documents_out < steps["typical"].documents_in
    assert steps["augment"].rules["copy"].count > 0
    assert steps["budget"].rules["above the budget of tokens"].count > 0
    dataset = open_result(config, result, tmp_path / "cache")
    (tmp_path / "tokenizer").mkdir()
    dataset.save_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert manifest.vocabulary_size == 1000
    counts = dataset.train.count_tokens(manifest.vocabulary_size)
    assert counts[tokenizer.convert_tokens_to_ids("<|fim_middle|>")] > 0
    held_out = dataset.validation.count_tokens(manifest.vocabulary_size)
    assert held_out[tokenizer.convert_tokens_to_ids("<|fim_middle|>")] == 0
    assert dataset.unigram_counts.sum() == train.num_tokens - train.num_padding


@pytest.mark.parametrize(
    "changed",
    [
        {"split": {**JSONL_DATA["split"], "testFraction": 0.1}},
        {"reduce": {"tokens": 10_000}},
        {"augment": {"typo": 0.1}},
        {"augment": {"typo": 0.1, "seed": 1}},
        {"pack": {"sequenceLength": 64}},
        {"pack": {"sequenceLength": 64, "overlong": "truncate"}},
        {"shardMebibytes": 1},
        {"sources": [{**JSONL_DATA["sources"][0], "fields": {"id": "body"}}]},
    ],
)
def test_fingerprint_follows_what_changes_the_data(
    configure_folder: ConfigureAt, changed: dict[str, Any]
) -> None:
    def fingerprint(data: dict[str, Any]) -> str:
        config = configure_folder("fingerprint", data=data)
        inputs = find_inputs(config.data, config.storage)
        return compute_fingerprint(config.data, inputs, config.storage)

    assert fingerprint({**JSONL_DATA, **changed}) != fingerprint(JSONL_DATA)
    absent = dict.fromkeys(["reduce", "augment", "pack", "shardMebibytes"])
    assert fingerprint({**JSONL_DATA, **absent}) == fingerprint(JSONL_DATA)
