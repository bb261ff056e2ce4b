"""Tokenizers: learned from the text or taken over, always as `transformers` loads them.

Below: `learning` for those that are trained, the `tokenizers` library. Above: `prepare`.
`transformers` is not imported here: it would be most of the stage's start-up time, and the files
it wants are two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from llmtrain_api.data import DataSpec, TokenizerKind
from llmtrain_api.data import Tokenizer as TokenizerSpec
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.store import Store
from llmtrain_trainer.tokenizer.arrays import RoleArray, TokenArray, choose_token_type
from llmtrain_trainer.tokenizer.learning import (
    END_OF_TEXT,
    TRAINERS,
    UNKNOWN,
    cut_at_lines,
    finish_byte_level,
    list_byte_characters,
)
from llmtrain_trainer.tokenizer.marks import (
    CHAT_TEMPLATE,
    CHAT_TOKENS,
    INFILL_TOKENS,
    Role,
    divide_text,
)
from llmtrain_trainer.tokenizer.special_tokens import (
    MASK,
    PADDING,
    START,
    add_lacking_tokens,
    find_name,
    find_special_tokens,
)
from llmtrain_trainer.tokenizer.words_once import MOST_CORES, WordTable

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
CHAT_FILE = "chat_template.jinja"
PRETRAINED_FILES = (TOKENIZER_FILE, CONFIG_FILE, "special_tokens_map.json", CHAT_FILE)

PRETRAINED_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]")
"""End-of-text tokens of well-known tokenizers, for one whose configuration names none."""


EncodeTexts = Callable[[Sequence[str]], Iterator[NDArray[Any]]]
"""Yields the tokens of each text, without an end."""


class TextEncoder:
    """Turns documents into tokens that end with end of text."""

    def __init__(self, tokenizer: Tokenizer, end_of_text: str, encode: EncodeTexts) -> None:
        """Encode by `encode`, which does what `tokenizer` would; `end_of_text` is a token."""
        number = tokenizer.token_to_id(end_of_text)
        assert number is not None
        self.end_of_text = number
        self.unknown = tokenizer.token_to_id(UNKNOWN)
        """The token for what the tokenizer cannot write, where it has one of that name."""
        self._special = {
            name: number
            for name in (*CHAT_TOKENS, *INFILL_TOKENS)
            if (number := tokenizer.token_to_id(name)) is not None
        }
        self.special = find_special_tokens(tokenizer)
        """Tokens that objectives need, of those that it has."""
        self.vocabulary_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.token_type = choose_token_type(self.vocabulary_size)
        self._encode = encode

    def encode(self, texts: Sequence[str]) -> Iterator[TokenArray]:
        """Yield the tokens of each text, end of text included."""
        for tokens in self._encode(texts):
            yield np.append(tokens, self.end_of_text).astype(self.token_type)

    def encode_marked(self, texts: Sequence[str]) -> Iterator[tuple[TokenArray, RoleArray]]:
        """Yield the tokens of each text, marks made special tokens, and the role of each token."""
        divided = [divide_text(text) for text in texts]
        plain = [segment.text for part in divided for segment in part if not segment.is_special]
        encoded = self._encode(plain)
        for segments in divided:
            tokens = [
                np.array([self._special[segment.text]]) if segment.is_special else next(encoded)
                for segment in segments
            ]
            roles = np.repeat(
                np.array([segment.role for segment in segments], dtype=np.uint8),
                [len(part) for part in tokens],
            )
            # Text ends as it is text; a conversation has ended with its last turn.
            last = Role.TEXT if segments[-1].role is Role.TEXT else Role.TEMPLATE
            whole = np.concatenate([*tokens, [self.end_of_text]]).astype(self.token_type)
            yield whole, np.append(roles, np.uint8(last))


def make_tokenizer(
    spec: TokenizerSpec, texts: Iterable[str], folder: Path, special: Sequence[str] = ()
) -> TextEncoder:
    """Make a tokenizer, learning from `texts` what its kind needs, and write it to `folder`.

    Bytes and characters are encoded by numpy: the same tokens as by the tokenizer, without
    its time and its hundreds of bytes for each. `special` are further special tokens.
    """
    encode: EncodeTexts
    if spec.kind is TokenizerKind.BYTE:
        tokenizer, encode = make_byte_tokenizer(), encode_bytes
    elif spec.kind is TokenizerKind.CHARACTER:
        characters = collect_characters(texts)
        tokenizer = make_character_tokenizer(characters)
        encode = partial(encode_characters, characters)
    else:
        tokenizer = TRAINERS[spec.kind](texts, spec.vocabulary_size - len(special))
        encode = choose_encoding(spec.kind, tokenizer)
    folder.mkdir()
    add_special_tokens(tokenizer, special, folder, END_OF_TEXT)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    (folder / CONFIG_FILE).write_text(json.dumps(_describe(tokenizer), indent=1), encoding="utf-8")
    return TextEncoder(tokenizer, END_OF_TEXT, encode)


def load_encoder(spec: TokenizerSpec, store: Store, folder: Path) -> TextEncoder:
    """Copy a tokenizer that was made for `spec` from the root of `store` to `folder`.

    Raises:
        StoreError: where the store fails or lacks it.
    """
    if spec.kind is TokenizerKind.PRETRAINED:
        return fetch_tokenizer(store, folder)
    folder.mkdir()
    for name in (TOKENIZER_FILE, CONFIG_FILE):
        store.download(name, folder / name)
    if store.find_object(CHAT_FILE) is not None:
        store.download(CHAT_FILE, folder / CHAT_FILE)
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    encode = choose_encoding(spec.kind, tokenizer)
    if spec.kind is TokenizerKind.BYTE:
        encode = encode_bytes
    elif spec.kind is TokenizerKind.CHARACTER:
        vocabulary = tokenizer.get_vocab(with_added_tokens=False)
        characters = "".join(sorted(vocabulary.keys() - {UNKNOWN, END_OF_TEXT}))
        encode = partial(encode_characters, characters)
    return TextEncoder(tokenizer, END_OF_TEXT, encode)


def choose_encoding(kind: TokenizerKind, tokenizer: Tokenizer) -> EncodeTexts:
    """Return the fastest way to a learned tokenizer's tokens on this machine."""
    encode = partial(encode_with, tokenizer, cut_at_lines)
    if kind is TokenizerKind.BPE and count_usable_cores() <= MOST_CORES:
        return WordTable(tokenizer, encode).encode
    return encode


def encode_bytes(texts: Sequence[str]) -> Iterator[NDArray[Any]]:
    """Yield the bytes of each text."""
    for text in texts:
        yield np.frombuffer(text.encode(), dtype=np.uint8)


def encode_characters(characters: str, texts: Sequence[str]) -> Iterator[NDArray[Any]]:
    """Yield the place of each character of each text among the sorted `characters`."""
    known = np.frombuffer(characters.encode("utf-32-le"), dtype="<u4")
    for text in texts:
        yield np.searchsorted(known, np.frombuffer(text.encode("utf-32-le"), dtype="<u4"))


def encode_with(
    tokenizer: Tokenizer, cut: Callable[[str], list[str]], texts: Sequence[str]
) -> Iterator[NDArray[Any]]:
    """Yield the tokens of each text; pieces that `cut` makes are encoded on all cores."""
    # A document that mentions a special token is text, not the end of a document.
    tokenizer.encode_special_tokens = True
    pieces = [cut(text) for text in texts]
    flat = [piece for part in pieces for piece in part]
    encodings = iter(tokenizer.encode_batch_fast(flat, add_special_tokens=False))
    for part in pieces:
        yield np.concatenate(
            [np.array(e.ids, dtype=np.int64) for e in islice(encodings, len(part))]
        )


def collect_characters(texts: Iterable[str]) -> str:
    """Return every character that occurs, once and sorted."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    return "".join(sorted(characters))


def make_byte_tokenizer() -> Tokenizer:
    """Return a tokenizer whose tokens are the 256 bytes, in order, and an end of text."""
    vocabulary = {character: byte for byte, character in enumerate(list_byte_characters())}
    return finish_byte_level(Tokenizer(models.BPE(vocab=vocabulary, merges=[])))


def make_character_tokenizer(characters: str) -> Tokenizer:
    """Return a tokenizer with a token for each of `characters`, in their order."""
    vocabulary = {character: i for i, character in enumerate(characters)}
    vocabulary[UNKNOWN] = len(vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def list_special_tokens(data: DataSpec) -> list[str]:
    """Return the special tokens that a recipe needs beside the end of text."""
    fills = data.augment is not None and data.augment.fill_in_middle > 0.0
    return [
        *(CHAT_TOKENS if data.has_conversations else ()),
        *(INFILL_TOKENS if fills else ()),
    ]


def add_special_tokens(
    tokenizer: Tokenizer, special: Sequence[str], folder: Path, end_of_text: str
) -> None:
    """Add special tokens that the tokenizer lacks.

    With those of turns a template goes to `folder`. With one that begins texts, whoever encodes by
    the tokenizer gets texts as they are classified: between that token and the end of text.
    """
    add_lacking_tokens(tokenizer, special)
    start = find_name(tokenizer, START) if START in special else None
    if start is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end_of_text}",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in (start, end_of_text)],
        )
    if CHAT_TOKENS[0] in special:
        # Whatever it had before: the model learns turns as they are written here.
        (folder / CHAT_FILE).write_text(CHAT_TEMPLATE, encoding="utf-8")


def fetch_tokenizer(store: Store, folder: Path, special: Sequence[str] = ()) -> TextEncoder:
    """Copy the tokenizer that `store` is rooted at into `folder`, and find its end of text.

    What it lacks of `special` is added behind its vocabulary.

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
            tokenizer.no_truncation()
            tokenizer.no_padding()
            if special:
                add_special_tokens(tokenizer, special, folder, candidate)
                tokenizer.save(str(path))
                config = json.loads(config_path.read_text("utf-8")) | _name_tokens(tokenizer)
                if CHAT_TOKENS[0] in special:
                    config.pop("chat_template", None)
                config_path.write_text(json.dumps(config, indent=1), "utf-8")
            # Where its words end is its own affair, so its texts stay whole.
            return TextEncoder(
                tokenizer, candidate, partial(encode_with, tokenizer, lambda text: [text])
            )
    raise _refuse(store, f"{CONFIG_FILE} names no eos_token that the vocabulary has")


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
    return config | _name_tokens(tokenizer)


def _name_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """Return what `transformers` is to call the tokens of objectives, where there are any."""
    names = {"pad_token": PADDING, "mask_token": MASK}
    found = {field: find_name(tokenizer, name) for field, name in names.items()}
    return {field: name for field, name in found.items() if name is not None}


def _refuse(store: Store, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"data.tokenizer.uri: {store.uri} is no tokenizer: {why}",
        reason="TokenizerInvalid",
        next_step="upload a directory as save_pretrained of a fast tokenizer writes it",
    )
