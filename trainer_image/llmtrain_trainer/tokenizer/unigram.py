"""Learning a Unigram tokenizer (Kudo 2018, Subword Regularization) over bytes.

Below: sentencepiece learns, `tokenizers` encodes. Above: `learning`, beside the other kinds.

The trainer of `tokenizers` keeps words in a table whose order differs from one process to the next,
and sums probabilities in it, so that it never learns the same twice. That of sentencepiece gets the
words sorted, and sums them in a fixed number of threads.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import PreTokenizer

NUM_THREADS = 4
"""The sums, and so the vocabulary, follow from it: a constant, not the cores of this machine."""

MAX_WORD_BYTES = 4096
"""Longer words are not learned from."""

RARE = 10.0
"""So much less probable (natural logarithm) than any other piece is a byte that never occurred."""


def learn_unigram(
    texts: Iterable[str], divide: PreTokenizer, alphabet: list[str], vocabulary_size: int
) -> Tokenizer:
    """Return a Unigram model of at most `vocabulary_size` pieces, learned from `texts`.

    Args:
        texts: are gone through once.
        divide: makes words of a text, in characters of `alphabet`.
        alphabet: characters that must be pieces, so that nothing is unknown.
        vocabulary_size: more than `alphabet` has.
    """
    words = count_words(texts, divide)
    known = set().union(*words)
    absent = [character for character in alphabet if character not in known]
    pieces = learn_pieces(words, vocabulary_size - len(absent)) if words else []
    least = min((score for _, score in pieces), default=0.0)
    pieces.extend((character, least - RARE) for character in absent)
    return Tokenizer(models.Unigram(vocab=pieces, unk_id=None))


def count_words(texts: Iterable[str], divide: PreTokenizer) -> Counter[str]:
    """Return how often each word occurs."""
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in divide.pre_tokenize_str(text))
    return words


def learn_pieces(words: Counter[str], size: int) -> list[tuple[str, float]]:
    """Return at most `size` pieces of words and their scores, which are natural logarithms.

    Every character of the words is a piece.
    """
    import sentencepiece  # a library that most preparations do not need

    def list_words() -> Iterator[str]:
        for word in sorted(words):
            yield f"{word}\t{words[word]}"

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=list_words(),
        model_writer=model,
        input_format="tsv",
        model_type="unigram",
        vocab_size=size + 1,  # beside the token for what is unknown
        hard_vocab_limit=False,
        character_coverage=1.0,
        max_sentence_length=MAX_WORD_BYTES,
        num_threads=NUM_THREADS,
        # Words are what `divide` made of the text: nothing is to be changed or divided further.
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_whitespace=False,
        split_by_unicode_script=False,
        split_by_number=False,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    learned = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [
        (learned.id_to_piece(number), learned.get_score(number))
        for number in range(1, learned.get_piece_size())
    ]
