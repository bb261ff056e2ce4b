"""What the trained model writes, for people to look at.

Below: the exported model, `objective`. Above: `evaluate`; `report` shows it.

A causal model continues prompts; one that learned the turns of an assistant answers them. A masked
one fills what is hidden, and one of span corruption writes what was cut out: in the manifest's
prompts where these have such tokens, else in held-out text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.objective import Objective as Kind
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Dataset, Split, describe_document
from llmtrain_trainer.evaluation.report import Sample
from llmtrain_trainer.objective.batch import Objective, count_samples, read_batch
from llmtrain_trainer.tokenizer.marks import Role

NUM_DEFAULT_PROMPTS = 3
DEFAULT_PROMPT_TOKENS = 24


def write_samples(
    config: RunConfig,
    dataset: Dataset,
    held_out: Split,
    objective: Objective,
    model: Any,  # `generate` has no type that the library's own models satisfy
    tokenizer: PreTrainedTokenizerBase,
) -> list[Sample]:
    """Let the model show what it was trained for, drawn from the run's seed."""
    torch.manual_seed(config.training.seed)
    if config.objective is Kind.CAUSAL:
        return continue_prompts(config, dataset, held_out, model, tokenizer)
    if config.objective is Kind.CLASSIFICATION:
        return classify_texts(config, dataset, held_out, model, tokenizer)
    if config.objective is Kind.MASKED:
        return fill_masks(config, dataset, held_out, objective, model, tokenizer)
    return write_spans(config, dataset, held_out, objective, model, tokenizer)


def continue_prompts(
    config: RunConfig,
    dataset: Dataset,
    held_out: Split,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Sample]:
    """Continue the manifest's prompts, or starts of held-out documents.

    Prompt and continuation together stay within the context: a longer prompt loses its beginning.
    """
    wanted = config.evaluation.samples
    context = config.training.sequence_length
    samples = []
    for ids in _find_prompts(config, dataset, held_out, tokenizer):
        prompt = torch.tensor([list(ids)[-(context - 1) :]], device=model.device)
        length = prompt.shape[1]
        written = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=min(wanted.max_new_tokens, context - length),
            do_sample=wanted.temperature > 0,
            temperature=wanted.temperature if wanted.temperature > 0 else None,
            pad_token_id=dataset.end_of_text,
        )[0]
        samples.append(
            Sample(
                prompt=str(tokenizer.decode(prompt[0])),
                continuation=str(tokenizer.decode(written[length:], skip_special_tokens=True)),
            )
        )
    return samples


def fill_masks(
    config: RunConfig,
    dataset: Dataset,
    held_out: Split,
    objective: Objective,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Sample]:
    """Fill what is hidden of the manifest's prompts, or of starts of held-out documents."""
    mask = dataset.special.mask
    assert mask is not None
    samples = []
    prompts = _find_prompts(config, dataset, held_out, tokenizer)
    for number, ids in enumerate(prompts):
        tokens = np.array([*list(ids)[: config.training.sequence_length], dataset.end_of_text])
        hidden: torch.Tensor = torch.from_numpy(tokens[None, :-1])
        if mask not in ids:
            batch = objective.make_batch(
                tokens[None],
                np.array([number]),
                is_training=False,
                provenance=describe_document(len(tokens)),
            )
            hidden = batch.inputs["input_ids"]
        with torch.no_grad():
            best = model(hidden.to(model.device)).logits.argmax(dim=2).cpu()
        filled = torch.where(hidden == mask, best, hidden)
        samples.append(
            Sample(
                prompt=str(tokenizer.decode(hidden[0])) + "\n",
                continuation=str(tokenizer.decode(filled[0])),
            )
        )
    return samples


def classify_texts(
    config: RunConfig,
    dataset: Dataset,
    held_out: Split,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Sample]:
    """Name the class, or the classes, of the manifest's prompts or starts of held-out documents."""
    samples = []
    for ids in _find_prompts(config, dataset, held_out, tokenizer):
        text = str(tokenizer.decode(list(ids), skip_special_tokens=True))
        read = tokenizer(
            text,
            return_tensors="pt",
            truncation=True,
            max_length=config.training.sequence_length,
            return_token_type_ids=False,
        ).to(model.device)
        with torch.no_grad():
            logits = model(**read).logits[0]
        named = [int(logits.argmax())]
        if config.data.has_label_sets:
            named = (logits > 0).nonzero()[:, 0].tolist()
        labels = [dataset.labels[number] for number in named]
        samples.append(Sample(prompt=f"{text}\n", continuation=", ".join(labels) or "none"))
    return samples


def write_spans(
    config: RunConfig,
    dataset: Dataset,
    held_out: Split,
    objective: Objective,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Sample]:
    """Write what was cut out of the manifest's prompts (or follows them), or of held-out text.

    After training on pairs: what answers those prompts, or held-out texts.
    """
    wanted, length = config.evaluation.samples, config.training.sequence_length
    inputs: list[torch.Tensor] = []
    sentinels = set(dataset.special.sentinels)
    is_corrupted = config.objective is Kind.SPAN_CORRUPTION
    for prompt in wanted.prompts:
        ids = tokenizer.encode(prompt, add_special_tokens=False)[: length - 1]
        if is_corrupted and not sentinels & set(ids):
            ids = [*ids, dataset.special.sentinels[0]]
        inputs.append(torch.tensor([[*ids, dataset.end_of_text]]))
    if not inputs:
        numbers = np.arange(min(NUM_DEFAULT_PROMPTS, count_samples(objective, held_out, length)))
        batch = read_batch(
            objective, held_out, numbers, numbers, sequence_length=length, is_training=False
        )
        inputs = list(batch.inputs["input_ids"].split(1))
        if "attention_mask" in batch.inputs:
            inputs = [row[row != dataset.special.padding][None] for row in inputs]
    samples = []
    for read in inputs:
        written = model.generate(
            read.to(model.device),
            attention_mask=torch.ones_like(read),
            max_new_tokens=min(wanted.max_new_tokens, length),
            do_sample=wanted.temperature > 0,
            temperature=wanted.temperature if wanted.temperature > 0 else None,
        )[0]
        samples.append(
            Sample(
                prompt=str(tokenizer.decode(read[0])) + "\n",
                continuation=str(tokenizer.decode(written[1:])),
            )
        )
    return samples


def _find_prompts(
    config: RunConfig, dataset: Dataset, held_out: Split, tokenizer: PreTrainedTokenizerBase
) -> list[Sequence[int]]:
    prompts = config.evaluation.samples.prompts
    if config.learns_turns:
        return _find_openings(prompts, held_out, tokenizer)
    if prompts:
        return [tokenizer.encode(p) or [dataset.end_of_text] for p in prompts]
    length = min(DEFAULT_PROMPT_TOKENS, config.training.sequence_length // 2)
    return [
        held_out.read_document(index)[:length].tolist()
        for index in range(min(NUM_DEFAULT_PROMPTS, held_out.num_documents))
    ]


def _find_openings(
    prompts: Sequence[str], held_out: Split, tokenizer: PreTrainedTokenizerBase
) -> list[Sequence[int]]:
    """Return conversations up to where the assistant is to speak: of prompts, or held-out ones."""
    if prompts:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        return [tokenizer.encode(str(text), add_special_tokens=False) for text in texts]
    openings: list[Sequence[int]] = []
    for index in range(held_out.num_documents):
        answers = np.flatnonzero(held_out.read_roles(index) == Role.ASSISTANT)
        if len(answers):
            openings.append(held_out.read_document(index)[: answers[0]].tolist())
        if len(openings) == NUM_DEFAULT_PROMPTS:
            break
    return openings
