"""Adapters: what is trained beside a model, alone and merged, says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import GPT2Config, LlamaConfig

from llmtrain_api.lora import LoraSpec
from llmtrain_api.objective import Objective
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.model.adapters import add_adapters, merge_adapters, save_adapter
from llmtrain_trainer.model.network import create_model

VOCABULARY = 50
NEW_TOKENS = range(48, VOCABULARY)
IDS = torch.arange(38, VOCABULARY)[None]


def make_model(architecture: str) -> Any:
    if architecture == "gpt2":  # tied embeddings
        configuration: Any = GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=16
        )
    else:
        configuration = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=False,
        )
    configuration.bos_token_id = configuration.eos_token_id = 0
    return create_model(configuration, Objective.CAUSAL, seed=0).eval()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_merged_and_alone_they_say_the_same(tmp_path: Path, architecture: str, dora: bool) -> None:
    model = make_model(architecture)
    before = model(IDS).logits.detach()
    spec = LoraSpec(rank=4, dora=dora)
    adapters = add_adapters(model, spec, seed=1, new_tokens=NEW_TOKENS)
    torch.testing.assert_close(model(IDS).logits, before)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all("lora_" in name or "trainable_tokens" in name for name in names)
    assert sum("trainable_tokens" in name for name in names) == 1 + (architecture == "llama")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    learned = model(IDS).logits.detach()
    assert not torch.allclose(learned, before)

    save_adapter(adapters, tmp_path / "adapter")
    alone = PeftModel.from_pretrained(make_model(architecture), str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(alone(IDS).logits, learned)
    torch.testing.assert_close(merge_adapters(adapters)(IDS).logits, learned)


def test_layers_that_are_not_there_have_a_reason() -> None:
    spec = LoraSpec(targets=["no_such_layer"])
    with pytest.raises(ConfigurationError, match="no_such_layer") as caught:
        add_adapters(make_model("gpt2"), spec, seed=0, new_tokens=range(0))
    assert caught.value.reason == "LoraTargetsInvalid"
