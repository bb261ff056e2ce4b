"""Labels that were wrong are replaced by lists, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtrain_api.run import RunConfig, StorageConfig
from llmtrain_api.sources import Source
from llmtrain_trainer.dataset.document_index import digest_text
from llmtrain_trainer.dataset.loading import open_run_dataset
from llmtrain_trainer.dataset.shards import DatasetManifest
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.relabelling import read_relabels
from llmtrain_trainer.preparation.sources import find_source_files
from llmtrain_trainer.store import open_store
from testbed.tiny_run import configure_tiny_run, prepare_tiny_run

WITH_IDS = Source.model_validate({"uri": "s3://bucket/a.jsonl", "fields": {"id": "key"}})
NUM_DOCUMENTS = 40
TEXTS = [f"text number {number}" for number in range(NUM_DOCUMENTS)]


def prepare(root: Path, run: str, relabel: list[dict[str, str]]) -> RunConfig:
    """Prepare labelled documents, and a list where there are lines for one."""
    bucket = root / "tiny-bucket"
    bucket.mkdir(exist_ok=True)
    records = [
        {"text": text, "label": "even" if number % 2 == 0 else "odd", "key": f"n{number}"}
        for number, text in enumerate(TEXTS)
    ]
    write_lines(bucket / "texts.jsonl", records)
    write_lines(bucket / "list.jsonl", relabel)
    lists = [{"uri": "s3://tiny-bucket/list.jsonl"}] if relabel else []
    fields = {"label": "label", "id": "key"}
    source = {"uri": "s3://tiny-bucket/texts.jsonl", "fields": fields, "splitField": "label"}
    return prepare_tiny_run(
        root,
        run=run,
        data={
            "sources": [source],
            "relabel": lists,
            "split": {"method": "stratified", "validationFraction": 0.2},
        },
        training={"sequenceLength": 8},
    )


def write_lines(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def test_labels_are_replaced_and_nothing_changes_sides(tmp_path: Path) -> None:
    plain = prepare(tmp_path, "plain", [])
    listed = prepare(
        tmp_path,
        "listed",
        [
            {"document": digest_text(TEXTS[0]), "from": "even", "to": "odd"},
            {"document": "id:n1", "from": "odd", "to": "even"},
            {"document": "id:n3", "from": "odd", "to": "rare"},
            {"document": "id:n3", "from": "rare", "to": "even"},  # of a later run
            {"document": "id:n2", "from": "odd", "to": "even"},  # it is even by now
            {"document": "id:nobody", "from": "odd", "to": "even"},
        ],
    )
    before, after = (read_labels(config) for config in (plain, listed))
    assert before.keys() == after.keys()
    changed = {name: after[name] for name in before if before[name] != after[name]}
    assert changed == {
        TEXTS[0]: (before[TEXTS[0]][0], "odd"),
        TEXTS[1]: (before[TEXTS[1]][0], "even"),
        TEXTS[3]: (before[TEXTS[3]][0], "even"),
    }
    store = open_store(listed.run_uri, listed.storage)
    uri = json.loads(store.read_bytes("dataset.json"))["uri"]
    manifest = DatasetManifest.model_validate_json(
        open_store(uri, listed.storage).read_bytes("manifest.json")
    )
    rules = manifest.steps[0].rules
    assert rules["relabelled"].count == 3
    assert rules["has another label than the list says"].examples[0].place.endswith(":3")


def read_labels(config: RunConfig) -> dict[str, tuple[str, str]]:
    """The part and the label of each text."""
    dataset = open_run_dataset(open_store(config.run_uri, config.storage), config)
    return {
        bytes(split.read_document(number).tolist()).decode(): (name, split.labels[number])
        for name, split in (("train", dataset.train), ("validation", dataset.validation))
        for number in range(split.num_documents)
    }


@pytest.mark.parametrize(
    ("line", "source", "message"),
    [
        ({"document": "id:a", "from": "x"}, WITH_IDS, "to: Field required"),
        ({"document": "a", "from": "x", "to": "y"}, WITH_IDS, "document: String should match"),
        ({"document": "id:a", "from": "x", "to": "y"}, Source(uri="s3://bucket/a"), "an id, but"),
        ({"document": "id:first", "from": "x", "to": "z"}, WITH_IDS, "the document gets another"),
    ],
)
def test_a_line_that_is_not_understood_is_refused(
    tmp_path: Path, line: dict[str, Any], source: Source, message: str
) -> None:
    (tmp_path / "bucket").mkdir()
    first = {"document": "id:first" if source is WITH_IDS else "ab" * 16, "from": "x", "to": "y"}
    write_lines(tmp_path / "bucket" / "list.jsonl", [first, line])
    config = StorageConfig(uri="s3://unused", local_root=str(tmp_path))
    files = find_source_files([Source(uri="s3://bucket/list.jsonl")], config, field="data.relabel")
    with pytest.raises(DataError) as failed:
        read_relabels(files, tmp_path, [source])
    assert failed.value.message.startswith(f"s3://bucket/list.jsonl:2: {message}")


def test_a_list_needs_labels() -> None:
    with pytest.raises(ValueError, match=r"relabel needs fields\.label"):
        configure_tiny_run(Path("unused"), data={"relabel": [{"uri": "s3://bucket/list.jsonl"}]})
