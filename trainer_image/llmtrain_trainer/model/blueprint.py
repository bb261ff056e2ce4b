"""The model of a run: its configuration, and its weights before the first step.

Below: `configurations` for models from a size, `pretrained` for those that go on from another one,
`adapters` for what is trained beside those, `freezing` for what of them stays. Above:
`training.run` builds it, `export` builds it again, reports describe it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging as logging_of_library

from llmtrain_api.objective import Objective
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Dataset
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.model.adapters import add_adapters, find_new_layers
from llmtrain_trainer.model.configurations import configure_network
from llmtrain_trainer.model.freezing import digest_frozen, freeze_parts
from llmtrain_trainer.model.network import AUTO_CLASSES, create_model
from llmtrain_trainer.model.pretrained import Pretrained, fetch_weights

if TYPE_CHECKING:
    from peft import LoraModel

logger = logging.getLogger(__name__)

DROPOUTS = (
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "dropout_rate", "attention_dropout"),
    *(
        "hidden_dropout",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "activation_dropout",
    ),
)
"""What configurations call the probabilities that `model.dropout` stands for."""


MOST_LACKING = 0.5
"""Share of a model's parameters that may begin at random where others are loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What people want to know of a network."""

    architecture: str
    layers: int
    heads: int
    hidden_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """The model of a run, before it is built."""

    run: RunConfig
    configuration: PreTrainedConfig

    pretrained: Pretrained | None = None
    """The model that the run goes on from. `configuration` has the vocabulary of the tokenizer
    where that is the larger one."""

    @property
    def frozen_digest(self) -> str | None:
        """Digest of the weights that stay as they are, and are in no checkpoint; None: all move."""
        training = self.run.training
        if self.pretrained is None:
            return None
        if training.freeze is not None:
            return digest_frozen(self.pretrained.digest, training.freeze)
        return None if training.lora is None else self.pretrained.digest

    def build(self) -> PreTrainedModel:
        """Build the model with random fp32 weights, of the run's seed."""
        return create_model(self.configuration, self.run.objective, seed=self.run.training.seed)

    def begin(self) -> PreTrainedModel:
        """Build the model as it is before the first step.

        Raises:
            ConfigurationError: it has not the parts that are to be trained, or to stay.
            StoreError: the pretrained weights cannot be had as they were pinned.
        """
        if self.pretrained is None:
            return self.build()
        if self.run.training.lora is not None:
            model = self.adapt().model
            assert isinstance(model, PreTrainedModel)
            return model
        model = self.load(fetch_weights(self.pretrained, self.run))
        if self.run.training.freeze is not None:
            num_new = self.configuration.vocab_size - self.pretrained.configure().vocab_size
            freeze_parts(model, self.run.training.freeze, num_new_tokens=num_new)
        return model

    def adapt(self) -> LoraModel:
        """Build the frozen model with adapters that change nothing yet; see `begin`."""
        spec = self.run.training.lora
        assert spec is not None
        assert self.pretrained is not None
        known = self.pretrained.configure().vocab_size
        model, lacking = self._load(fetch_weights(self.pretrained, self.run))
        return add_adapters(
            model,
            spec,
            seed=self.run.training.seed,
            new_tokens=range(known, self.configuration.vocab_size),
            new_layers=find_new_layers(model, lacking),
            source=self.pretrained.uri,
        )

    def load(self, folder: Path) -> PreTrainedModel:
        """Build the model with the weights in `folder`; what they lack is random, by the seed.

        Rows of new tokens are the mean of the others, which keeps the probabilities of what the
        model knows nearly as they are (Hewitt 2021, Initializing New Word Embeddings for
        Pretrained Language Models).

        Raises:
            ConfigurationError: they are of another model.
        """
        model, _ = self._load(folder)
        return model

    def _load(self, folder: Path) -> tuple[PreTrainedModel, set[str]]:
        """Return the model of `load`, and the names of the parameters that began at random."""
        assert self.pretrained is not None
        configuration = copy.deepcopy(self.configuration)
        size = configuration.vocab_size = self.pretrained.configure().vocab_size
        torch.manual_seed(self.run.training.seed)
        logging_of_library.disable_progress_bar()
        model, loading = AUTO_CLASSES[self.run.objective].from_pretrained(
            folder,
            config=configuration,
            generation_config=GenerationConfig.from_model_config(configuration),
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            # A model that was a classifier before gets an output layer for its new classes.
            ignore_mismatched_sizes=self.run.objective is Objective.CLASSIFICATION,
        )
        assert isinstance(model, PreTrainedModel)
        self._check_lack(model, loading["missing_keys"])
        new_size = self.configuration.vocab_size
        if new_size > size:
            logger.info("the vocabulary grows from %d to %d tokens", size, new_size)
            model.resize_token_embeddings(new_size, mean_resizing=False)
            _begin_new_rows(model, size)
        mismatched = {name for name, *_ in loading["mismatched_keys"]}
        return model, set(loading["missing_keys"]) | mismatched

    def _check_lack(self, model: PreTrainedModel, lacking: Collection[str]) -> None:
        """Refuse weights of another model: an output layer may begin anew, most layers may not."""
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        lack = sum(sizes.get(name, 0) for name in lacking)
        if lack <= MOST_LACKING * sum(sizes.values()):
            return
        raise ConfigurationError(
            f"model.from: the weights lack {len(lacking)} of the tensors of "
            f"{type(model).__name__}, as {min(lacking)}",
            reason="PretrainedInvalid",
            next_step="see that config.json and the weights are of one model, saved together",
        )


def draw_blueprint(config: RunConfig, dataset: Dataset, pretrained: Pretrained | None) -> Blueprint:
    """Return the model of a run that trains on `dataset`.

    Raises:
        ConfigurationError: sequences are longer than the pretrained model can read.
    """
    if pretrained is None:
        configuration = configure_network(
            config.model,
            vocabulary_size=dataset.vocabulary_size,
            sequence_length=config.training.sequence_length,
            end_of_text=dataset.end_of_text,
            padding=dataset.special.padding,
        )
        _name_classes(configuration, config, dataset)
        return Blueprint(run=config, configuration=configuration)
    configuration = pretrained.configure()
    context = getattr(configuration, "max_position_embeddings", None)
    if context is not None and config.training.sequence_length > context:
        raise ConfigurationError(
            f"training.sequenceLength ({config.training.sequence_length}) is more than the "
            f"{context} tokens that the model at model.from can read",
            reason="ContextTooLong",
            next_step=f"give training.sequenceLength: {context} or less",
        )
    for name in DROPOUTS:
        if isinstance(getattr(configuration, name, None), float):
            setattr(configuration, name, config.model.dropout)
    _name_classes(configuration, config, dataset)
    configuration.vocab_size = max(configuration.vocab_size, dataset.vocabulary_size)
    return Blueprint(run=config, configuration=configuration, pretrained=pretrained)


def _name_classes(configuration: PreTrainedConfig, config: RunConfig, dataset: Dataset) -> None:
    """Have a model that classifies know its classes, and padding, which decoders look for."""
    if config.objective is not Objective.CLASSIFICATION:
        return
    configuration.id2label = dict(enumerate(dataset.labels))
    configuration.label2id = {label: number for number, label in enumerate(dataset.labels)}
    configuration.problem_type = (
        "multi_label_classification"
        if config.data.has_label_sets
        else "single_label_classification"
    )
    configuration.pad_token_id = dataset.special.padding


def describe_shape(configuration: PreTrainedConfig) -> Shape:
    """Return the shape of a network of any architecture."""
    return Shape(
        architecture=configuration.model_type.removeprefix("llmtrain_"),
        layers=configuration.num_hidden_layers,
        heads=getattr(configuration, "num_attention_heads", 1),
        hidden_size=configuration.hidden_size,
    )


@torch.no_grad()
def _begin_new_rows(model: PreTrainedModel, known: int) -> None:
    """Set the rows of the embeddings from number `known` on; tied ones are one matrix."""
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None:
            rows = layer.weight
            assert isinstance(rows, torch.Tensor)
            rows[known:] = rows[:known].double().mean(dim=0).to(rows.dtype)
