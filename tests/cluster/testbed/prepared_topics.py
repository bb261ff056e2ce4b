"""Python's own documentation as a corpus in a store, and what preparation makes of it.

Below: `prepare` of the trainer, really run. Above: tests of preparation from end to end.
"""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from transformers import AutoTokenizer

from llmtrain_api.naming import locate_dataset
from llmtrain_api.records import StageResult
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Dataset, open_dataset
from llmtrain_trainer.dataset.shards import DatasetManifest
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.store import Store, open_store
from testbed.tiny_run import configure_tiny_run

DOCUMENT_CHARACTERS = 2000

DOCUMENTS = list(dict.fromkeys(topics[name][:DOCUMENT_CHARACTERS] for name in sorted(topics)))
"""Some topics have several names."""

JSONL_DATA: dict[str, Any] = {
    "sources": [{"uri": "s3://tiny-bucket/topics/*.jsonl", "textField": "body"}],
    "tokenizer": {"kind": "byte"},
    "split": {"method": "document", "validationFraction": 0.1},
}


class TopicsFolder:
    """A folder as a store that holds the topics."""

    def __init__(self, root: Path) -> None:
        """Write the topics below `root`."""
        self._root = root
        write_topics(self.configure("any"))

    def configure(self, run: str, **data: Any) -> RunConfig:
        """Describe a run whose data is that of `JSONL_DATA`, but for `data`."""
        return configure_tiny_run(self._root, run=run, data={**JSONL_DATA, **data})

    def write_lines(self, name: str, records: list[dict[str, Any]], end: str = "") -> str:
        """Put a JSON lines file of these records into the store; return its URI."""
        lines = "".join(json.dumps(record) + "\n" for record in records) + end
        store = open_store("s3://tiny-bucket/lines", self.configure("any").storage)
        store.write_bytes(name, lines.encode())
        return f"s3://tiny-bucket/lines/{name}"


def write_topics(config: RunConfig) -> None:
    """Put the topics into two JSON lines files of the run's store."""
    store = open_store("s3://tiny-bucket/topics", config.storage)
    half = len(DOCUMENTS) // 2
    for name, documents in (("a", DOCUMENTS[:half]), ("b", DOCUMENTS[half:])):
        lines = [json.dumps({"body": text}) for text in documents]
        store.write_bytes(f"{name}.jsonl", "\n".join(lines).encode())


def prepare(config: RunConfig) -> StageResult:
    """Run the stage as its only task."""
    return run_prepare(config, Reporter(0, lambda update: None))


def open_prepared(config: RunConfig, result: StageResult) -> Store:
    """Return a store rooted at what was prepared."""
    return open_store(locate_dataset(config.storage.uri, str(result.dataset)), config.storage)


def open_result(config: RunConfig, result: StageResult, cache: Path) -> Dataset:
    """Return the dataset, with its files in `cache`."""
    return open_dataset(open_prepared(config, result), cache)


def read_manifest(config: RunConfig, result: StageResult) -> DatasetManifest:
    """Return the manifest of what was prepared."""
    return DatasetManifest.model_validate_json(
        open_prepared(config, result).read_bytes("manifest.json")
    )


def list_documents(dataset: Dataset, folder: Path) -> list[list[str]]:
    """Return the text of the training and the held-out documents, as `transformers` reads it.

    Args:
        dataset: that is open.
        folder: for its tokenizer; is made.
    """
    folder.mkdir()
    dataset.save_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [
        [str(tokenizer.decode(split.read_document(i))) for i in range(split.num_documents)]
        for split in (dataset.train, dataset.validation)
    ]


def list_texts(config: RunConfig, result: StageResult, folder: Path) -> list[str]:
    """Return the text of all documents; `folder` is for the dataset's files."""
    dataset = open_result(config, result, folder / "cache")
    return [text for side in list_documents(dataset, folder / "tokenizer") for text in side]
