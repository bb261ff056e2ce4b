"""Where a run begins that has no checkpoint of its own: at one of another run, if it says so.

Below: `restore`, `store`. Above: `training.run`. Nothing is changed in the other run's place.
"""

from __future__ import annotations

from llmtrain_api.run import RunConfig
from llmtrain_trainer.checkpoint.manifest import CHECKPOINTS, MANIFEST
from llmtrain_trainer.checkpoint.restore import Checkpoint, fetch_newest_checkpoint
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.store import open_store


def fetch_origin(config: RunConfig, ranks: Ranks, *, total_steps: int) -> Checkpoint | None:
    """Return the checkpoint that `checkpoint.restoreFrom` names; None where it names none.

    One of the last step itself leaves nothing to train: such a run exports it and evaluates it.

    Every rank must call it; all get the same one. `total_steps` are those of the run that begins
    there.

    Raises:
        ConfigurationError: there is no such checkpoint, or it is of too late a step.
        StoreError: it is damaged.
    """
    origin = config.checkpoint.restore_from
    if origin is None:
        return None
    uri = origin.uri
    if uri is None:
        assert origin.job is not None
        found = list_runs(config, origin.job) if ranks.is_first else None
        found = ranks.share("restore/origin", found, source=0)
        if len(found) != 1:
            those = f"{len(found)} runs: {', '.join(found)}" if found else "no run with checkpoints"
            raise _explain(f"job {origin.job} has {those}", "name the run by restoreFrom.uri")
        (uri,) = found
    store = open_store(uri, config.storage)
    checkpoint = fetch_newest_checkpoint(store, ranks, is_foreign=True, only_step=origin.step)
    if checkpoint is None:
        what = "checkpoint" if origin.step is None else f"checkpoint of step {origin.step}"
        raise _explain(f"{uri} has no {what}", "llmtrain checkpoints list --uri shows which")
    if checkpoint.manifest.step > total_steps:
        raise _explain(
            f"step {checkpoint.manifest.step} of {uri} is after the last of {total_steps} steps",
            "raise training.steps (tokens, epochs), or name an earlier restoreFrom.step",
        )
    return Checkpoint(
        manifest=checkpoint.manifest.model_copy(update={"run_seconds": 0.0}),
        curve=checkpoint.curve,
        folder=checkpoint.folder,
        parts=checkpoint.parts,
        in_memory=False,
        is_committed=False,
    )


def list_runs(config: RunConfig, job: str) -> list[str]:
    """Return the runs with checkpoints of a job of the same namespace, as URIs."""
    store = open_store(config.storage.uri, config.storage)
    prefix = f"runs/{config.namespace}/{job}-"
    runs = set()
    for item in store.list_objects(prefix):
        folder, _, rest = item.key.partition(f"/{CHECKPOINTS}")
        is_of_job = folder.rpartition("-")[0] == prefix.rstrip("-")
        if is_of_job and rest.endswith(f"/{MANIFEST}"):
            runs.add(f"{store.uri}/{folder}")
    return sorted(runs - {config.run_uri})


def _explain(message: str, next_step: str) -> ConfigurationError:
    return ConfigurationError(
        f"checkpoint.restoreFrom: {message}", reason="RestoreFromInvalid", next_step=next_step
    )
