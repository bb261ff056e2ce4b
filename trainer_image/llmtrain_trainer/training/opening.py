"""All of a rank's way to its first step: what a run works on is opened, built and resumed.

Below, in the order of use: `store`, `restore`, `dataset`, `objective`, `precision`, `model`,
`parallel`, `optim`, `checkpoint`, and `run`, which is what comes of it. Above: `train`.

A rank that finds the state in its host's memory and the data on its disk asks the store nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from llmtrain_api.evaluation import HeldOut
from llmtrain_api.objective import Objective as Kind
from llmtrain_api.records import RankPhase
from llmtrain_api.run import RunConfig
from llmtrain_api.training import DivergenceAction
from llmtrain_trainer.checkpoint.manifest import CHECKPOINTS
from llmtrain_trainer.checkpoint.origin import fetch_origin
from llmtrain_trainer.checkpoint.part_file import name_part
from llmtrain_trainer.checkpoint.restore import (
    Checkpoint,
    fetch_newest_checkpoint,
    find_staged_checkpoint,
    load_tensors,
    remove_folder,
)
from llmtrain_trainer.checkpoint.retention import Retention
from llmtrain_trainer.checkpoint.saving import Checkpointer, RunFacts
from llmtrain_trainer.checkpoint.schedule import SaveSchedule
from llmtrain_trainer.checkpoint.staging import StagingArea
from llmtrain_trainer.checkpoint.uploader import Uploader
from llmtrain_trainer.dataset.loading import (
    Dataset,
    find_cache_directory,
    find_dataset,
    open_run_dataset,
)
from llmtrain_trainer.failures import ConfigurationError, DataError, StoreError
from llmtrain_trainer.model.attention import choose_attention
from llmtrain_trainer.model.blueprint import Blueprint, draw_blueprint
from llmtrain_trainer.model.network import ISOLATING
from llmtrain_trainer.model.pretrained import read_pretrained
from llmtrain_trainer.model.recomputation import recompute_activations
from llmtrain_trainer.objective.batch import count_samples
from llmtrain_trainer.objective.choosing import choose_objective
from llmtrain_trainer.parallel import Ranks, find_plain_model
from llmtrain_trainer.precision import Arithmetic, choose_arithmetic
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import count_starts
from llmtrain_trainer.spreading import spread_model
from llmtrain_trainer.store import Store, open_store
from llmtrain_trainer.store.probe import probe_conditional_create
from llmtrain_trainer.tensor_parallel import check_divisible
from llmtrain_trainer.training.curve import list_newest_losses
from llmtrain_trainer.training.divergence import LossWatch, RollbackHistory, read_history
from llmtrain_trainer.training.event_file import EventFile
from llmtrain_trainer.training.micro_batch import (
    MICRO_BATCH,
    MicroBatch,
    find_micro_batch,
    read_micro_batch,
    settle_micro_batch,
)
from llmtrain_trainer.training.optim import Optimizer, find_hidden_matrices
from llmtrain_trainer.training.run import TrainingRun
from llmtrain_trainer.training.stragglers import StepClock, StragglerWatch
from llmtrain_trainer.training.utilization import find_peak_speed

logger = logging.getLogger(__name__)


@contextmanager
def open_run(config: RunConfig, ranks: Ranks, reporter: Reporter) -> Iterator[TrainingRun]:
    """Open the data, build the model, and resume from the newest checkpoint, if there is one.

    Every rank must do so at the same time.
    """
    reporter.enter(RankPhase.RESTORING)
    store = open_store(config.run_uri, config.storage)
    uploader = Uploader(config.run_uri, config.storage)
    with _find_staging(ranks) as folders:
        area = StagingArea(folders, name_part(ranks.group.rank, ranks.group.world_size))
        checkpoint = find_staged_checkpoint(area, ranks)
        if checkpoint is None:
            if ranks.is_first:
                reporter.report(storage_safe=probe_conditional_create(store))
                _sweep_up(store)
            checkpoint = fetch_newest_checkpoint(store, ranks)
        dataset = _open_dataset(config, store, checkpoint)
        pretrained = read_pretrained(config, store)
        blueprint = draw_blueprint(config, dataset, pretrained)
        check_divisible(blueprint.configuration, ranks.tensor_parallel)
        isolates = blueprint.configuration.model_type in ISOLATING
        objective = choose_objective(config, dataset, isolates=isolates)
        samples = count_samples(objective, dataset.train, config.training.sequence_length)
        total_steps = config.training.count_steps(samples)
        assert total_steps is not None
        evaluate_every = config.evaluation.every_steps
        if config.evaluation.every_epochs is not None:
            epochs = config.evaluation.every_epochs
            evaluate_every = config.training.count_epoch_steps(epochs, samples)
        reporter.report(total_steps=total_steps)
        arithmetic = _choose_arithmetic(blueprint, ranks, checkpoint)
        if checkpoint is None:
            checkpoint = fetch_origin(config, ranks, total_steps=total_steps)
            _check_named_steps(config, checkpoint, total_steps=total_steps)
        arithmetic.apply()
        facts = RunFacts(
            dataset=dataset.fingerprint,
            arithmetic=arithmetic.dump(),
            pretrained=blueprint.frozen_digest,
        )
        _check_frozen(blueprint, checkpoint)
        # With a checkpoint the weights are its own, wherever they began; but for frozen ones.
        if checkpoint is None or blueprint.frozen_digest is not None:
            plain_model = blueprint.begin()
        else:
            plain_model = blueprint.build()
        recompute_activations(plain_model, config.training.activation_checkpointing)
        peak_speed = find_peak_speed(
            plain_model,
            sequence_length=config.training.sequence_length,
            world_size=config.world_size,
            device=ranks.device,
            arithmetic=arithmetic,
        )
        choose_attention(plain_model, arithmetic.dtype, ranks.device)
        model = spread_model(plain_model, ranks, config.strategy, arithmetic)
        model.train()
        trained = find_plain_model(model)
        optimizer = Optimizer(
            trained.named_parameters(),
            config.training.optimizer,
            hidden_matrices=find_hidden_matrices(trained),
            products=arithmetic.dtype,
        )
        if config.training.auto_micro_batch:
            found = _share_micro_batch(store, ranks)
            if found is None:
                found = find_micro_batch(config, model, objective, optimizer, dataset.train, ranks)
                if ranks.is_first:
                    store.write_bytes(MICRO_BATCH, found.model_dump_json(by_alias=True).encode())
            config = settle_micro_batch(config, found)
        run = TrainingRun(
            config=config,
            ranks=ranks,
            reporter=reporter,
            store=store,
            dataset=dataset,
            objective=objective,
            blueprint=blueprint,
            model=model,
            optimizer=optimizer,
            checkpointer=Checkpointer(
                store,
                ranks,
                facts,
                area=area,
                uploader=uploader,
                retention=Retention.read(
                    config.checkpoint,
                    with_best=config.keeps_best,
                    steps=config.evaluation.checkpoint_steps,
                ),
            ),
            schedule=SaveSchedule(
                config.checkpoint,
                interruptions=count_starts(ranks.group.round) - 1,
                run_seconds=checkpoint.manifest.run_seconds if checkpoint is not None else 0.0,
            ),
            step=0,
            curve=[],
            events=EventFile(store, total_steps=total_steps),
            total_steps=total_steps,
            evaluate_every=evaluate_every,
            peak_tokens_per_second=peak_speed,
            history=_read_history(config, store, ranks, reporter),
            watch=LossWatch(config.training.divergence),
            clock=StepClock(ranks.device),
            stragglers=StragglerWatch(ranks.group.world_size),
        )
        if checkpoint is not None:
            _resume(run, checkpoint)
        try:
            yield run
        finally:
            uploader.close()


def _resume(run: TrainingRun, checkpoint: Checkpoint) -> None:
    load_tensors(checkpoint, run.ranks, run.optimizer.named_state())
    run.step = checkpoint.manifest.step
    run.curve = checkpoint.curve
    past = list_newest_losses(run.curve)
    run.watch = LossWatch(run.config.training.divergence, past)
    run.optimizer.set_step(run.step)
    remove_folder(checkpoint, run.ranks)
    run.reporter.report(step=run.step, resumed_step=run.step)
    if checkpoint.refused:
        said = "; ".join(f"step {step}: {why}" for step, why in checkpoint.refused.items())
        run.reporter.report(
            checkpoint_refused=f"refused the checkpoint of {said}; training goes on from step "
            f"{run.step}"
        )
    if checkpoint.is_committed:
        run.checkpointer.begun_step = run.step
        run.reporter.report(checkpoint_step=run.step)
    else:
        # Of another run, or staged by ranks that died before it was uploaded.
        run.checkpointer.begin(run.take_snapshot())


def _share_micro_batch(store: Store, ranks: Ranks) -> MicroBatch | None:
    """Return what was found before for this run, as rank 0 reads it."""
    told = read_micro_batch(store) if ranks.is_first else None
    known = ranks.share("micro-batch", told and told.model_dump(mode="json"), source=0)
    return None if known is None else MicroBatch.model_validate(known)


def _read_history(
    config: RunConfig, store: Store, ranks: Ranks, reporter: Reporter
) -> RollbackHistory:
    """Return what the run skips; only where its policy is to skip, the store is asked."""
    if config.training.divergence.action is not DivergenceAction.ROLLBACK:
        return RollbackHistory()
    told = read_history(store).model_dump(mode="json") if ranks.is_first else None
    history = RollbackHistory.model_validate(ranks.share("divergence", told, source=0))
    if history.rollbacks and ranks.is_first:
        reporter.report(
            rollbacks=len(history.rollbacks),
            skipped_batches=history.count_skipped(),
            divergence=history.rollbacks[-1].describe(),
        )
    return history


@contextmanager
def _find_staging(ranks: Ranks) -> Iterator[Sequence[Path]]:
    """Return the folders to stage checkpoints in: those of the host, or one for this rank."""
    if ranks.group.staging:
        yield [Path(folder) for folder in ranks.group.staging]
        return
    with TemporaryDirectory(prefix="llmtrain-staging-") as folder:
        yield [Path(folder)]


def _sweep_up(store: Store) -> None:
    """Remove what killed uploads have left; a store may allow this to few."""
    try:
        count = store.abort_uploads(CHECKPOINTS)
    except StoreError as error:
        logger.warning("unfinished uploads stay where they are: %s", error.message)
        return
    if count:
        logger.info("removed what %d unfinished uploads had left", count)


def _open_dataset(config: RunConfig, store: Store, checkpoint: Checkpoint | None) -> Dataset:
    """Open the run's data; it must be what the checkpoint was trained on."""
    if checkpoint is not None and checkpoint.in_memory:
        dataset = find_dataset(checkpoint.manifest.dataset, find_cache_directory())
        if dataset is not None:
            return dataset
    dataset = open_run_dataset(store, config)
    if config.objective not in (Kind.CLASSIFICATION, Kind.SEQUENCE_TO_SEQUENCE):
        # Those take documents of any length.
        _check_splits(dataset, config.training.sequence_length, config.evaluation.split)
    if checkpoint is not None and checkpoint.manifest.dataset != dataset.fingerprint:
        raise DataError(
            f"the checkpoint of step {checkpoint.manifest.step} was trained on dataset "
            f"{checkpoint.manifest.dataset}, and the run's dataset is now {dataset.fingerprint}",
            reason="DatasetChanged",
            next_step="start a new job for the changed data",
        )
    return dataset


def _choose_arithmetic(
    blueprint: Blueprint, ranks: Ranks, checkpoint: Checkpoint | None
) -> Arithmetic:
    """Return how products are computed: as before the checkpoint, or as rank 0 finds best."""
    if checkpoint is not None:
        return Arithmetic.load(checkpoint.manifest.arithmetic)
    chosen = None
    if ranks.is_first:
        chosen = choose_arithmetic(
            blueprint.run.training.precision,
            ranks.device,
            hidden_size=blueprint.configuration.hidden_size,
        ).dump()
    return Arithmetic.load(ranks.share("arithmetic", chosen, source=0))


def _check_frozen(blueprint: Blueprint, checkpoint: Checkpoint | None) -> None:
    """Hold a checkpoint of a part of the weights to the others, which it lies beside."""
    if checkpoint is None or checkpoint.manifest.pretrained == blueprint.frozen_digest:
        return
    held = "all weights" if checkpoint.manifest.pretrained is None else "what is trained"
    raise ConfigurationError(
        f"the checkpoint of step {checkpoint.manifest.step} holds {held} of another "
        "model than model.from, training.lora and training.freeze say",
        reason="CheckpointIncompatible",
        next_step="use the same model.from, lora and freeze as the run that wrote it",
    )


def _check_named_steps(config: RunConfig, origin: Checkpoint | None, *, total_steps: int) -> None:
    """Refuse checkpoints to be evaluated that this run, which begins now, will never have."""
    first = 0 if origin is None else origin.manifest.step
    for step in sorted(config.evaluation.checkpoint_steps):
        if not first <= step <= total_steps:
            raise ConfigurationError(
                f"spec.evaluation.checkpoints: step-{step} is no step of this run, which has "
                f"those from {first} to {total_steps}",
                reason="CheckpointNeverMade",
                next_step="name a step of the run, final or best; one before "
                "checkpoint.restoreFrom is evaluated by a job that begins, and ends, at it",
            )


def _check_splits(dataset: Dataset, sequence_length: int, final: HeldOut) -> None:
    splits = [("training", dataset.train), ("held-out", dataset.validation)]
    if final is HeldOut.TEST and dataset.test is not None:
        splits.append(("test", dataset.test))
    for name, split in splits:
        if split.num_sequences(sequence_length) < 1:
            raise DataError(
                f"the {name} text has no sequence of training.sequenceLength "
                f"({sequence_length}) tokens",
                reason="TooLittleText",
                next_step="add text, lower training.sequenceLength, or change data.split",
            )
