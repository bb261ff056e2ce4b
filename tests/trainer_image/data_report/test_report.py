"""The report of a prepared dataset, as JSON and as a page."""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

from llmtrain_api.naming import locate_dataset
from llmtrain_trainer.data_report import publishing, sample
from llmtrain_trainer.data_report.publishing import describe_lengths
from llmtrain_trainer.data_report.record import DataReport
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.store import Store, open_store
from testbed.tiny_run import configure_tiny_run

SECRET = "jane.roe@example.org"


class Page(HTMLParser):
    """Collects tags and what a page would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href"} and not (value or "").startswith("#"):
                self.loads.append(f"{tag} {value}")


def prepare(root: Path, records: list[dict[str, Any]], **data: Any) -> Store:
    config = configure_tiny_run(
        root, data={"sources": [{"uri": "s3://tiny-bucket/a.jsonl", "splitField": "kind"}], **data}
    )
    lines = "".join(json.dumps(record) + "\n" for record in records)
    open_store("s3://tiny-bucket", config.storage).write_bytes("a.jsonl", lines.encode())
    result = run_prepare(config, Reporter(0, lambda update: None))
    assert result.dataset is not None
    return open_store(locate_dataset(config.storage.uri, result.dataset), config.storage)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Store:
    draws = random.Random(0)
    names = sorted(topics)
    records = [
        {"text": f"{topics[name][:1500]} Write to {SECRET}. <b>bold</b>", "kind": name[0]}
        for name in draws.choices(names, k=120)
    ]
    data = {
        "split": {"method": "stratified", "testFraction": 0.1},
        "tokenizer": {"kind": "bpe", "vocabularySize": 600},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "MAP_FROM_DOCUMENTS", 20)
        return prepare(tmp_path_factory.mktemp("store"), records, **data)


def read_report(store: Store) -> DataReport:
    return DataReport.model_validate_json(store.read_bytes("report.json"))


def test_report_counts_what_the_manifest_counts(dataset: Store) -> None:
    report = read_report(dataset)
    manifest = json.loads(dataset.read_bytes("manifest.json"))
    assert [step.step for step in report.steps] == [step["step"] for step in manifest["steps"]]
    assert [part.name for part in report.parts] == ["train", "validation", "test"]
    for part in report.parts:
        assert part.tokens == manifest[part.name]["numTokens"]
        assert sum(part.token_lengths.histogram.values()) == part.documents
        assert sum(part.labels.values()) == part.documents
    documents = sum(part.documents for part in report.parts)
    assert report.sources[0].documents == documents == report.sample_documents
    assert sum(report.languages.values()) == documents
    assert report.duplicates["exact duplicates"] == 120 - documents
    assert report.points_show == "label"
    assert len(report.points) == documents
    assert report.vocabulary.most_frequent[0].count > report.vocabulary.most_frequent[-1].count


def test_page_needs_nothing_else_and_escapes_documents(dataset: Store) -> None:
    html = dataset.read_bytes("report.html").decode()
    page = Page(html)
    assert page.tags.count("svg") == 5
    assert page.loads == []
    assert "&lt;b&gt;bold" in html or "<b>bold" not in html


def test_values_of_personal_data_are_nowhere(dataset: Store) -> None:
    report = read_report(dataset)
    assert report.personal_data is not None
    assert report.personal_data["email"] == 120
    for name in ("report.json", "report.html"):
        text = dataset.read_bytes(name).decode()
        assert SECRET not in text
        assert "roe@" not in text


def test_report_is_no_object_of_the_dataset(dataset: Store) -> None:
    manifest = json.loads(dataset.read_bytes("manifest.json"))
    assert not [item for item in manifest["objects"] if item["key"].startswith("report")]


def test_a_few_plain_documents_make_a_page_without_maps(tmp_path: Path) -> None:
    records = [{"text": f"text {i} " * 20, "kind": "a"} for i in range(5)]
    store = prepare(tmp_path, records, privacy={"action": "off"})
    report = read_report(store)
    assert (report.points, report.personal_data) == ([], None)
    assert "Not looked for: privacy.action is off." in store.read_bytes("report.html").decode()


def test_a_report_that_fails_costs_no_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(publishing, "make_report", fail)
    store = prepare(tmp_path, [{"text": f"text {i} " * 20, "kind": "a"} for i in range(5)])
    assert store.find_object("manifest.json") is not None
    assert store.find_object("report.json") is None
    assert "no report of the dataset" in caplog.text


def test_lengths_are_counted_by_powers_of_two() -> None:
    lengths = describe_lengths(np.array([1, 2, 3, 4, 7, 8, 1000]))
    assert lengths.histogram == {1: 1, 2: 2, 4: 2, 8: 1, 512: 1}
    assert (lengths.smallest, lengths.median, lengths.largest) == (1, 4.0, 1000)
