"""The network that is trained, and its loss.

Below: the model classes of `transformers`, `lstm`, and `objective` for what a batch is. Above:
`train` builds it once, `export` again on one rank to hold the gathered weights.

Only configurations are built here, so nothing is fetched: a size from the manifest becomes
random weights from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_utils import PreTrainedModel

from llmtrain_api.network import Architecture, ModelSpec, Network
from llmtrain_trainer.model.lstm import LstmConfig, LstmForCausalLM
from llmtrain_trainer.objective.batch import NOT_A_TARGET, Batch

Tokens = dict[str, Any]
"""Special tokens by the names that configurations have for them."""


def build_model(
    spec: ModelSpec,
    *,
    vocabulary_size: int,
    sequence_length: int,
    end_of_text: int,
    seed: int,
    padding: int | None = None,
) -> PreTrainedModel:
    """Build the network of `spec` with random fp32 weights that depend on `seed` alone.

    `end_of_text` and `padding` are tokens; without padding the end of text stands for it.
    """
    torch.manual_seed(seed)
    network = spec.resolve()
    build = BUILDERS[network.architecture]
    return build(
        network,
        vocabulary_size,
        sequence_length,
        {
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "pad_token_id": end_of_text if padding is None else padding,
        },
    )


def build_gpt2(
    network: Network, vocabulary_size: int, sequence_length: int, tokens: Tokens
) -> PreTrainedModel:
    """Build GPT-2 with exact GELU instead of the tanh form of the original.

    The tanh form costs 8 % of throughput on CPUs, and the exported config.json says which one a
    model has.
    """
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary_size,
            n_positions=sequence_length,
            n_embd=network.hidden_size,
            n_layer=network.layers,
            n_head=network.heads,
            activation_function="gelu",
            resid_pdrop=network.dropout,
            embd_pdrop=network.dropout,
            attn_pdrop=network.dropout,
            **_without_padding(tokens),
        )
    )


def build_llama(
    network: Network, vocabulary_size: int, sequence_length: int, tokens: Tokens
) -> PreTrainedModel:
    """Build Llama with tied embeddings."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size,
            max_position_embeddings=sequence_length,
            hidden_size=network.hidden_size,
            intermediate_size=network.inner_width,
            num_hidden_layers=network.layers,
            num_attention_heads=network.heads,
            num_key_value_heads=network.key_value_heads,
            attention_dropout=network.dropout,
            tie_word_embeddings=True,
            **_without_padding(tokens),
        )
    )


def build_bert(
    network: Network, vocabulary_size: int, sequence_length: int, tokens: Tokens
) -> PreTrainedModel:
    """Build BERT for masked text; there is one kind of segment, and no next-sentence head."""
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary_size,
            max_position_embeddings=sequence_length,
            type_vocab_size=1,
            hidden_size=network.hidden_size,
            intermediate_size=network.inner_width,
            num_hidden_layers=network.layers,
            num_attention_heads=network.heads,
            hidden_dropout_prob=network.dropout,
            attention_probs_dropout_prob=network.dropout,
            **tokens,
        )
    )


def build_t5(
    network: Network, vocabulary_size: int, sequence_length: int, tokens: Tokens
) -> PreTrainedModel:
    """Build T5 with gated units (T5 1.1) by SiLU, whose GELU would be the slow tanh form.

    It has no limit of length: positions are relative. Writing begins with the padding token.
    """
    del sequence_length
    tokens = tokens | {"decoder_start_token_id": tokens["pad_token_id"]}
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary_size,
            d_model=network.hidden_size,
            d_kv=network.hidden_size // network.heads,
            d_ff=network.inner_width,
            num_layers=network.layers,
            num_heads=network.heads,
            feed_forward_proj="gated-silu",
            dropout_rate=network.dropout,
            **tokens,
        )
    )


def build_lstm(
    network: Network, vocabulary_size: int, sequence_length: int, tokens: Tokens
) -> PreTrainedModel:
    """Build a recurrent model."""
    return LstmForCausalLM(
        LstmConfig(
            vocab_size=vocabulary_size,
            max_position_embeddings=sequence_length,
            hidden_size=network.hidden_size,
            num_hidden_layers=network.layers,
            dropout=network.dropout,
            **_without_padding(tokens),
        )
    )


Builder = Callable[[Network, int, int, Tokens], PreTrainedModel]

BUILDERS: dict[Architecture, Builder] = {
    Architecture.GPT2: build_gpt2,
    Architecture.LLAMA: build_llama,
    Architecture.BERT: build_bert,
    Architecture.T5: build_t5,
    Architecture.LSTM: build_lstm,
}


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def compute_logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return what the model says of each target of a batch [n, t, vocabulary]."""
    logits: torch.Tensor = model(**batch.inputs).logits
    return logits


def compute_token_losses(
    model: nn.Module, batch: Batch, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the losses of a batch's targets, in nats; where there is none, 0.

    Args:
        model: maps the batch's inputs to logits [n, t, vocabulary].
        batch: inputs and targets.
        label_smoothing: share of a target's probability that is spread over the vocabulary.

    Returns:
        float32 [n, t].
    """
    return compute_losses(compute_logits(model, batch), batch, label_smoothing)


def compute_losses(
    logits: torch.Tensor, batch: Batch, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the losses of a batch's targets from the model's logits."""
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(),
        batch.targets.flatten(),
        reduction="none",
        ignore_index=NOT_A_TARGET,
        label_smoothing=label_smoothing,
    )
    return losses.view(batch.targets.shape)


def _without_padding(tokens: Tokens) -> Tokens:
    """Leave the padding out: models that read one side only were never padded."""
    return {name: token for name, token in tokens.items() if name != "pad_token_id"}
