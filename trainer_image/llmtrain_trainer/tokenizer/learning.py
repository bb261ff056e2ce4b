"""Learning a tokenizer from text: BPE, WordPiece and Unigram, all over bytes.

Below: the `tokenizers` library, `unigram`. Above: `tokenization`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from llmtrain_api.data import TokenizerKind
from llmtrain_trainer.tokenizer.unigram import learn_unigram

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
"""Of the character tokenizer: stands for a character that the text never had."""

CONTINUATION = "\u2581"
"""Begins a piece of WordPiece that is not the first of its word."""

LONGEST_WORD_BYTES = 64
"""WordPiece looks for pieces of a word in a time that grows with the square of its length, and
Unigram learns from words as wholes."""

PIECE_CHARACTERS = 64 * 1024
"""Longer texts are cut, where that changes no token, before they are encoded or learned from."""

LINE_END = re.compile(r"(?<=\S)\n(?=\S)")


def cut_at_lines(text: str) -> list[str]:
    """Cut a long text at ends of lines where GPT-2's pattern divides words anyway.

    So a text of any length is encoded in parallel, and learned from, with the tokens of the
    whole: a lone line end between two other characters is a word of its own.
    """
    pieces = []
    start = 0
    while (end := LINE_END.search(text, start + PIECE_CHARACTERS)) is not None:
        pieces.append(text[start : end.end()])
        start = end.end()
    return [*pieces, text[start:]]


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
    tokenizer.train_from_iterator((p for text in texts for p in cut_at_lines(text)), trainer)
    return finish_byte_level(tokenizer)


def train_wordpiece_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Return a WordPiece (Schuster and Nakajima, 2012) over bytes, learned from `texts`.

    Pieces within a word begin with U+2581, which stands for no byte; every byte is a piece at
    both places, so that no word is unknown.
    """
    alphabet = list_byte_characters()
    within = [CONTINUATION + character for character in alphabet]
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = _divide_long_words()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT, UNKNOWN, *within],
        initial_alphabet=alphabet,
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    tokenizer.train_from_iterator((p for text in texts for p in cut_at_lines(text)), trainer)
    # Those within a word were special only so that training keeps them all.
    learned = Tokenizer(
        models.WordPiece(
            vocab=tokenizer.get_vocab(with_added_tokens=True),
            unk_token=UNKNOWN,
            continuing_subword_prefix=CONTINUATION,
        )
    )
    learned = finish_byte_level(learned)
    learned.pre_tokenizer = _divide_long_words()
    learned.decoder = decoders.Sequence(
        [decoders.Replace(CONTINUATION, ""), decoders.Fuse(), decoders.ByteLevel()]
    )
    return learned


def train_unigram_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Return a Unigram over bytes of at most `vocabulary_size` tokens, learned from `texts`."""
    divide = _divide_long_words()
    pieces = (piece for text in texts for piece in cut_at_lines(text))
    tokenizer = learn_unigram(pieces, divide, list_byte_characters(), vocabulary_size - 1)
    learned = finish_byte_level(tokenizer)
    learned.pre_tokenizer = divide
    return learned


TRAINERS: dict[TokenizerKind, Callable[[Iterable[str], int], Tokenizer]] = {
    TokenizerKind.BPE: train_bpe_tokenizer,
    TokenizerKind.WORDPIECE: train_wordpiece_tokenizer,
    TokenizerKind.UNIGRAM: train_unigram_tokenizer,
}


def list_byte_characters() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary, by byte.

    Printable bytes stand for themselves, the others for the characters from U+0100 on: the
    mapping of GPT-2, which the `ByteLevel` of `tokenizers` computes too.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def finish_byte_level(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _divide_long_words() -> pre_tokenizers.PreTokenizer:
    """Divide as GPT-2 does, and further where a search for pieces would take too long."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Split(Regex(rf"\S{{{LONGEST_WORD_BYTES}}}"), behavior="isolated"),
        ]
    )
