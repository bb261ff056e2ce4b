"""Values of a JSON array, or of JSON objects one after the other, without reading the whole file.

Below: Python's decoder. Above: `readers`, for the format json.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

CHUNK_BYTES = 1024 * 1024

MAX_VALUE_CHARACTERS = 256 * 1024 * 1024
"""A value that has no end by then is taken for broken."""

NEAR_END = 32
"""An error this near the end of what was read may be gone when more is read: the longest token
that is cut in two, besides strings, is a number or an escape."""

SPACE = re.compile(r"[ \t\r\n]*")


class JsonStreamError(Exception):
    """The rest of the file cannot be read."""

    def __init__(self, line: int, why: str, *, is_encoding: bool = False) -> None:
        """Say what is wrong at which line, and whether it is how characters are written."""
        super().__init__(line, why)
        self.line = line
        self.why = why
        self.is_encoding = is_encoding


def iterate_values(stream: BinaryIO) -> Iterator[tuple[int, Any]]:
    """Yield each element of the array, or each value of the sequence, and the line it begins at.

    Raises:
        JsonStreamError: at the first place that is not JSON.
    """
    text = _Window(stream)
    is_array = text.peek() == "["
    if is_array:
        text.take(1)
        if text.peek() == "]":
            text.take(1)
            is_array = False
    while text.peek() or is_array:
        line = text.line
        yield line, text.take_value()
        if is_array:
            match text.peek():
                case ",":
                    text.take(1)
                case "]":
                    text.take(1)
                    is_array = False
                case _:
                    raise JsonStreamError(text.line, "expected , or ] behind an element")


class _Window:
    """The part of the file that is being looked at."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._parser = json.JSONDecoder()
        self._text = ""
        self._start = 0
        self._at_end = False
        self.line = 1

    def peek(self) -> str:
        """Return the next character that is no space, or nothing at the end."""
        while True:
            match = SPACE.match(self._text, self._start)
            assert match is not None
            self.take(match.end() - self._start)
            if self._start < len(self._text):
                return self._text[self._start]
            if not self._read(CHUNK_BYTES):
                return ""

    def take(self, length: int) -> None:
        self.line += self._text.count("\n", self._start, self._start + length)
        self._start += length

    def take_value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._parser.raw_decode(self._text, self._start)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or (
                    error.pos > len(self._text) - NEAR_END
                )
                size = len(self._text) - self._start
                # Reading as much again keeps the work for a long value linear in its length.
                if not (is_cut and size < MAX_VALUE_CHARACTERS and self._read(size)):
                    line = self.line + self._text.count("\n", self._start, error.pos)
                    raise JsonStreamError(line, error.msg.removesuffix(" at")) from None
            except (ValueError, RecursionError) as error:
                raise JsonStreamError(self.line, str(error)) from None
            else:
                self.take(end - self._start)
                return value

    def _read(self, size: int) -> bool:
        """Read on; return whether there was more."""
        if self._at_end:
            return False
        data = self._stream.read(max(size, CHUNK_BYTES))
        self._at_end = not data
        try:
            text = self._decoder.decode(data, final=self._at_end)
        except UnicodeDecodeError:
            line = self.line + self._text.count("\n", self._start)
            why = "not valid UTF-8 from here on"
            raise JsonStreamError(line, why, is_encoding=True) from None
        self._text = self._text[self._start :] + text
        self._start = 0
        return True
