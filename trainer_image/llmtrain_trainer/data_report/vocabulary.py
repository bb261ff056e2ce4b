"""What the tokenizer learned: which tokens are frequent, and how much of the text they cover.

Below: `shards`, the `tokenizers` library. Above: `publishing`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from llmtrain_trainer.data_report.record import TokenCount, VocabularyRecord
from llmtrain_trainer.dataset.shards import COUNT_TYPE, TOKENIZER, TRAIN_COUNTS, DatasetManifest

SHOWN_TOKENS = 40
COVERING = (10, 100, 1000, 10_000)
TOKENIZER_FILE = "tokenizer.json"


def describe_vocabulary(manifest: DatasetManifest, folder: Path) -> VocabularyRecord:
    """Return what the files of a dataset in `folder` say of its vocabulary."""
    assert manifest.tokenizer is not None
    counts = np.fromfile(folder / TRAIN_COUNTS, dtype=COUNT_TYPE)
    order = np.argsort(-counts, kind="stable")
    shares = np.cumsum(counts[order]) / max(int(counts.sum()), 1)
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER / TOKENIZER_FILE))
    return VocabularyRecord(
        size=manifest.vocabulary_size,
        used=manifest.tokenizer.tokens_used,
        tokens_per_word=manifest.tokenizer.tokens_per_word,
        bytes_per_token=manifest.tokenizer.bytes_per_token,
        unknown_rate=manifest.tokenizer.unknown_rate,
        most_frequent=[
            TokenCount(token=show_token(tokenizer, int(number)), count=int(counts[number]))
            for number in order[:SHOWN_TOKENS]
            if counts[number] > 0
        ],
        covered_by={count: float(shares[count - 1]) for count in COVERING if count < len(shares)},
    )


def show_token(tokenizer: Tokenizer, number: int) -> str:
    """Return a token as people read it: its text, with what cannot be seen made visible."""
    text = tokenizer.decode([number], skip_special_tokens=False)
    if not text or "\ufffd" in text:  # a part of a character
        text = tokenizer.id_to_token(number) or str(number)
    return "".join(SEEN.get(c, c if c.isprintable() else f"\\x{ord(c):02x}") for c in text)


SEEN = {" ": "␣", "\n": "↵", "\t": "⇥"}
