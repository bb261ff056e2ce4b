"""Paragraphs that were there before, in the same document or another: the first one stays.

Below: nothing. Above: `prepare`.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.tally import Tally

PARAGRAPH_ENDS = re.compile(r"(\n[^\S\n]*\n\s*)")


class RepeatedParagraphs:
    """Knows of each paragraph of a sequence of documents whether it was there before."""

    def __init__(self, documents: Iterable[Document], min_characters: int) -> None:
        """Read all documents once; paragraphs shorter than `min_characters` are never repeated."""
        self._min_characters = min_characters
        digests = array("Q")
        for document in documents:
            digests.extend(
                int.from_bytes(hashlib.sha256(paragraph.strip().encode()).digest()[:8])
                for paragraph in self._list_long(document.text)
            )
        numbers = np.frombuffer(digests.tobytes(), dtype=np.uint64)
        _, first = np.unique(numbers, return_index=True)
        self._is_repeated = np.ones(len(numbers), dtype=np.bool_)
        self._is_repeated[first] = False

    def drop(self, documents: Iterable[Document], tally: Tally) -> Iterator[Document]:
        """Yield the same documents in the same order, without what was there before."""
        number = 0
        for document in documents:
            parts = PARAGRAPH_ENDS.split(document.text)
            kept = []
            for paragraph, end in zip(parts[::2], [*parts[1::2], ""], strict=True):
                if len(paragraph) >= self._min_characters:
                    number += 1
                    if self._is_repeated[number - 1]:
                        tally.count_rule(
                            document.place, "paragraph", f"{len(paragraph)} characters"
                        )
                        continue
                kept.append(paragraph + end)
            text = document.text if len(kept) == len(parts[::2]) else "".join(kept).rstrip()
            after = text if text.strip() else None
            tally.count_text(document.text, after)
            if after is None:
                tally.count_rule(document.place, "nothing left")
            else:
                yield replace(document, text=after)

    def _list_long(self, text: str) -> Iterator[str]:
        for paragraph in PARAGRAPH_ENDS.split(text)[::2]:
            if len(paragraph) >= self._min_characters:
                yield paragraph
