"""A run that goes on from another model: what it accepts, and that it depends on it once only."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llmtrain_api.lora import FreezeSpec
from llmtrain_api.network import Architecture, ModelSpec
from llmtrain_api.run import RunConfig
from llmtrain_trainer.failures import ConfigurationError, PreemptedError, StoreError
from llmtrain_trainer.model.blueprint import Blueprint
from llmtrain_trainer.model.configurations import configure_network
from llmtrain_trainer.model.freezing import find_stacks, freeze_parts
from llmtrain_trainer.model.network import build_model
from llmtrain_trainer.model.pretrained import fetch_weights, pin_pretrained, read_pretrained
from llmtrain_trainer.store import open_store
from testbed.ranks import Fate, RunningRanks, run_ranks
from testbed.tiny_run import configure_tiny_run, find_run_folder, prepare_tiny_run

VOCABULARY = 257
LOSS_TOLERANCE = 1e-6
NO_SHAPE = {"layers": None, "heads": None, "hiddenSize": None}


@dataclass(frozen=True)
class Base:
    """A trained model in a store."""

    root: Path
    uri: str
    losses: list[float]

    @property
    def folder(self) -> Path:
        return self.root / self.uri.removeprefix("s3://")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    root = tmp_path_factory.mktemp("pretrained")
    config = prepare_tiny_run(root, run="base")
    losses = run_ranks(config).list_facts("loss")
    return Base(root, f"{config.run_uri}/export", losses)


def go_on(root: Path, uri: str, run: str, **sections: Any) -> RunConfig:
    """Prepare a run that goes on from the model at `uri`."""
    training = {"steps": 6, "optimizer": {"learningRate": 0.001, "warmupSteps": 0}}
    return prepare_tiny_run(
        root,
        run=run,
        model={**NO_SHAPE, "from": uri, "dropout": 0.0},
        data={"tokenizer": {"kind": "pretrained", "uri": uri}},
        training=training | sections.pop("training", {}),
        checkpoint={"everySteps": 2},
        **sections,
    )


def read_weights(config: RunConfig) -> dict[str, torch.Tensor]:
    return load_file(find_run_folder(config) / "export" / "model.safetensors")


def run_disturbed(config: RunConfig, *, taken_away: Path | None = None) -> list[float]:
    """Run two ranks that are stopped, and go on by one; return all losses."""
    ranks = RunningRanks(config, fate=Fate(leaves_in_step=2))
    with pytest.raises(PreemptedError):
        ranks.finish()
    if taken_away is not None:
        shutil.rmtree(taken_away)
    config = config.model_copy(update={"processes_per_worker": 1})
    return ranks.logs[0].list_facts("loss") + run_ranks(config, round_number=2).list_facts("loss")


def test_a_run_goes_on_from_an_export_and_needs_it_once(base: Base) -> None:
    alone = go_on(base.root, base.uri, "alone")
    losses = run_ranks(alone).list_facts("loss")
    assert losses[0] < base.losses[-1] + 0.3 < base.losses[0] - 1.0

    model = base.root / "tiny-bucket" / "model"
    shutil.copytree(base.folder, model)
    disturbed = go_on(
        *(base.root, "s3://tiny-bucket/model", "disturbed"), strategy="fsdp", processes_per_worker=2
    )
    told = run_disturbed(disturbed, taken_away=model)
    assert told == pytest.approx(losses, rel=LOSS_TOLERANCE)
    first, second = read_weights(alone), read_weights(disturbed)
    assert first.keys() == second.keys()
    for name, weights in first.items():
        torch.testing.assert_close(weights, second[name], rtol=1e-4, atol=1e-5)


def go_on_disturbed(base: Base, run: str, training: dict[str, Any]) -> list[float]:
    """Go on with two sharded ranks that are stopped, then with one; return all losses."""
    return run_disturbed(
        go_on(
            *(base.root, base.uri, run), training=training, strategy="fsdp", processes_per_worker=2
        )
    )


def test_adapters_are_all_that_is_trained_and_saved(base: Base) -> None:
    # DoRA is LoRA with one vector more for each layer.
    training = {"lora": {"rank": 4, "dora": True}, "optimizer": {"learningRate": 0.01}}
    alone = go_on(base.root, base.uri, "adapters", training=training)
    losses = run_ranks(alone).list_facts("loss")
    assert losses[0] < base.losses[0] - 1.0

    disturbed = go_on_disturbed(base, "adapters-disturbed", training)
    assert disturbed == pytest.approx(losses, rel=LOSS_TOLERANCE)

    [shard] = find_run_folder(alone).glob("checkpoints/step-00000006/*/*.safetensors")
    saved = load_file(shard)
    assert saved
    assert all(".lora_" in name for name in saved)
    trained, merged = load_file(base.folder / "model.safetensors"), read_weights(alone)
    changed = {name for name in trained if not torch.equal(trained[name], merged[name])}
    assert changed == {name for name in trained if name.split(".")[-2].startswith("c_")} - {
        name for name in trained if name.endswith("bias")
    }


def test_frozen_layers_stay_and_are_not_saved(base: Base) -> None:
    training = {"freeze": {"embeddings": True, "layers": 1}}
    alone = go_on(base.root, base.uri, "frozen", training=training)
    losses = run_ranks(alone).list_facts("loss")
    disturbed = go_on_disturbed(base, "frozen-disturbed", training)
    assert disturbed == pytest.approx(losses, rel=LOSS_TOLERANCE)

    [shard] = find_run_folder(alone).glob("checkpoints/step-00000006/*/*.safetensors")
    before, after = load_file(base.folder / "model.safetensors"), read_weights(alone)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if ".h.1." in name or ".ln_f." in name}
    weights = {name.removeprefix("weight.") for name in load_file(shard) if "weight." in name[:7]}
    assert weights == changed


@pytest.mark.parametrize(
    ("freeze", "num_new_tokens", "said"),
    [
        pytest.param({"layers": 3}, 0, "has 2", id="too many layers"),
        pytest.param({"embeddings": True}, 5, "5 tokens", id="new tokens"),
    ],
)
def test_parts_that_cannot_stay_have_a_reason(
    freeze: dict[str, Any], num_new_tokens: int, said: str
) -> None:
    model = build_model(
        ModelSpec(layers=2, heads=2, hidden_size=32),
        vocabulary_size=9, sequence_length=8, end_of_text=0, seed=0,
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match=said) as caught:
        freeze_parts(model, FreezeSpec(**freeze), num_new_tokens=num_new_tokens)
    assert caught.value.reason == "FreezeInvalid"


@pytest.mark.parametrize("architecture", ["llama", "bert", "t5", "lstm"])
def test_every_architecture_has_layers_that_can_stay(architecture: Architecture) -> None:
    heads = None if architecture == "lstm" else 2
    model = build_model(
        ModelSpec(architecture=architecture, layers=2, heads=heads, hidden_size=32),
        vocabulary_size=200, sequence_length=8, end_of_text=0, seed=0,
    )  # fmt: skip
    stacks = [len(stack) for stack in find_stacks(model)]
    assert stacks == ([2, 2] if architecture == "t5" else [2])


def write_model(folder: Path, *, settings: dict[str, Any] | None = None) -> RunConfig:
    """Write a tiny GPT-2 to a store, and describe a run that begins from it."""
    config = configure_tiny_run(
        folder,
        model={**NO_SHAPE, "from": "s3://tiny-bucket/model", "dropout": 0.0},
    )
    model = configure_network(
        ModelSpec(layers=1, heads=1, hidden_size=8),
        vocabulary_size=VOCABULARY,
        sequence_length=16,
        end_of_text=256,
    )
    blueprint = Blueprint(run=config, configuration=model)
    place = folder / "tiny-bucket" / "model"
    blueprint.build().save_pretrained(place)
    if settings is not None:
        path = place / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return config


def pin(config: RunConfig) -> None:
    pin_pretrained(config, open_store(config.run_uri, config.storage))


@pytest.mark.parametrize(
    ("settings", "reason", "says"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "RemoteCodeRefused", "auto_map"),
        ({"model_type": "gpt9"}, "PretrainedInvalid", "'gpt9', which transformers does not know"),
        ({"model_type": "vit"}, "PretrainedInvalid", "vit cannot be trained by"),
    ],
)
def test_settings_that_cannot_be_used_have_a_reason(
    tmp_path: Path, settings: dict[str, Any], reason: str, says: str
) -> None:
    config = write_model(tmp_path, settings=settings)
    with pytest.raises(ConfigurationError, match=says) as caught:
        pin(config)
    assert caught.value.reason == reason
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("files", "reason", "says"),
    [
        ({"pytorch_model.bin": b"\x80"}, "PickledWeightsRefused", "pytorch_model.bin only"),
        ({}, "PretrainedInvalid", "no model.safetensors"),
        ({"model.safetensors": b"\x80\x02pickle"}, "PretrainedInvalid", "no safetensors file"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"w": "../w.safetensors"}}'},
            "PretrainedInvalid",
            "names files that are no safetensors",
        ),
    ],
)
def test_weights_that_cannot_be_used_have_a_reason(
    tmp_path: Path, files: dict[str, bytes], reason: str, says: str
) -> None:
    config = write_model(tmp_path)
    place = tmp_path / "tiny-bucket" / "model"
    (place / "model.safetensors").unlink()
    for name, data in files.items():
        (place / name).write_bytes(data)
    with pytest.raises(ConfigurationError, match=says) as caught:
        pin(config)
    assert caught.value.reason == reason


def test_a_run_is_told_to_name_its_export(tmp_path: Path) -> None:
    config = write_model(tmp_path)
    place = tmp_path / "tiny-bucket" / "model"
    shutil.copytree(place, place / "export")
    (place / "config.json").unlink()
    with pytest.raises(ConfigurationError) as caught:
        pin(config)
    assert caught.value.next_step == "name its export: s3://tiny-bucket/model/export"


def test_weights_that_changed_since_are_refused(tmp_path: Path) -> None:
    config = write_model(tmp_path)
    pin(config)
    record = read_pretrained(config, open_store(config.run_uri, config.storage))
    assert record is not None
    shutil.rmtree(fetch_weights(record, config))
    save_file({"other": torch.zeros(3)}, tmp_path / "tiny-bucket" / "model" / "model.safetensors")
    with pytest.raises(StoreError) as caught:
        fetch_weights(record, config)
    assert caught.value.reason == "PretrainedChanged"


def test_new_tokens_begin_as_the_mean_and_change_nothing_else(tmp_path: Path) -> None:
    config = write_model(tmp_path)
    pin(config)
    record = read_pretrained(config, open_store(config.run_uri, config.storage))
    assert record is not None
    folder = fetch_weights(record, config)
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny-bucket" / "model").eval()
    configuration = record.configure()
    configuration.vocab_size = VOCABULARY + 2
    blueprint = Blueprint(run=config, configuration=configuration, pretrained=record)
    grown = blueprint.load(folder).eval()
    rows = before.get_input_embeddings().weight
    torch.testing.assert_close(
        grown.get_input_embeddings().weight[VOCABULARY:], rows.mean(dim=0).expand(2, -1)
    )
    ids = torch.arange(12)[None]
    torch.testing.assert_close(grown(ids).logits[..., :VOCABULARY], before(ids).logits)
    assert {name: p.shape for name, p in grown.named_parameters()} == {
        name: p.shape for name, p in blueprint.build().named_parameters()
    }


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    config = write_model(tmp_path)
    save_file({"other": torch.zeros(3)}, tmp_path / "tiny-bucket" / "model" / "model.safetensors")
    pin(config)
    record = read_pretrained(config, open_store(config.run_uri, config.storage))
    assert record is not None
    blueprint = Blueprint(run=config, configuration=record.configure(), pretrained=record)
    with pytest.raises(ConfigurationError, match="the weights lack") as caught:
        blueprint.begin()
    assert caught.value.reason == "PretrainedInvalid"
