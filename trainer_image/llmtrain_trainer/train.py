"""The training stage: one rank's way from prepared data to an exported model.

Below, in the order of use: `parallel` (meet the other ranks), `training.run` (open the data, build
the model, resume), `training.step`, `divergence`, `checkpoint`, `measure`, `export`. Above: the
agent forks one process for each rank and calls `run_train`.

A step is a function of (weights, seed, step, rank, world size) and of nothing that came before,
so a run that was killed and resumed is, on a CPU, bit for bit the run that was not.

The numbers of a step (loss over all ranks, wishes to stop, saves on their way) are summed over
the ranks while the next step computes, and read one step late; only evaluations, checkpoints
and the end wait for them.
"""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmtrain_api.records import RankPhase, StageResult
from llmtrain_api.run import RunConfig
from llmtrain_api.training import DivergenceAction
from llmtrain_trainer.checkpoint.manifest import CURVES, PACE
from llmtrain_trainer.evaluation.measure import choose_sequences, measure
from llmtrain_trainer.failures import (
    ConfigurationError,
    DivergedError,
    PreemptedError,
    RolledBackError,
    StageError,
)
from llmtrain_trainer.linux import keep_freed_memory
from llmtrain_trainer.model.export import ExportFacts, export_model, locate_export
from llmtrain_trainer.objective.batch import count_samples
from llmtrain_trainer.parallel import count_threads, find_plain_model, gather_parameters, join_ranks
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.training.curve import divide_curve
from llmtrain_trainer.training.divergence import ADVICE, LOSS_SPIKE, Divergence, roll_back
from llmtrain_trainer.training.early_stopping import (
    Verdict,
    find_best_step,
    judge_evaluations,
)
from llmtrain_trainer.training.opening import open_run
from llmtrain_trainer.training.run import TrainingRun, load_weights
from llmtrain_trainer.training.speedometer import Pace, Speedometer
from llmtrain_trainer.training.step import (
    Agreed,
    StepNumbers,
    read_numbers,
    take_step,
)
from llmtrain_trainer.training.telling import tell_step

COLLECT_EVERY_STEPS = 1000
"""Python's garbage collector runs here and nowhere else, so that no rank waits for another's."""


def run_train(
    config: RunConfig,
    group: RankGroup,
    reporter: Reporter,
    should_stop: Callable[[], bool],
) -> StageResult:
    """Train as rank `group.rank` until the last step, and export the model.

    Every rank of the round calls it at the same time. `group.store_port` is where rank 0's
    launcher already serves the round's TCPStore; all ranks connect to it as clients.

    Raises:
        PreemptedError: `should_stop` was true on some rank; the state is saved.
        RolledBackError: the loss ran away; another round goes on from before that.
        DivergedError: it did, and the run is to stop.
        StageError: anything else that has a name.
    """
    _check_batch(config)
    reporter.enter(RankPhase.RENDEZVOUS)
    ranks_on_host = group.local_world_size
    if config.rendezvous.port_per_worker:
        ranks_on_host = group.world_size  # a local run: all workers share this machine
    threads = count_threads(config.threads_per_process, ranks_on_host)
    keep_freed_memory()
    with (
        join_ranks(group, threads=threads, tensor_parallel=config.tensor_parallel) as ranks,
        open_run(config, ranks, reporter) as run,
    ):
        with _collect_rarely():
            _train(run, should_stop)
        return _finish(run)


def _train(run: TrainingRun, should_stop: Callable[[], bool]) -> None:
    """Do the steps that are left, with the evaluations and checkpoints that fall due."""
    total_steps = run.total_steps
    run.reporter.enter(RankPhase.TRAINING)
    if run.step == total_steps or _judge(run).is_over:
        _complete(run)
        return
    speed = Speedometer(peak_tokens_per_second=run.peak_tokens_per_second)
    pending: StepNumbers | None = None
    while run.step < total_steps and not _judge(run).is_over:
        numbers = take_step(run, run.step + 1, should_stop())
        data_seconds = run.clock.take_data_seconds()
        agreed = None
        if pending is not None:
            agreed = read_numbers(run, pending)
            _hear(run, pending, agreed, speed.count_step(agreed.tokens, data_seconds))
        pending, run.step = numbers, run.step + 1
        stop = agreed is not None and agreed.stop
        evaluate = run.step % run.evaluate_every == 0 or run.step == total_steps
        is_due = run.schedule.is_step_due(run.step) or (agreed is not None and agreed.save)
        is_named = run.step in run.config.evaluation.checkpoint_steps
        save = is_due or is_named or run.step == total_steps
        if stop or evaluate or save:
            # Right after the step before it: the time between the two says nothing of a step's.
            agreed = read_numbers(run, pending)
            _hear(run, pending, agreed, speed.pace)
            pending = None
            if evaluate:
                _evaluate(run)
            is_last = run.step == total_steps or _judge(run).is_over
            is_best = evaluate and run.config.keeps_best and find_best_step(run.curve) == run.step
            if run.step == total_steps and (divergence := run.watch.conclude()) is not None:
                _answer_divergence(run, divergence)
            is_needed = is_best or is_named
            if is_needed:
                run.checkpointer.wait()  # it is not left out for one on its way
            if stop or ((save or is_last or is_needed) and not _is_doubtful(run)):
                _save(run, busy=agreed.busy and not is_needed, must=stop or is_last)
            speed.restart()
        if stop:
            raise PreemptedError(
                f"asked to leave after step {run.step}; the state is saved", reason="Preempted"
            )
        _watch_checkpointer(run)
        if run.step % COLLECT_EVERY_STEPS == 0:
            gc.collect()


def _complete(run: TrainingRun) -> None:
    """Give a run without steps to do what its last step would have left: it was interrupted after
    that, or begins at a checkpoint of another run only to be evaluated.
    """
    if not any("validationLoss" in point and point["step"] == run.step for point in run.curve):
        _evaluate(run)
    _save(run, busy=False, must=True)


def _judge(run: TrainingRun) -> Verdict:
    """Return what evaluations say of when to end; nothing where the job does not ask."""
    spec = run.config.training.early_stopping
    return Verdict() if spec is None else judge_evaluations(run.curve, spec)


def _hear(run: TrainingRun, numbers: StepNumbers, agreed: Agreed, pace: Pace | None) -> None:
    """Report what all ranks now know of a step, and answer a loss that runs away."""
    tell_step(run, numbers, agreed, pace)
    gradient_norm = 0.0 if numbers.was_skipped else agreed.gradient_norm
    divergence = run.watch.hear(numbers.step, agreed.loss, gradient_norm)
    if divergence is not None:
        _answer_divergence(run, divergence)


def _is_doubtful(run: TrainingRun) -> bool:
    """Tell whether the newest losses may turn out to be what the run rolls back for."""
    rolls_back = run.config.training.divergence.action is DivergenceAction.ROLLBACK
    return rolls_back and run.watch.is_suspicious


def _answer_divergence(run: TrainingRun, divergence: Divergence) -> None:
    """Leave for a round that goes on from before it, or give up; a spike may be borne.

    All ranks come here with the same step: their losses are one number.

    Raises:
        RolledBackError: the next round goes on from an earlier checkpoint.
        DivergedError: the run's policy is to stop, or it was rolled back too often.
    """
    spec = run.config.training.divergence
    if spec.action is DivergenceAction.STOP:
        if divergence.reason == LOSS_SPIKE:
            run.reporter.report(loss_spikes=run.watch.spikes)
            return
        raise DivergedError(divergence.message, reason=divergence.reason, next_step=ADVICE)
    run.checkpointer.wait()
    run.ranks.wait()  # no rank's save is on its way any more
    failure = None
    if run.ranks.is_first:
        try:
            run.history = roll_back(run.store, run.history, divergence, spec)
        except StageError as error:
            failure = error
    run.checkpointer.discard_staged()
    if not run.ranks.all_agree(failure is None):
        raise failure or DivergedError(divergence.message, reason=divergence.reason)
    raise RolledBackError(divergence.message, reason="RolledBack")


def _evaluate(run: TrainingRun) -> None:
    with run.reporter.during(RankPhase.EVALUATING):
        training = run.config.training
        split = run.dataset.validation
        share = training.global_batch // run.ranks.num_readers
        loss = measure(
            run.model,
            run.objective,
            split,
            choose_sequences(
                count_samples(run.objective, split, training.sequence_length),
                run.config.evaluation.max_sequences,
            ),
            run.ranks,
            sequence_length=training.sequence_length,
            batch_size=min(training.micro_batch_size or share, share),
            logits_bytes=run.logits_bytes,
        ).loss
        if not math.isfinite(loss):
            message = f"the loss on held-out text is {loss} after step {run.step}"
            divergence = Divergence(
                first_step=run.step, step=run.step, message=message, reason="LossNotFinite"
            )
            _answer_divergence(run, divergence)
        run.curve.append({"step": run.step, "validationLoss": loss, "time": time.time()})
        run.reporter.report(validation_loss=loss)
        if run.ranks.is_first:
            run.events.begin(run.curve)


def _save(run: TrainingRun, *, busy: bool, must: bool) -> None:
    """Begin a checkpoint; where one is on its way still, skip it, or wait if it must be."""
    if run.checkpointer.begun_step == run.step and not must:
        return
    with run.reporter.during(RankPhase.CHECKPOINTING):
        if must:
            run.checkpointer.save_surely(
                run.take_snapshot(), on_try=lambda: _watch_checkpointer(run)
            )
        elif busy:
            run.num_skips += 1
            run.reporter.report(checkpoint_skips=run.num_skips)
        else:
            begun_at = time.perf_counter()
            run.checkpointer.begin(run.take_snapshot())
            stall_seconds = time.perf_counter() - begun_at
            run.schedule.note_begun(stall_seconds)
            facts = {"checkpoint_stall_seconds": stall_seconds}
            if run.schedule.interval_seconds is not None:
                facts["checkpoint_interval_seconds"] = run.schedule.interval_seconds
            run.reporter.report(step=run.step, **facts)


def _watch_checkpointer(run: TrainingRun) -> None:
    """Tell of a new checkpoint, or of a save that the store has failed."""
    run.checkpointer.check()
    step = run.checkpointer.take_committed_step()
    if step is not None:
        run.schedule.note_committed()
        run.reporter.report(
            checkpoint_step=step,
            checkpoint_failure="",
            checkpoint_save_seconds=run.checkpointer.save_seconds,
        )
    failure = run.checkpointer.store_failure
    if failure is not None and failure is not run.reported_failure:
        run.reported_failure = failure
        run.reporter.report(checkpoint_failure=failure.message)


def _finish(run: TrainingRun) -> StageResult:
    """Export the model on rank 0; the others wait, because a rank that ends ends the round."""
    run.reporter.enter(RankPhase.EXPORTING)
    exported_step = run.step
    best_step = _judge(run).best_step
    if best_step is not None and best_step != run.step and load_weights(run, best_step):
        exported_step = best_step
    parameters = gather_parameters(run.model)
    if run.ranks.is_first:
        calculated, measured = divide_curve(run.curve)
        run.store.write_bytes(CURVES, json.dumps(calculated).encode())
        run.store.write_bytes(PACE, json.dumps(measured).encode())
        run.events.finish(run.curve)
        facts = ExportFacts(
            step=exported_step,
            train_loss=run.find_at("loss", exported_step),
            validation_loss=run.find_at("validationLoss", exported_step),
        )
        export_model(run.blueprint, run.store, run.dataset, parameters, facts)
    run.ranks.share("exported", True, source=0)
    run.reporter.enter(RankPhase.FINISHED)
    return StageResult(
        parameters=sum(p.numel() for p in find_plain_model(run.model).parameters()),
        step=run.step,
        train_loss=run.find_last("loss"),
        export_uri=locate_export(run.config),
    )


def _check_batch(config: RunConfig) -> None:
    if config.training.global_batch % config.num_readers:
        raise ConfigurationError(
            f"training.batchSize ({config.training.global_batch}) must be a multiple of the number "
            f"of ranks that read different samples ({config.num_readers}: workers.replicas × "
            "workers.processesPerWorker / workers.tensorParallel)",
            reason="BatchNotDivisible",
            next_step="change training.batchSize or the number of workers",
        )


@contextmanager
def _collect_rarely() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
