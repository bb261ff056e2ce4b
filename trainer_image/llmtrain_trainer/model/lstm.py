"""A recurrent language model in the form of `transformers`, which has none.

Below: torch's LSTM, `transformers` for saving, loading and generating. Above: `network` builds it.

Each block is a residual one, x + LSTM(norm(x)), as of a transformer, so that any number of them
trains alike; the output layer is the embedding (Press and Wolf 2017, arXiv:1608.05859).
Where documents share a row, each is read from an empty state: they are handed to the LSTM one by
one, as a packed sequence, so that it computes of a document what it would compute of it alone.

Importing this module makes `AutoModelForCausalLM` load what was exported: there is no code in an
export.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    initialization,
)
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import PreTrainedModel

MODEL_TYPE = "llmtrain_lstm"
FORGET_BIAS = 1.0
"""Gates that forget begin open (Jozefowicz et al. 2015). Each gate has two biases, which add."""


class LstmConfig(PreTrainedConfig):
    """The shape of an LSTM."""

    model_type = MODEL_TYPE

    vocab_size: int = 257
    hidden_size: int = 384
    num_hidden_layers: int = 6
    dropout: float = 0.0
    initializer_range: float = 0.02
    max_position_embeddings: int = 256
    """Tokens that it was trained on at a time; it has no limit of its own."""

    use_cache: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = False
    """There is one matrix only, so that there is nothing to tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where the documents of rows are, for an LSTM that reads each by itself."""

    order: torch.Tensor
    """The places, of n × t, of the first tokens of all documents, the longest first; then of the
    second ones; and so on, int64 [n × t]."""

    counts: torch.Tensor
    """How many documents have a first token, a second one, …; int64, on the CPU."""

    def pack(self, states: torch.Tensor) -> PackedSequence:
        """Return states [n, t, width] as the LSTM takes documents."""
        return PackedSequence(states.flatten(0, 1)[self.order], self.counts)

    def unpack(self, packed: PackedSequence, shape: torch.Size) -> torch.Tensor:
        """Return what the LSTM has written of them in the places of the tokens [n, t, width]."""
        written = torch.empty_like(packed.data)
        written[self.order] = packed.data
        return written.view(shape)


def pack_documents(positions: torch.Tensor) -> Packing | None:
    """Return where documents are, by the place of each token in its own [n, t].

    None where each row is one document, from its beginning.
    """
    places = positions.flatten().cpu()
    is_first = places == 0
    if int(is_first.sum()) == len(positions):
        return None
    document = is_first.cumsum(0) - 1
    lengths = document.bincount()
    rank = torch.empty_like(lengths)
    rank[lengths.argsort(descending=True, stable=True)] = torch.arange(len(lengths))
    order = (places * len(lengths) + rank[document]).argsort()
    return Packing(order=order.to(positions.device), counts=places.bincount())


class LstmBlock(nn.Module):
    """One layer."""

    def __init__(self, config: LstmConfig) -> None:
        """Build a layer as wide as the model."""
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.lstm = nn.LSTM(config.hidden_size, config.hidden_size, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: torch.Tensor, packing: Packing | None = None) -> torch.Tensor:
        """Map states [n, t, width] to states of the same shape."""
        # oneDNN has no LSTM in bfloat16 on many CPUs; cuDNN has one.
        with torch.autocast("cpu", enabled=False):
            normed = self.norm(states)
            if packing is None:
                written, _ = self.lstm(normed)
            else:
                packed, _ = self.lstm(packing.pack(normed))
                written = packing.unpack(packed, states.shape)
        dropped: torch.Tensor = self.dropout(written)
        return states + dropped


class LstmForCausalLM(PreTrainedModel, GenerationMixin):
    """Predicts the next token."""

    config_class = LstmConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules = ["LstmBlock"]  # noqa: RUF012  (the library's name and form)

    def __init__(self, config: LstmConfig) -> None:
        """Build it with random weights."""
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(LstmBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        PreTrainedModel.post_init(self)

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding."""
        return self.embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        """Map token ids [n, t] to logits [n, t, vocabulary]; texts begin at the left.

        Where `position_ids` [n, t] begin anew within a row, another document does.
        """
        packing = None if position_ids is None else pack_documents(position_ids)
        states = self.dropout(self.embeddings(input_ids))
        for block in self.blocks:
            states = block(states, packing)
        return CausalLMOutput(logits=self.compute_logits(self.norm(states)))

    def compute_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Map the last states [n, t, width] to logits [n, t, vocabulary]."""
        return functional.linear(states, self.embeddings.weight)

    def prepare_inputs_for_generation(
        self, input_ids: Any, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Read all of the text at each token: simple, and enough for samples."""
        return {"input_ids": input_ids}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        PreTrainedModel._init_weights(self, module)
        if not isinstance(module, nn.LSTM):
            return
        width = module.hidden_size
        opened = torch.zeros(4 * width)
        opened[width : 2 * width] = FORGET_BIAS
        for name, parameter in module.named_parameters():
            if name.startswith("weight"):
                initialization.uniform_(parameter, -(width**-0.5), width**-0.5)
            elif name.startswith("bias_ih"):
                initialization.copy_(parameter, opened)
            else:
                initialization.zeros_(parameter)


AutoConfig.register(MODEL_TYPE, LstmConfig, exist_ok=True)
AutoModelForCausalLM.register(LstmConfig, LstmForCausalLM, exist_ok=True)
