"""The preparation stage: from sources in the store to a dataset in the store.

Below: `preparation`, one module for each step of the recipe; `writing` and `shards` for how tokens
lie in the store; `data_report` for what people want to know of them. Above: the agent calls
`run_prepare` in one process of each task; `train` and `evaluate` find the data through the run's
`dataset.json`.

A dataset is addressed by a digest of all that it follows from, so that jobs that want the same
data prepare it once. Its manifest is created last: two jobs that prepare it at the same time
write the same bytes, and one of them commits.

Two passes are divided over all tasks, through the store: documents are read and refined
(`reading`), and pieces of text encoded (`encoding`). What lies between and behind is about all
documents together, and done by task 0.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from llmtrain_api.data import DataSpec, TokenizerKind
from llmtrain_api.naming import locate_dataset
from llmtrain_api.objective import Objective
from llmtrain_api.records import RankPhase, StageResult
from llmtrain_api.run import RUN_RECORD, RunConfig, StorageConfig
from llmtrain_api.sources import InvalidPolicy
from llmtrain_trainer.data_report.publishing import publish_report
from llmtrain_trainer.data_report.sample import describe_aside
from llmtrain_trainer.data_report.survey import Survey
from llmtrain_trainer.dataset.document_index import DOCUMENTS, DocumentIndex
from llmtrain_trainer.dataset.shards import (
    DATASET,
    MANIFEST,
    QUARANTINE,
    REJECTED,
    TOKENIZER,
    DatasetManifest,
    RunDataset,
)
from llmtrain_trainer.evaluation.baseline import check_baseline_labels
from llmtrain_trainer.evaluation.inputs import check_inputs
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.claims import Pace
from llmtrain_trainer.preparation.corpus import Corpus, open_corpus
from llmtrain_trainer.preparation.encoding import SecondPass, keeps_roles, obtain_encoder
from llmtrain_trainer.preparation.pins import describe_inputs, resolve_inputs
from llmtrain_trainer.preparation.reading import FirstPass
from llmtrain_trainer.preparation.sources import Inputs, SourceFile
from llmtrain_trainer.preparation.splits import Part, Parts, choose_held_out, sample_pieces
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.preparation.tasks import UnitSizes, assist, find_place
from llmtrain_trainer.preparation.team import OvertakenError, Team, join_team, sweep_work
from llmtrain_trainer.preparation.writing import (
    Selection,
    check_labels,
    choose_parts,
    describe_tokenizer,
    list_pieces,
    make_budget,
    open_writer,
    write_splits,
)
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.store import ObjectExistsError, ObjectMissingError, Store, open_store
from llmtrain_trainer.store.described import ManifestObject, describe_file
from llmtrain_trainer.tokenizer.learning import TRAINERS
from llmtrain_trainer.tokenizer.marks import show_text
from llmtrain_trainer.tokenizer.special_tokens import OBJECTIVE_TOKENS
from llmtrain_trainer.tokenizer.tokenization import (
    PRETRAINED_FILES,
    TextEncoder,
    fetch_tokenizer,
    list_special_tokens,
    make_tokenizer,
)

logger = logging.getLogger(__name__)

RECIPE_VERSION = 5
"""Raise it with every change after which the same data becomes other objects, or other units."""

FINGERPRINT_CHARACTERS = 32
"""128 bits: no two recipes will ever share one by chance."""

PACE = Pace()
UNIT_SIZES = UnitSizes()


def run_prepare(
    config: RunConfig,
    reporter: Reporter,
    task: int = 0,
    *,
    pace: Pace = PACE,
    sizes: UnitSizes = UNIT_SIZES,
) -> StageResult:
    """Prepare the run's data as one of its tasks, or find it prepared.

    Args:
        config: the run.
        reporter: hears now and then that work goes on.
        task: its number, from 0 on. Task 0 puts together what all of them did.
        pace: how often tasks look at each other.
        sizes: of the units of their work.

    Raises:
        ConfigurationError: where `model.from` names what cannot be used, or the evaluation would
            find nothing to compare with.
        DataError: where a source holds nothing, or what cannot be read, or too little to split;
            or where a suite of the evaluation could not be asked.
        StoreError: where the store fails.
    """
    if task == 0:
        check_inputs(config)  # what is not there now would be missed after training only
    data, storage = config.data, config.storage
    if task == 0 and config.model.pretrained is not None:
        # Before any data is read. Nothing else here needs `transformers`, which it imports.
        from llmtrain_trainer.model.pretrained import pin_pretrained

        pin_pretrained(config, open_store(config.run_uri, storage))
    inputs = resolve_inputs(config)
    fingerprint = compute_fingerprint(data, inputs, storage, config.objective)
    uri = locate_dataset(config.storage.uri, fingerprint)
    store = open_store(uri, config.storage)
    reused = store.find_object(MANIFEST) is not None
    if not reused:
        try:
            with join_team(store, find_place(config, task), pace, reporter.report) as team:
                reused = not team.await_turn() or not take_part(
                    config, inputs, fingerprint, team, sizes, reporter
                )
        except DataError:
            sweep_work(store)  # the same sources will never make a dataset
            raise
    manifest = DatasetManifest.model_validate_json(store.read_bytes(MANIFEST))
    sweep_work(store)
    if task == 0:
        check_baseline_labels(config, manifest.labels)
        record = RunDataset(fingerprint=fingerprint, uri=uri)
        run_store = open_store(config.run_uri, config.storage)
        run_store.write_bytes(RUN_RECORD, json.dumps(config.describe(), indent=1).encode())
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


def take_part(
    config: RunConfig,
    inputs: Inputs,
    fingerprint: str,
    team: Team,
    sizes: UnitSizes,
    reporter: Reporter,
) -> bool:
    """Do this task's part until the dataset is there; return whether it is this run that made it.

    Raises:
        DataError, StoreError: see `run_prepare`.
    """
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="llmtrain-prepare-"))
        scratch, output = Path(name), Path(name) / "dataset"
        output.mkdir()
        first = FirstPass(config.data, inputs, team, scratch, sizes.read_bytes)
        second = SecondPass(
            team, with_roles=keeps_roles(config.data), unit_characters=sizes.encode_characters
        )
        stack.callback(first.close)
        stack.callback(second.close)
        try:
            if team.place.task > 0:
                assist(config, team, first, second, scratch)
                return True
            quarantines = config.data.invalid.policy is InvalidPolicy.QUARANTINE
            rejected = output / (QUARANTINE if quarantines else REJECTED)
            with open_corpus(
                config.data, inputs, scratch, rejected, reporter.report, first.finish()
            ) as corpus:
                manifest = build_dataset(config, corpus, fingerprint, team, second, output)
                manifest = manifest.model_copy(update={"pins": describe_inputs(inputs)})
            logger.info("begins to commit")
            team.store.create_bytes(MANIFEST, manifest.model_dump_json(by_alias=True).encode())
        except (ObjectExistsError, OvertakenError):
            return False
        except ObjectMissingError:
            if not team.is_complete():
                raise
            return False  # overtaken, too: what was to be read has been swept
    return True


def compute_fingerprint(
    data: DataSpec,
    inputs: Inputs,
    storage: StorageConfig,
    objective: Objective = Objective.CAUSAL,
) -> str:
    """Return the digest of all that the data follows from; no text is read for it."""
    recipe: dict[str, Any] = {
        "pins": None,
        "sources": [],
        "deduplicate": data.deduplicate.model_copy(update={"against": []}),
        "privacy": data.privacy.model_copy(update={"erase": []}),
    }
    facts: dict[str, Any] = {
        "version": RECIPE_VERSION,
        # How sources and lists were named does not matter, which objects they named does; nor by
        # how many tasks they were read.
        "recipe": {
            name: value
            for name, value in data.model_copy(update=recipe).dump().items()
            if name not in ("tasks", "relabel")
        },
        "files": [_pin(file) for file in inputs.documents],
        "against": [_pin(file) for file in inputs.against],
        "erase": [_pin(file) for file in inputs.erase],
    }
    if data.tokenizer.uri is not None:
        listing = open_store(data.tokenizer.uri, storage).list_objects()
        # A model may lie beside it, of which the data is independent.
        facts["tokenizerFiles"] = [
            (item.key, item.etag) for item in listing if item.key in PRETRAINED_FILES
        ]
    if inputs.relabel:
        facts["relabel"] = [_pin(file) for file in inputs.relabel]
    if OBJECTIVE_TOKENS[objective]:
        facts["specialTokens"] = OBJECTIVE_TOKENS[objective]
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_CHARACTERS]


def build_dataset(
    config: RunConfig,
    corpus: Corpus,
    fingerprint: str,
    team: Team,
    second: SecondPass,
    output: Path,
) -> DatasetManifest:
    """Make tokens of a corpus, upload them and a report; return the manifest that commits them."""
    # The sample is most of the report's seconds, and needs no token: it is looked at meanwhile.
    with describe_aside(corpus, config.data) as describe:
        manifest, survey = encode_dataset(config, corpus, fingerprint, team, second, output)
        logger.info("makes the report")
        publish_report(team.store, survey, manifest, output, describe)
    return manifest


def encode_dataset(
    config: RunConfig,
    corpus: Corpus,
    fingerprint: str,
    team: Team,
    second: SecondPass,
    output: Path,
) -> tuple[DatasetManifest, Survey]:
    """Make tokens of a corpus and upload them; return their manifest, and what was seen of it."""
    data = config.data
    logger.info("chooses what is held out, and makes the tokenizer")
    held_out = choose_held_out(corpus.read(), data.split)
    encoder = obtain_encoder(
        team,
        data.tokenizer,
        config.storage,
        output / TOKENIZER,
        lambda folder: _make_encoder(config, corpus, held_out, folder),
    )
    budget = make_budget(corpus, data, held_out, encoder)
    logger.info("writes tokens")
    selection = Selection(corpus, data, held_out, budget)
    pieces = second.encode(selection, encoder, corpus.count_characters())
    writers = {part: open_writer(data, part, encoder, output) for part in choose_parts(data)}
    index = DocumentIndex()
    splits, num_words = write_splits(pieces, writers, index, budget)
    index.write(output / DOCUMENTS)
    labels = check_labels(selection.survey)
    tokenizer = describe_tokenizer(encoder, splits[Part.TRAIN], num_words, output)
    steps = selection.record_steps()
    return DatasetManifest(
        fingerprint=fingerprint,
        recipe=data.model_copy(update={"tasks": 1, "pins": None}),  # the same whatever they are
        sources=corpus.sources,
        steps=steps,
        num_documents=steps[0].documents_out,
        tokenizer=tokenizer,
        vocabulary_size=encoder.vocabulary_size,
        end_of_text=encoder.end_of_text,
        special=encoder.special,
        token_type="<u2" if encoder.token_type.itemsize == 2 else "<u4",
        train=splits[Part.TRAIN],
        validation=splits[Part.VALIDATION],
        test=splits.get(Part.TEST),
        labels=labels,
        leakage=selection.check_leakage(),
        objects=upload_folder(team.store, output),
    ), selection.survey


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
    spec = config.data.tokenizer
    special = [*list_special_tokens(config.data), *OBJECTIVE_TOKENS[config.objective]]
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
