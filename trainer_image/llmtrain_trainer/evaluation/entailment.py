"""Whether a source says what an answer says, by a model of natural language inference.

Below: `text_models`, a model and its tokenizer. Above: `suites`. It reads each sentence of an
answer after its source and chooses a label: entailment, contradiction, or neither.

A source that the model cannot read at once is read in windows that overlap. A sentence is entailed
where one of them entails it, else contradicted where one contradicts it, after SummaC-ZS, which
takes the best part of the source for each sentence (Laban et al. 2022, arXiv:2111.09525).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.evaluation.batching import group_by_length
from llmtrain_trainer.evaluation.text_models import (
    Relation,
    check_entailment_model,
    download_model,
    find_context,
)
from llmtrain_trainer.failures import ConfigurationError

OVERLAP = 8
"""One part in so many of the context stands in two windows in a row."""

LONGEST_SENTENCE = 2
"""A sentence has at most one part in so many of the context; what is beyond is not read."""

PAIRS_AT_ONCE = 1024
"""Pairs of source and sentence that are held as tokens."""

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]?[^\Wa-z])|\n+")
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|No|vs|e\.g|i\.e)\.$")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a source says of the sentences of an answer."""

    sentences: tuple[str, ...]
    relations: tuple[Relation, ...]
    """Of each sentence."""

    def share(self, relation: Relation) -> float:
        """Return the share of the sentences of which the source says so."""
        return self.relations.count(relation) / len(self.relations)


class EntailmentJudge:
    """Says of a source and a sentence which one follows from the other."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        relations: Mapping[int, Relation],
        *,
        context: int,
        batch_size: int,
    ) -> None:
        """Read by a model on its own device, whose labels mean `relations`."""
        self._model = model
        self._tokenizer = tokenizer
        self._relations = relations
        self._context = context
        self._batch_size = batch_size

    @property
    def can_contradict(self) -> bool:
        """Whether a label of the model means contradiction."""
        return Relation.CONTRADICTED in self._relations.values()

    def judge_answers(
        self, answers: Sequence[str], sources: Sequence[str | None]
    ) -> list[Judgement | None]:
        """Return what the source of each answer says of its sentences.

        It is None for an answer without a source or without a sentence.
        """
        parts = [
            split_sentences(answer) if source is not None else []
            for answer, source in zip(answers, sources, strict=True)
        ]
        pairs = [
            (source or "", sentence)
            for source, sentences in zip(sources, parts, strict=True)
            for sentence in sentences
        ]
        found = iter(self.judge(pairs))
        return [
            Judgement(tuple(own), tuple(next(found) for _ in own)) if own else None for own in parts
        ]

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Relation]:
        """Return what each source, the first of a pair, says of the sentence beside it."""
        relations: list[Relation] = []
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            relations += self._judge_some(pairs[start : start + PAIRS_AT_ONCE])
        return relations

    def _judge_some(self, pairs: Sequence[tuple[str, str]]) -> list[Relation]:
        windows: list[dict[str, list[int]]] = []
        owners: list[int] = []
        for index, (source, sentence) in enumerate(pairs):
            own = self._divide(source, sentence)
            windows += own
            owners += [index] * len(own)
        said: list[set[Relation]] = [set() for _ in pairs]
        lengths = [len(window["input_ids"]) for window in windows]
        for batch in group_by_length(lengths, self._batch_size, only_equal=False):
            labels = self._choose_labels([windows[place] for place in batch])
            for place, label in zip(batch, labels, strict=True):
                said[owners[place]].add(self._relations[label])
        return [next(relation for relation in Relation if relation in own) for own in said]

    def _divide(self, source: str, sentence: str) -> list[dict[str, list[int]]]:
        """Return the windows of a source, each with the sentence, as the model reads them."""
        most = self._context // LONGEST_SENTENCE
        ids = self._tokenizer.encode(sentence, add_special_tokens=False)
        if len(ids) > most:
            sentence = str(self._tokenizer.decode(ids[:most]))
        encoded = self._tokenizer(
            source,
            sentence,
            truncation="only_first",
            max_length=self._context,
            stride=self._context // OVERLAP,
            return_overflowing_tokens=True,
        )
        names = [name for name in self._tokenizer.model_input_names if name in encoded]
        return [
            {name: encoded[name][number] for name in names}
            for number in range(len(encoded["input_ids"]))
        ]

    def _choose_labels(self, windows: list[dict[str, list[int]]]) -> list[int]:
        inputs = self._tokenizer.pad(windows, return_tensors="pt").to(self._model.device)
        with torch.no_grad():
            chosen: list[int] = self._model(**inputs).logits.argmax(dim=1).tolist()
        return chosen


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text: after . ! or ? before a capital or a digit, and lines."""
    sentences: list[str] = []
    start = 0
    for end in [*(match.span() for match in _SENTENCE_END.finditer(text)), (len(text),) * 2]:
        if end[0] < len(text) and _ABBREVIATION.search(text[start : end[0]]):
            continue
        if sentence := text[start : end[1]].strip():
            sentences.append(sentence)
        start = end[1]
    return [sentence for sentence in sentences if re.search(r"\w", sentence)]


def load_judge(
    uri: str, storage: StorageConfig, *, field: str, device: Any, batch_size: int
) -> EntailmentJudge:
    """Load a model of inference from the store, by safetensors and no code but the library's.

    Raises:
        ConfigurationError: where there is none that can be used.
    """
    relations = check_entailment_model(uri, storage, field=field)
    with tempfile.TemporaryDirectory(prefix="llmtrain-entailment-") as name:
        download_model(uri, storage, Path(name))
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    if info["missing_keys"]:
        raise ConfigurationError(
            f"{field}: the tensors of {uri} lack {', '.join(sorted(info['missing_keys'])[:5])}",
            reason="EntailmentModelInvalid",
            next_step="upload the whole of what save_pretrained wrote after fine-tuning",
        )
    return EntailmentJudge(
        model.to(device).eval(),
        tokenizer,
        relations,
        context=find_context(model, tokenizer),
        batch_size=batch_size,
    )
