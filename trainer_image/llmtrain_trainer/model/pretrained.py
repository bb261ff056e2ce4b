"""The pretrained model that a run begins from: pinned once, and believed only as it was pinned.

Below: `transformers` for configurations, `store`. Above: `prepare` pins it, `blueprint` and
`training.run` read it back.

`prepare` reads the directory, refuses what could run code, and writes `pretrained.json` beside the
run: the configuration, and the digest of every file of weights. Weights are read at step 0 only;
from then on a run depends on that record and its own checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, PreTrainedConfig

from llmtrain_api.base import Model
from llmtrain_api.objective import Objective
from llmtrain_api.run import RunConfig
from llmtrain_trainer.failures import ConfigurationError, StoreError
from llmtrain_trainer.model import lstm
from llmtrain_trainer.model.network import AUTO_CLASSES
from llmtrain_trainer.store import ObjectExistsError, Store, open_store
from llmtrain_trainer.store.described import ManifestObject, describe_file
from llmtrain_trainer.store.host_cache import (
    download_objects,
    find_host_folder,
    is_whole,
    lock_folder,
)

PRETRAINED = "pretrained.json"
"""Key, below a run, of the record of the model that it begins from."""

SETTINGS, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
"""Names the files of weights that were divided."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
"""Endings of weights in formats that may run code, or that only other programs read."""

assert lstm.MODEL_TYPE in CONFIG_MAPPING, "importing it makes it known"


class Pretrained(Model):
    """The record of a model that a run begins from."""

    uri: str
    """The directory that it was read from."""

    digest: str
    """Of all weights."""

    settings: dict[str, Any]
    """Its config.json."""

    objects: list[ManifestObject]
    """The files of weights, by keys relative to the directory."""

    def configure(self) -> PreTrainedConfig:
        """Return its configuration."""
        kind: type[PreTrainedConfig] = CONFIG_MAPPING[self.settings["model_type"]]
        return kind.from_dict(dict(self.settings))


def pin_pretrained(config: RunConfig, run_store: Store) -> None:
    """Write the record of the model that the run begins from, if it names one and has none yet.

    Raises:
        ConfigurationError: it cannot be used, or not for the run's objective.
        StoreError: where the store fails.
    """
    uri = config.model.pretrained
    if uri is None or run_store.find_object(PRETRAINED) is not None:
        return
    store = open_store(uri, config.storage)
    settings = read_settings(store, config.objective)
    names = list_weights(store)
    cache = find_host_folder("models")
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        objects = []
        for name in names:
            path = Path(folder) / name
            store.download(name, path)
            _check_weights(store, path)
            objects.append(describe_file(path, name))
        digest = digest_objects(objects)
        with lock_folder(cache / digest):
            for item in objects:  # what training on this host reads
                shutil.move(Path(folder) / item.key, cache / digest / item.key)
    record = Pretrained(uri=store.uri, digest=digest, settings=settings, objects=objects)
    try:
        run_store.create_bytes(PRETRAINED, record.model_dump_json(by_alias=True).encode())
    except ObjectExistsError:
        return  # a retried request had arrived after all


def read_pretrained(config: RunConfig, run_store: Store) -> Pretrained | None:
    """Return the record of the model that the run began from; None where it began from none.

    A host asks the store for it once.

    Raises:
        StoreError: where the store fails, or the record is damaged.
    """
    if config.model.pretrained is None:
        return None
    place = (config.run_uri, config.storage.endpoint, config.storage.local_root)
    name = hashlib.sha256(json.dumps(place).encode()).hexdigest()
    path = find_host_folder("models") / f"{name}.json"
    data = path.read_bytes() if path.exists() else run_store.read_bytes(PRETRAINED)
    try:
        record = Pretrained.model_validate_json(data)
    except ValidationError as error:
        path.unlink(missing_ok=True)
        raise _explain_change(f"{run_store.uri}/{PRETRAINED}") from error
    with lock_folder(path.parent):
        unverified = path.with_suffix(".unverified")
        unverified.write_bytes(data)
        unverified.replace(path)
    return record


def fetch_weights(record: Pretrained, config: RunConfig) -> Path:
    """Return a folder of this host with the weights and config.json, downloaded if need be.

    Raises:
        StoreError: where the store fails, or has other weights than were pinned.
    """
    folder = find_host_folder("models") / record.digest
    with lock_folder(folder):
        if not is_whole(folder, record.objects):
            store = open_store(record.uri, config.storage)
            changed = download_objects(store, record.objects, folder)
            if changed is not None:
                raise _explain_change(f"{record.uri}/{changed.key}")
    return folder


def digest_objects(objects: list[ManifestObject]) -> str:
    """Return the digest of files together."""
    text = json.dumps([(item.key, item.sha256) for item in objects])
    return hashlib.sha256(text.encode()).hexdigest()


def read_settings(store: Store, objective: Objective) -> dict[str, Any]:
    """Return config.json of a model directory.

    Raises:
        ConfigurationError: there is none, it asks for code of its own, or is of another kind of
            model than the objective trains.
    """
    if store.find_object(SETTINGS) is None:
        is_run = store.find_object(f"export/{SETTINGS}") is not None
        what = f"name its export: {store.uri}/export" if is_run else "name a directory that has one"
        raise _refuse(store, f"there is no {SETTINGS}", what)
    try:
        settings = json.loads(store.read_bytes(SETTINGS))
    except ValueError as error:
        raise _refuse(store, f"{SETTINGS} is no JSON ({error})", "upload it again") from error
    if not isinstance(settings, dict) or settings.get("model_type") not in CONFIG_MAPPING:
        found = settings.get("model_type") if isinstance(settings, dict) else None
        raise _refuse(
            store,
            f"{SETTINGS} has model_type {found!r}, which transformers does not know",
            "use a model of an architecture that transformers has built in",
        )
    if "auto_map" in settings:
        raise ConfigurationError(
            f"model.from: {store.uri}/{SETTINGS} has auto_map: the model brings code of its own, "
            "which is never run",
            reason="RemoteCodeRefused",
            next_step="if transformers has the architecture built in, take auto_map out of "
            "config.json; else use another model",
        )
    kind = CONFIG_MAPPING[settings["model_type"]]
    if kind not in AUTO_CLASSES[objective]._model_mapping:
        raise _refuse(
            store,
            f"a {settings['model_type']} cannot be trained by training.objective: {objective}",
            "give another training.objective: causal for gpt2, llama and their like, masked for "
            "bert, span-corruption or sequence-to-sequence for t5, classification for most",
        )
    return settings


def list_weights(store: Store) -> list[str]:
    """Return the names of the files of weights of a model directory.

    Raises:
        ConfigurationError: there are none, or only such as may run code.
    """
    if store.find_object(WEIGHTS) is not None:
        return [WEIGHTS]
    if store.find_object(INDEX) is not None:
        try:
            names = sorted(set(json.loads(store.read_bytes(INDEX))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _refuse(store, f"{INDEX} cannot be read ({error})", "upload it again") from error
        if all(Path(name).name == name and name.endswith(".safetensors") for name in names):
            return [*names, INDEX]
        raise _refuse(store, f"{INDEX} names files that are no safetensors", "save it anew")
    pickles = [o.key for o in store.list_objects() if o.key.endswith(PICKLES) and "/" not in o.key]
    if pickles:
        raise ConfigurationError(
            f"model.from: {store.uri} has its weights as {pickles[0]} only: reading such files may "
            "run code that is in them",
            reason="PickledWeightsRefused",
            next_step="where you trust it, convert it: what from_pretrained has read, "
            "save_pretrained writes as model.safetensors",
        )
    raise _refuse(store, f"there is no {WEIGHTS}", "upload what save_pretrained writes")


def _check_weights(store: Store, path: Path) -> None:
    if path.name == INDEX:
        return
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except SafetensorError as error:
        raise _refuse(store, f"{path.name} is no safetensors file ({error})", "save it anew") from (
            error
        )


def _refuse(store: Store, why: str, next_step: str) -> ConfigurationError:
    return ConfigurationError(
        f"model.from: {store.uri}: {why}", reason="PretrainedInvalid", next_step=next_step
    )


def _explain_change(uri: str) -> StoreError:
    return StoreError(
        f"{uri} is not what it was when the run began",
        reason="PretrainedChanged",
        next_step="start a new job, or put back what was there",
    )
