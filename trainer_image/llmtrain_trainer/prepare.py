"""The preparation stage: from sources in the store to a dataset in the store.

Below: `preparation`, one module for each step of the recipe; `tokenization`; `shards` for how
tokens lie in the store; `data_report` for what people want to know of them. Above: the agent calls
`run_prepare` in one process; `train` and `evaluate` find the data through the run's `dataset.json`.

A dataset is addressed by a digest of all that it follows from, so that jobs that want the same
data prepare it once. Its manifest is created last: two jobs that prepare it at the same time
write the same bytes, and one of them commits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from llmtrain_api.data import DataSpec, TokenizerKind
from llmtrain_api.naming import locate_dataset
from llmtrain_api.records import RankPhase, StageResult
from llmtrain_api.run import RunConfig, StorageConfig
from llmtrain_trainer.data_report.publishing import publish_report
from llmtrain_trainer.data_report.survey import Survey
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.learning import TRAINERS
from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.manifest import ManifestObject, describe_file
from llmtrain_trainer.packing import RowPacker
from llmtrain_trainer.preparation.budget import TokenBudget
from llmtrain_trainer.preparation.corpus import Corpus, open_corpus
from llmtrain_trainer.preparation.marks import count_bytes, show_text
from llmtrain_trainer.preparation.sources import Inputs, SourceFile, find_inputs
from llmtrain_trainer.preparation.splits import (
    Part,
    Parts,
    Piece,
    choose_held_out,
    divide_into_batches,
    sample_pieces,
)
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.shards import (
    COUNT_TYPE,
    DATASET,
    MANIFEST,
    REJECTED,
    TOKENIZER,
    TRAIN_COUNTS,
    DatasetManifest,
    RunDataset,
    ShardWriter,
    SplitManifest,
    TokenizerRecord,
    count_tokens,
)
from llmtrain_trainer.store import ObjectExistsError, Store, open_store
from llmtrain_trainer.tokenization import (
    TextEncoder,
    fetch_tokenizer,
    list_special_tokens,
    make_tokenizer,
)
from llmtrain_trainer.writing import (
    check_labels,
    choose_parts,
    encode_texts,
    list_pieces,
    make_budget,
    open_writer,
)

logger = logging.getLogger(__name__)

RECIPE_VERSION = 2
"""Raise it with every change after which the same text becomes other tokens."""

PROCESS_BYTES = 8 * 1024 * 1024
"""Of sources, packed or not: as much takes a process seconds, and its start takes one."""

FINGERPRINT_CHARACTERS = 32
"""128 bits: no two recipes will ever share one by chance."""


def run_prepare(config: RunConfig, reporter: Reporter) -> StageResult:
    """Prepare the run's data, or find it prepared.

    Raises:
        DataError: where a source holds nothing, or what cannot be read, or too little to split.
        StoreError: where the store fails.
    """
    data, storage = config.data, config.storage
    inputs = find_inputs(data, storage)
    fingerprint = compute_fingerprint(data, inputs, storage)
    uri = locate_dataset(config.storage.uri, fingerprint)
    store = open_store(uri, config.storage)
    reused = store.find_object(MANIFEST) is not None
    if not reused:
        with tempfile.TemporaryDirectory(prefix="llmtrain-prepare-") as name:
            scratch, output = Path(name), Path(name) / "dataset"
            output.mkdir()
            with open_corpus(
                data,
                inputs,
                scratch,
                output / REJECTED,
                reporter.report,
                choose_num_processes(inputs.documents),
            ) as corpus:
                manifest = build_dataset(config, corpus, fingerprint, store, output, reporter)
        try:
            store.create_bytes(MANIFEST, manifest.model_dump_json(by_alias=True).encode())
        except ObjectExistsError:
            reused = True
    manifest = DatasetManifest.model_validate_json(store.read_bytes(MANIFEST))
    record = RunDataset(fingerprint=fingerprint, uri=uri)
    run_store = open_store(config.run_uri, config.storage)
    run_store.write_bytes(DATASET, record.model_dump_json(by_alias=True).encode())
    reporter.enter(RankPhase.FINISHED)
    return StageResult(
        dataset=fingerprint,
        documents=manifest.num_documents,
        train_tokens=manifest.train.num_tokens,
        validation_tokens=manifest.validation.num_tokens,
        vocabulary_size=manifest.vocabulary_size,
        dataset_reused=reused,
    )


def choose_num_processes(files: list[SourceFile]) -> int:
    """Return how many processes are worth their start for so much text."""
    size = sum(file.stored.size for file in files)
    return max(1, min(count_usable_cores(), size // PROCESS_BYTES))


def compute_fingerprint(data: DataSpec, inputs: Inputs, storage: StorageConfig) -> str:
    """Return the digest of all that the data follows from; no text is read for it."""
    recipe = {
        "sources": [],
        "deduplicate": data.deduplicate.model_copy(update={"against": []}),
        "privacy": data.privacy.model_copy(update={"erase": []}),
    }
    facts: dict[str, Any] = {
        "version": RECIPE_VERSION,
        # How sources were named does not matter, which objects they named does.
        "recipe": data.model_copy(update=recipe).dump(),
        "files": [_pin(file) for file in inputs.documents],
        "against": [_pin(file) for file in inputs.against],
        "erase": [_pin(file) for file in inputs.erase],
    }
    if data.tokenizer.uri is not None:
        listing = open_store(data.tokenizer.uri, storage).list_objects()
        facts["tokenizerFiles"] = [(item.key, item.etag) for item in listing]
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_CHARACTERS]


def build_dataset(
    config: RunConfig,
    corpus: Corpus,
    fingerprint: str,
    store: Store,
    output: Path,
    reporter: Reporter,
) -> DatasetManifest:
    """Make tokens of a corpus, upload them and a report; return the manifest that commits them."""
    data = config.data
    logger.info("chooses what is held out, and makes the tokenizer")
    held_out = choose_held_out(corpus.read(), data.split)
    encoder = _make_encoder(config, corpus, held_out, output / TOKENIZER)
    budget = make_budget(corpus, data, held_out, encoder)
    logger.info("writes tokens")
    survey, augmented = Survey(data), Tally("augment")
    pieces = list_pieces(corpus, data, held_out, augmented)
    pieces = survey.watch(pieces if budget is None else budget.choose(pieces))
    writers = {part: open_writer(data, part, encoder, output) for part in choose_parts(data)}
    splits, num_words = write_splits(pieces, writers, encoder, reporter, budget)
    labels = check_labels(survey)
    tokenizer = describe_tokenizer(encoder, splits[Part.TRAIN], num_words, output)
    last = [augmented] if data.augment is not None else []
    last += [budget.tally] if budget is not None else []
    steps = [*corpus.record_steps(), *(tally.record() for tally in last)]
    manifest = DatasetManifest(
        fingerprint=fingerprint,
        recipe=data,
        sources=corpus.sources,
        steps=steps,
        num_documents=steps[0].documents_out,
        tokenizer=tokenizer,
        vocabulary_size=encoder.vocabulary_size,
        end_of_text=encoder.end_of_text,
        token_type="<u2" if encoder.token_type.itemsize == 2 else "<u4",
        train=splits[Part.TRAIN],
        validation=splits[Part.VALIDATION],
        test=splits.get(Part.TEST),
        labels=labels,
        objects=upload_folder(store, output),
    )
    logger.info("makes the report")
    publish_report(store, survey, manifest, output, reporter.report)
    return manifest


def write_splits(
    pieces: Iterable[Piece],
    writers: Mapping[Part, ShardWriter | RowPacker],
    encoder: TextEncoder,
    reporter: Reporter,
    budget: TokenBudget | None = None,
) -> tuple[dict[Part, SplitManifest], int]:
    """Encode the pieces; write the shards of every part.

    Returns:
        The splits, and the number of words of the training split.

    Raises:
        DataError: where one of them is empty.
    """
    num_words = 0
    with_roles = writers[Part.TRAIN].with_roles
    for batch in divide_into_batches(pieces):
        reporter.report()
        encoded = encode_texts(encoder, [piece.text for piece in batch], with_roles=with_roles)
        for piece, (tokens, roles) in zip(batch, encoded, strict=True):
            if piece.part is Part.TRAIN:
                if budget is not None and not budget.admit(piece, piece.copies * len(tokens)):
                    continue
                num_words += piece.copies * len(show_text(piece.text).split())
            for _ in range(piece.copies):
                writers[piece.part].append(
                    tokens,
                    num_bytes=count_bytes(piece.text),
                    roles=roles,
                    facts=piece.document.facts,
                )
    splits: dict[Part, SplitManifest] = {}
    for part, writer in writers.items():
        split = writer.finish()
        if split is None:
            raise DataError(
                f"data.split leaves no document for {part.name.lower()}",
                reason="SplitEmpty",
                next_step="hold out the ends of documents by data.split.method: tail, or add text",
            )
        splits[part] = split
    return splits, num_words


def describe_tokenizer(
    encoder: TextEncoder, train: SplitManifest, num_words: int, output: Path
) -> TokenizerRecord:
    """Write how often each token occurs in the training split; return what that says."""
    shards = [
        np.memmap(output / shard.tokens, dtype=encoder.token_type, mode="r")
        for shard in train.shards
    ]
    counts = count_tokens(shards, encoder.vocabulary_size)
    counts[encoder.end_of_text] -= train.num_padding
    (output / TRAIN_COUNTS).write_bytes(counts.astype(COUNT_TYPE).data)
    num_tokens = int(counts.sum() - counts[encoder.end_of_text])
    num_unknown = 0 if encoder.unknown is None else int(counts[encoder.unknown])
    return TokenizerRecord(
        tokens_per_word=num_tokens / max(num_words, 1),
        bytes_per_token=train.num_bytes / max(num_tokens, 1),
        unknown_rate=num_unknown / max(num_tokens, 1),
        tokens_used=int((counts > 0).sum()),
    )


def upload_folder(store: Store, folder: Path) -> list[ManifestObject]:
    """Upload every file below `folder`; return what the store then holds."""
    objects = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        item = describe_file(path, path.relative_to(folder).as_posix())
        store.upload(item.key, path)
        objects.append(item)
    return objects


def _pin(file: SourceFile) -> dict[str, Any]:
    """Return what tells a source file and its reading from any other."""
    return {
        **file.source.dump(),
        "uri": file.uri,
        "size": file.stored.size,
        "etag": file.stored.etag,
    }


def _make_encoder(
    config: RunConfig, corpus: Corpus, held_out: Parts | None, folder: Path
) -> TextEncoder:
    spec, special = config.data.tokenizer, list_special_tokens(config.data)
    if spec.kind is TokenizerKind.PRETRAINED:
        assert spec.uri is not None
        return fetch_tokenizer(open_store(spec.uri, config.storage), folder, special)
    pieces = list_pieces(corpus, config.data, held_out, Tally("augment"))
    if spec.kind in TRAINERS:
        share = spec.sample_characters / max(corpus.count_characters(), 1)
        return make_tokenizer(spec, map(show_text, sample_pieces(pieces, share)), folder, special)
    # A weight below one leaves documents out, whose characters are known all the same.
    documents = (document.text for document in corpus.read())
    texts = documents if config.data.augment is None else chain(documents, (p.text for p in pieces))
    return make_tokenizer(spec, map(show_text, texts), folder, special)
