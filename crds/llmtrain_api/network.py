"""`spec.model`: the network, by its shape or by one number that the shape follows from.

Below: `base`, `sources` for what a URI is. Above: `job`, which embeds `ModelSpec`, `run`, which
hands it to the trainer, and the operator's forecast, which counts what a `Network` has before it
is built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from llmtrain_api.base import Model, cel
from llmtrain_api.sources import S3Uri

DEFAULT_LAYERS, DEFAULT_HEADS, DEFAULT_WIDTH = 6, 6, 384
"""The shape of a model of which nothing is said."""

GATED_WIDTH_MULTIPLE = 32
"""The inner width of a gated feed-forward part is rounded up to this: well-shaped matrices."""

WIDTH_PER_LAYER = 64
"""About the shape of GPT-2 and of GPT-3's smaller models (Brown et al. 2020, table 2.1)."""

HEAD_WIDTH, NARROW_HEAD_WIDTH, NARROW_WIDTH = 64, 32, 512
"""Heads are 64 wide as in those models, and 32 in models narrower than 512."""

HEAD_WIDTH_MULTIPLE = 8
"""Where the number of heads is given."""

RECURRENT_LAYERS = 2
"""Of an LSTM, whatever its size (Jozefowicz et al. 2016, arXiv:1602.02410)."""

DEFAULT_LEARNING_RATE = 1e-3
SMALLEST_LEARNING_RATE = 6e-5
"""Of the largest model of Brown et al. 2020, table 2.1."""

HEADS_RULE = "hiddenSize must be a multiple of heads"
KEY_VALUE_RULE = "heads must be a multiple of keyValueHeads"
LLAMA_RULE = "keyValueHeads is for architecture: llama only"
SIZED_RULE = "size with keyValueHeads needs heads"
LSTM_RULE = "heads is not for architecture: lstm"
FROM_RULE = (
    "from brings its own shape: leave out architecture, size, layers, heads, keyValueHeads and "
    "hiddenSize"
)


class Architecture(StrEnum):
    """Families of models that are built from a size."""

    GPT2 = "gpt2"
    LLAMA = "llama"
    BERT = "bert"
    T5 = "t5"
    LSTM = "lstm"


BLOCK_MATRICES = {
    Architecture.GPT2: 12,
    Architecture.LLAMA: 12,
    Architecture.BERT: 12,
    Architecture.T5: 28,
    Architecture.LSTM: 8,
}
"""Parameters of a layer's matrices as a multiple of its squared width: attention has 4, what
follows it 8; a layer of T5 is one of the encoder and one of the decoder, which attends twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network's shape, whole."""

    architecture: Architecture
    layers: int
    heads: int
    """1 for an LSTM, which has none."""

    key_value_heads: int
    hidden_size: int
    dropout: float

    @property
    def inner_width(self) -> int:
        """Width between the matrices of a block's feed-forward part.

        8/3 of the hidden size gives the three matrices of a gated one the parameters of the
        usual two (Shazeer 2020, arXiv:2002.05202).
        """
        if self.architecture in (Architecture.LLAMA, Architecture.T5):
            return _round_up(8 * self.hidden_size / 3, GATED_WIDTH_MULTIPLE)
        return 4 * self.hidden_size

    @property
    def block_parameters(self) -> int:
        """Parameters of the matrices of all layers: what `size` asks for."""
        return BLOCK_MATRICES[self.architecture] * self.layers * self.hidden_size**2


class ModelSpec(Model):
    """The network. The vocabulary comes from the tokenizer, the context from training."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "self.architecture == 'lstm' || "
                    "(has(self.size) && !(has(self.heads) && has(self.hiddenSize))) || "
                    f"(has(self.hiddenSize) ? self.hiddenSize : {DEFAULT_WIDTH}) % "
                    f"(has(self.heads) ? self.heads : {DEFAULT_HEADS}) == 0",
                    HEADS_RULE,
                    field="hiddenSize",
                ),
                cel(
                    "!has(self.keyValueHeads) || "
                    f"(has(self.heads) ? self.heads : {DEFAULT_HEADS}) % self.keyValueHeads == 0",
                    KEY_VALUE_RULE,
                    field="keyValueHeads",
                ),
                cel(
                    "!has(self.keyValueHeads) || self.architecture == 'llama'",
                    LLAMA_RULE,
                    field="keyValueHeads",
                ),
                cel(
                    "!(has(self.size) && has(self.keyValueHeads)) || has(self.heads)",
                    SIZED_RULE,
                    field="heads",
                ),
                cel(
                    "!has(self.heads) || self.architecture != 'lstm'",
                    LSTM_RULE,
                    field="heads",
                ),
                cel(
                    "!has(self.from) || (self.architecture == 'gpt2' && !has(self.size) && "
                    "!has(self.layers) && !has(self.heads) && !has(self.keyValueHeads) && "
                    "!has(self.hiddenSize))",
                    FROM_RULE,
                    field="from",
                ),
            ]
        }
    )

    architecture: Architecture = Architecture.GPT2
    """gpt2: learned positions, LayerNorm, GELU; llama: rotary positions, RMSNorm, SwiGLU; bert:
    sees both sides, for training.objective: masked; t5: encoder and decoder, for span-corruption;
    lstm: recurrent, for causal as gpt2 and llama."""

    size: int | None = Field(default=None, ge=1000, le=1_000_000_000_000)
    """Parameters of all layers together, embeddings not counted, which the three below and the
    learning rate follow from where they are absent. `llmtrain plan` says what follows."""

    layers: int | None = Field(default=None, ge=1, le=256)
    """Blocks; for t5 so many in the encoder and so many in the decoder. Absent: as size asks for,
    or 6."""

    heads: int | None = Field(default=None, ge=1, le=256)
    """Attention heads of a block; not for lstm. Absent: as size asks for, or 6."""

    key_value_heads: int | None = Field(default=None, ge=1, le=256)
    """For llama: heads of keys and values (grouped-query attention); absent: as many as heads."""

    hidden_size: int | None = Field(default=None, ge=8, le=65536)
    """Width of the residual stream; a multiple of heads. Absent: as size asks for, or 384."""

    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability that an activation is dropped in training; with from in place of its own."""

    pretrained: S3Uri | None = Field(default=None, alias="from")
    """A model to go on from: a directory in the store as Hugging Face's save_pretrained writes it
    (config.json and safetensors), or export/ of an llmtrain run. It brings its architecture, its
    shape and, unless data.tokenizer is pretrained, its tokenizer. Absent: random weights."""

    @model_validator(mode="after")
    def check_pretrained(self) -> Self:
        """Hold the CEL rule about `from` in Python too."""
        is_shaped = self.architecture is not Architecture.GPT2 or any(
            (self.size, self.layers, self.heads, self.key_value_heads, self.hidden_size)
        )
        if self.pretrained is not None and is_shaped:
            raise ValueError(FROM_RULE)
        return self

    @model_validator(mode="after")
    def check_heads(self) -> Self:
        """Hold the CEL rules of this model in Python too."""
        is_lstm = self.architecture is Architecture.LSTM
        heads, width = self.heads or DEFAULT_HEADS, self.hidden_size or DEFAULT_WIDTH
        is_open = self.size is not None and (self.heads is None or self.hidden_size is None)
        if not is_lstm and not is_open and width % heads:
            raise ValueError(HEADS_RULE)
        if is_lstm and self.heads is not None:
            raise ValueError(LSTM_RULE)
        if self.key_value_heads is not None:
            if heads % self.key_value_heads:
                raise ValueError(KEY_VALUE_RULE)
            if self.architecture is not Architecture.LLAMA:
                raise ValueError(LLAMA_RULE)
            if self.size is not None and self.heads is None:
                raise ValueError(SIZED_RULE)
        return self

    def resolve(self) -> Network:
        """Return the shape, with what follows from `size` and from defaults."""
        is_lstm = self.architecture is Architecture.LSTM
        if self.size is None:
            layers, width = self.layers or DEFAULT_LAYERS, self.hidden_size or DEFAULT_WIDTH
            heads = 1 if is_lstm else self.heads or DEFAULT_HEADS
        else:
            layers, width = self._find_shape(self.size)
            heads = 1 if is_lstm else self.heads or _choose_heads(width)
        return Network(
            architecture=self.architecture,
            layers=layers,
            heads=heads,
            key_value_heads=self.key_value_heads or heads,
            hidden_size=width,
            dropout=self.dropout,
        )

    def suggest_learning_rate(self) -> float:
        """Return the peak of the learning rate where nobody gives one.

        By `size`: 0.003239 - 0.0001395 ln(parameters) of Kaplan et al. 2020 (arXiv:2001.08361,
        equation D.1), found for decoders of up to 10^10 parameters, and never below 6e-5.
        """
        if self.size is None:
            return DEFAULT_LEARNING_RATE
        parameters = self.resolve().block_parameters
        return max(SMALLEST_LEARNING_RATE, 0.003239 - 0.0001395 * math.log(parameters))

    def _find_shape(self, size: int) -> tuple[int, int]:
        """Return the layers and the width that come nearest to `size` parameters.

        A model has about 64 times as much width as layers. The loss of transformers depends little
        on that (Kaplan et al. 2020, arXiv:2001.08361, section 3.1), so the nearest of the shapes
        around it is taken.
        """
        matrices = BLOCK_MATRICES[self.architecture]
        if self.layers is not None:
            depths = [self.layers]
        elif self.hidden_size is not None:
            depths = [max(1, round(size / (matrices * self.hidden_size**2)))]
        elif self.architecture is Architecture.LSTM:
            depths = [RECURRENT_LAYERS]
        else:
            middle = max(1, round((size / (matrices * WIDTH_PER_LAYER**2)) ** (1 / 3)))
            depths = [depth for depth in (middle, middle - 1, middle + 1) if depth >= 1]
        shapes = []
        for depth in depths:
            if self.hidden_size is not None:
                shapes.append((depth, self.hidden_size))
                continue
            wished = math.sqrt(size / (matrices * depth))
            multiple = NARROW_HEAD_WIDTH if wished < NARROW_WIDTH else HEAD_WIDTH
            if self.heads is not None:
                multiple = HEAD_WIDTH_MULTIPLE * self.heads
            elif wished < NARROW_HEAD_WIDTH or self.architecture is Architecture.LSTM:
                multiple = HEAD_WIDTH_MULTIPLE
            lower = max(multiple, math.floor(wished / multiple) * multiple)
            shapes += [(depth, lower), (depth, lower + multiple)]
        return min(shapes, key=lambda shape: abs(matrices * shape[0] * shape[1] ** 2 - size))


def _choose_heads(width: int) -> int:
    """Return the heads of a width that is given or found; they divide it."""
    wished = width // (NARROW_HEAD_WIDTH if width < NARROW_WIDTH else HEAD_WIDTH)
    return next(heads for heads in range(max(1, wished), 0, -1) if width % heads == 0)


def _round_up(value: float, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
