"""Tokenizers: learned from the text or taken over, always as `transformers` loads them.

Below: the `tokenizers` library. Above: `prepare`. `transformers` is not imported here: it would
be most of the stage's start-up time, and the files it wants are two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from llmtrain_api.data import Tokenizer as TokenizerSpec
from llmtrain_api.data import TokenizerKind
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.shards import TokenArray, choose_token_type
from llmtrain_trainer.store import Store

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
"""Of the character tokenizer: stands for a character that the text never had."""

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
PRETRAINED_FILES = (TOKENIZER_FILE, CONFIG_FILE, "special_tokens_map.json", "chat_template.jinja")

PRETRAINED_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>")
"""End-of-text tokens of well-known tokenizers, for one whose configuration names none."""


class TextEncoder:
    """A tokenizer, ready to turn documents into tokens that end with end of text."""

    def __init__(self, tokenizer: Tokenizer, end_of_text: str) -> None:
        """Encode with `tokenizer`; `end_of_text` is the token that ends a document."""
        number = tokenizer.token_to_id(end_of_text)
        assert number is not None
        self._tokenizer = tokenizer
        # A document that mentions a special token is text, not the end of a document.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.end_of_text = number
        self.vocabulary_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.token_type = choose_token_type(self.vocabulary_size)

    def encode(self, texts: Sequence[str]) -> Iterator[TokenArray]:
        """Yield the tokens of each text, end of text included."""
        for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
            yield np.array([*encoding.ids, self.end_of_text], dtype=self.token_type)


def make_tokenizer(spec: TokenizerSpec, texts: Iterable[str], folder: Path) -> TextEncoder:
    """Make a tokenizer, learning from `texts` what its kind needs, and write it to `folder`."""
    if spec.kind is TokenizerKind.BYTE:
        tokenizer = make_byte_tokenizer()
    elif spec.kind is TokenizerKind.CHARACTER:
        tokenizer = make_character_tokenizer(texts)
    else:
        tokenizer = train_bpe_tokenizer(texts, spec.vocabulary_size)
    folder.mkdir()
    tokenizer.save(str(folder / TOKENIZER_FILE))
    (folder / CONFIG_FILE).write_text(json.dumps(_describe(tokenizer), indent=1), encoding="utf-8")
    return TextEncoder(tokenizer, END_OF_TEXT)


def make_byte_tokenizer() -> Tokenizer:
    """Return a tokenizer whose tokens are the 256 bytes, in order, and an end of text."""
    vocabulary = {character: byte for byte, character in enumerate(list_byte_characters())}
    return _finish_byte_level(Tokenizer(models.BPE(vocab=vocabulary, merges=[])))


def make_character_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Return a tokenizer with a token for each character that occurs in `texts`."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    vocabulary = {character: i for i, character in enumerate(sorted(characters))}
    vocabulary[UNKNOWN] = len(vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def train_bpe_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Return a byte-level BPE of at most `vocabulary_size` tokens, learned from `texts`.

    It divides text as GPT-2 does (Radford et al., 2019) and knows every byte, so that there is
    nothing it cannot write.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=list_byte_characters(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _finish_byte_level(tokenizer)


def fetch_tokenizer(store: Store, folder: Path) -> TextEncoder:
    """Copy the tokenizer that `store` is rooted at into `folder`, and find its end of text.

    Raises:
        ConfigurationError: where it is no fast tokenizer, or has no end of text.
        StoreError: where the store fails.
    """
    folder.mkdir()
    for name in PRETRAINED_FILES:
        if store.find_object(name) is not None:
            store.download(name, folder / name)
    path = folder / TOKENIZER_FILE
    if not path.exists():
        raise _refuse(store, f"there is no {TOKENIZER_FILE}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise _refuse(store, f"{TOKENIZER_FILE} cannot be read ({error})") from error
    config_path = folder / CONFIG_FILE
    config = json.loads(config_path.read_text("utf-8")) if config_path.exists() else {}
    end = config.get("eos_token")
    candidates = [end["content"] if isinstance(end, dict) else end, *PRETRAINED_ENDS]
    for candidate in candidates:
        if candidate is not None and tokenizer.token_to_id(candidate) is not None:
            if not config_path.exists():
                config_path.write_text(json.dumps(_describe(tokenizer, candidate)), "utf-8")
            return TextEncoder(tokenizer, candidate)
    raise _refuse(store, f"{CONFIG_FILE} names no eos_token that the vocabulary has")


def list_byte_characters() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary, by byte.

    Printable bytes stand for themselves, the others for the characters from U+0100 on: the
    mapping of GPT-2, which the `ByteLevel` of `tokenizers` computes too.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _finish_byte_level(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _describe(tokenizer: Tokenizer, end_of_text: str = END_OF_TEXT) -> dict[str, Any]:
    """Return what `transformers` wants to know besides tokenizer.json."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_of_text,
        "pad_token": end_of_text,
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.token_to_id(UNKNOWN) is not None:
        config["unk_token"] = UNKNOWN
    return config


def _refuse(store: Store, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"data.tokenizer.uri: {store.uri} is no tokenizer: {why}",
        reason="TokenizerInvalid",
        next_step="upload a directory as save_pretrained of a fast tokenizer writes it",
    )
