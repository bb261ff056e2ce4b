"""A model of natural language inference that knows three colours, made without training.

Below: transformers, tokenizers. Above: the trainer's tests, which put it into a store.

A source names the colour of something; a sentence of the same colour follows from it, one of
another colour contradicts it, and one of a size does neither. Words without meaning stand around.
The model is a BERT: its one layer attends to words with a meaning alone, which is set by hand, and
its head is fitted to what that makes of examples by least squares.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

LABELS = ("contradiction", "entailment", "neutral")
CONTEXT = 24
"""Tokens that it can read."""

COLOURS = ("red", "green", "blue")
SIZES = ("small", "large")
FILLERS = ("so", "and", "then", "it", "is", ".")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WIDTH = 64
ATTENTION = 40.0
"""What a word with a meaning has more than others, before the softmax."""

POOLER_SCALE = 0.2
"""Keeps the features of two cases apart: tanh would make signs of them."""

EXAMPLES = 400
SHARPNESS = 30.0


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of the few words, with [CLS] and [SEP] as BERT has them."""
    words = [*SPECIAL, *COLOURS, *SIZES, *FILLERS]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def make_judge(seed: int = 0) -> tuple[Any, PreTrainedTokenizerFast]:
    """Return the model and its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=1,
        max_position_embeddings=CONTEXT,
        initializer_range=1.0,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    model: Any = BertForSequenceClassification(config).eval()
    draw = Random(seed)
    examples = [_draw_pair(draw) for _ in range(EXAMPLES)]
    with torch.no_grad():
        _attend_to_meaning(model, tokenizer)
        sources, sentences, labels = zip(*examples, strict=True)
        inputs = tokenizer(list(sources), list(sentences), padding=True, return_tensors="pt")
        features = model.bert(**inputs).pooler_output
        targets = torch.nn.functional.one_hot(torch.tensor(labels)).float() * SHARPNESS
        with_one = torch.cat([features, torch.ones(EXAMPLES, 1)], dim=1)
        # By the singular values: many examples are the same to the model.
        fitted = torch.linalg.pinv(with_one.double(), rtol=1e-6).float() @ targets
        model.classifier.weight.copy_(fitted[:-1].T)
        model.classifier.bias.copy_(fitted[-1])
    return model, tokenizer


def save_judge(folder: Path) -> None:
    """Write the model as save_pretrained does."""
    model, tokenizer = make_judge()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _attend_to_meaning(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Let every token see the words with a meaning alone, wherever they stand."""
    embeddings, layer = model.bert.embeddings, model.bert.encoder.layer[0]
    embeddings.position_embeddings.weight.zero_()
    ids = torch.arange(len(tokenizer)).repeat(2, 1)
    types = torch.tensor([[0], [1]]).expand_as(ids)
    vectors = embeddings(input_ids=ids, token_type_ids=types).reshape(-1, WIDTH)
    telling = {tokenizer.convert_tokens_to_ids(word) for word in (*COLOURS, *SIZES)}
    scores = torch.tensor([[ATTENTION * (int(i) in telling)] for i in ids.flatten()])
    own = layer.attention.self
    own.query.weight.zero_()
    own.query.bias.zero_()[0] = WIDTH**0.5
    own.key.weight.zero_()[0] = torch.linalg.lstsq(vectors, scores).solution[:, 0]
    own.key.bias.zero_()
    model.bert.pooler.dense.weight.mul_(POOLER_SCALE)


def _draw_pair(draw: Random) -> tuple[str, str, int]:
    """Return a source, a sentence, and the number of the label; some sources tell nothing."""
    told = draw.choice([*COLOURS, None])
    said = draw.choice([*COLOURS, *SIZES])
    words = [draw.choice(FILLERS) for _ in range(draw.randrange(2, 15))]
    if told is not None:
        words.insert(draw.randrange(len(words)), told)
    if told is None or said in SIZES:
        label = "neutral"
    else:
        label = "entailment" if said == told else "contradiction"
    return " ".join(words), f"it is {said} .", LABELS.index(label)
