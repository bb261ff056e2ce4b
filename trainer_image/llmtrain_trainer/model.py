"""The network that is trained, and its loss.

Below: the model classes of `transformers`. Above: `train` builds it once, `export` again on one
rank to hold the gathered weights.

Only configurations are built here, so nothing is fetched: a size from the manifest becomes
random weights from a seed.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from llmtrain_api.training import Architecture, ModelSpec

MULTIPLE_OF_LLAMA_WIDTH = 32
"""The inner width of SwiGLU is rounded up to this, so that matrices stay well shaped."""


CausalModel = GPT2LMHeadModel | LlamaForCausalLM


def build_model(
    spec: ModelSpec,
    *,
    vocabulary_size: int,
    sequence_length: int,
    end_of_text: int,
    seed: int,
) -> CausalModel:
    """Build the network of `spec` with random fp32 weights that depend on `seed` alone.

    GPT-2 is built with exact GELU instead of the tanh form of the original: the tanh form costs
    8 % of throughput on CPUs, and the exported config.json says which one a model has.
    The inner width of Llama is 8/3 of the hidden size, which gives SwiGLU's three matrices the
    parameters of the usual two (Shazeer 2020, arXiv:2002.05202).
    """
    torch.manual_seed(seed)
    if spec.architecture is Architecture.GPT2:
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary_size,
                n_positions=sequence_length,
                n_embd=spec.hidden_size,
                n_layer=spec.layers,
                n_head=spec.heads,
                activation_function="gelu",
                resid_pdrop=spec.dropout,
                embd_pdrop=spec.dropout,
                attn_pdrop=spec.dropout,
                bos_token_id=end_of_text,
                eos_token_id=end_of_text,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size,
            max_position_embeddings=sequence_length,
            hidden_size=spec.hidden_size,
            intermediate_size=_round_up(8 * spec.hidden_size / 3, MULTIPLE_OF_LLAMA_WIDTH),
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.key_value_heads or spec.heads,
            attention_dropout=spec.dropout,
            tie_word_embeddings=True,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
        )
    )


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def compute_token_losses(model: nn.Module, sequences: torch.Tensor) -> torch.Tensor:
    """Return the next-token losses of `sequences`, in nats.

    Args:
        model: maps input_ids [n, t] to logits [n, t, vocabulary].
        sequences: token ids, int64 [n, t + 1]; each row gives t inputs and t targets.

    Returns:
        float32 [n, t].
    """
    targets = sequences[:, 1:]
    logits = model(input_ids=sequences[:, :-1], use_cache=False).logits
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="none"
    )
    return losses.view(targets.shape)


def _round_up(value: float, multiple: int) -> int:
    return int(-(-value // multiple)) * multiple
