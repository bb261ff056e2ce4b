"""Networks from a size: what `spec.model` says, as configurations of `transformers`.

Below: the contract, `lstm`. Above: `blueprint`, `network`. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import BertConfig, GPT2Config, LlamaConfig, PreTrainedConfig, T5Config

from llmtrain_api.network import Architecture, ModelSpec, Network
from llmtrain_trainer.model.lstm import LstmConfig

Tokens = dict[str, Any]
"""Special tokens by the names that configurations have for them."""


def configure_network(
    spec: ModelSpec,
    *,
    vocabulary_size: int,
    sequence_length: int,
    end_of_text: int,
    padding: int | None = None,
) -> PreTrainedConfig:
    """Return the configuration of the network of `spec`.

    `end_of_text` and `padding` are tokens; without padding the end of text stands for it.
    """
    network = spec.resolve()
    configure = CONFIGURATIONS[network.architecture]
    return configure(
        network,
        vocabulary_size,
        sequence_length,
        {
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "pad_token_id": end_of_text if padding is None else padding,
        },
    )


def configure_gpt2(
    network: Network, vocabulary_size: int, sequence_length: int, tokens: Tokens
) -> PreTrainedConfig:
    """GPT-2 with exact GELU instead of the tanh form of the original.

    The tanh form costs 8 % of throughput on CPUs, and the exported config.json says which one a
    model has.
    """
    return GPT2Config(
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


def configure_llama(
    network: Network, vocabulary_size: int, sequence_length: int, tokens: Tokens
) -> PreTrainedConfig:
    """Llama with tied embeddings."""
    return LlamaConfig(
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


def configure_bert(
    network: Network, vocabulary_size: int, sequence_length: int, tokens: Tokens
) -> PreTrainedConfig:
    """BERT for masked text; there is one kind of segment, and no next-sentence head."""
    return BertConfig(
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


def configure_t5(
    network: Network, vocabulary_size: int, sequence_length: int, tokens: Tokens
) -> PreTrainedConfig:
    """T5 with gated units (T5 1.1) by SiLU, whose GELU would be the slow tanh form.

    It has no limit of length: positions are relative. Writing begins with the padding token.
    """
    del sequence_length
    tokens = tokens | {"decoder_start_token_id": tokens["pad_token_id"]}
    return T5Config(
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


def configure_lstm(
    network: Network, vocabulary_size: int, sequence_length: int, tokens: Tokens
) -> PreTrainedConfig:
    """A recurrent model."""
    return LstmConfig(
        vocab_size=vocabulary_size,
        max_position_embeddings=sequence_length,
        hidden_size=network.hidden_size,
        num_hidden_layers=network.layers,
        dropout=network.dropout,
        **_without_padding(tokens),
    )


Configure = Callable[[Network, int, int, Tokens], PreTrainedConfig]

CONFIGURATIONS: dict[Architecture, Configure] = {
    Architecture.GPT2: configure_gpt2,
    Architecture.LLAMA: configure_llama,
    Architecture.BERT: configure_bert,
    Architecture.T5: configure_t5,
    Architecture.LSTM: configure_lstm,
}


def _without_padding(tokens: Tokens) -> Tokens:
    """Leave the padding out: models that read one side only were never padded."""
    return {name: token for name, token in tokens.items() if name != "pad_token_id"}
