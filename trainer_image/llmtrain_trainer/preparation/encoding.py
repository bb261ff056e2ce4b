"""The second pass: pieces of text as tokens, by units that any task of a team encodes.

Below: `tokenization`; `team` for who does which unit, `workers` for the processes of a task. Above:
`prepare`, which writes shards of what comes back.

    work/tokenizer/…       the tokenizer; `work/tokenizer.done` is its record
    work/pieces/000003     texts of a unit, a JSON array; only where there are several tasks
    work/tokens/000003     their tokens: how many texts, the length of each, all tokens, and the
                           role of each token where roles are kept

Each is there once its record is.

Units follow from the pieces alone, and tokens from the text alone. Task 0 knows the pieces, since
it decided what stays of all documents; so it hands out their text, and takes tokens back.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from llmtrain_api.data import DataSpec
from llmtrain_api.data import Tokenizer as TokenizerSpec
from llmtrain_api.run import StorageConfig
from llmtrain_trainer.dataset.shards import WORK
from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.preparation.splits import BATCH_CHARACTERS, Piece, divide_into_batches
from llmtrain_trainer.preparation.team import RECORD, Team, choose_unit_size, name_unit
from llmtrain_trainer.preparation.workers import open_workers
from llmtrain_trainer.store import open_store
from llmtrain_trainer.tokenizer.arrays import RoleArray, TokenArray
from llmtrain_trainer.tokenizer.tokenization import TextEncoder, list_special_tokens, load_encoder
from llmtrain_trainer.tokenizer.words_once import MOST_CORES

logger = logging.getLogger(__name__)

PIECES, TOKENS = "pieces", "tokens"
TOKENIZER_FOLDER = "tokenizer"
TOKENIZER_DONE = f"{TOKENIZER_FOLDER}{RECORD}"

LARGEST_UNIT_CHARACTERS = 16 * 1024 * 1024
"""Text that a task encodes between two looks at what others do: seconds of work."""

PROCESS_CHARACTERS = 4 * 1024 * 1024
"""Of a unit: as much takes a process seconds, and its start takes one."""

LENGTH_TYPE = np.dtype("<u8")
ROLE_TYPE = np.dtype("u1")

Encoded = tuple[TokenArray, RoleArray | None]
"""The tokens of a text, and the role of each where roles are kept."""

EncodeBatches = Callable[[Iterable[Sequence[str]]], Iterator[list[Encoded]]]


class SecondPass:
    """Encodes pieces with a team."""

    def __init__(self, team: Team, *, with_roles: bool, unit_characters: int | None = None) -> None:
        """Divide pieces into units of about `unit_characters`; None: as their sum suggests."""
        self._team = team
        self._with_roles = with_roles
        self._unit_characters = unit_characters
        self._processes = ExitStack()
        self._run: EncodeBatches | None = None
        """Encodes by several processes; they begin with the first unit that is worth it."""

    def close(self) -> None:
        """End the processes that encode."""
        self._processes.close()

    def encode(
        self,
        pieces: Iterable[Piece],
        encoder: TextEncoder,
        num_characters: int,
    ) -> Iterator[tuple[Piece, Encoded]]:
        """Yield every piece with its tokens, end of text included; for task 0.

        Args:
            pieces: the same ones each time: they are gone through twice where there are several
                tasks, the second time as they are yielded.
            encoder: the tokenizer, which `obtain_encoder` has put into the store.
            num_characters: that the pieces have together, about.

        Raises:
            StoreError: where the store fails.
        """
        team = self._team
        size = self._unit_characters or choose_unit_size(num_characters, LARGEST_UNIT_CHARACTERS)

        def divide() -> Iterator[tuple[int, list[Piece]]]:
            return enumerate(divide_into_batches(pieces, size))

        if team.place.num_tasks > 1:
            there = team.list_done(PIECES) | team.list_done(TOKENS)
            count = 0
            for unit, batch in divide():
                count = unit + 1
                if unit not in there:
                    texts = [piece.text for piece in batch]
                    team.put(PIECES, unit, json.dumps(texts, ensure_ascii=False).encode())
                    team.report()
            team.finish(TOKENS, range(count), lambda unit: self._encode_unit(unit, encoder))
        # Where several processes encode, they have the next unit while this one is written.
        units_ahead = 1 if count_usable_cores() > 1 else 0
        waiting: deque[tuple[list[Piece], Future[bytes]]] = deque()
        with ThreadPoolExecutor(1, "encoding") as thread:
            for unit, batch in divide():
                team.report()
                tokens = thread.submit(self._obtain_tokens, unit, batch, encoder)
                waiting.append((batch, tokens))
                if len(waiting) > units_ahead:
                    yield from self._unpack(*waiting.popleft(), encoder)
            while waiting:
                yield from self._unpack(*waiting.popleft(), encoder)

    def _obtain_tokens(self, unit: int, pieces: Sequence[Piece], encoder: TextEncoder) -> bytes:
        """Return the tokens of a unit, which another task may have made."""
        data = read_tokens(self._team, unit)
        if data is None:  # the only task
            data = self._encode_texts([piece.text for piece in pieces], encoder)
            self._team.put(TOKENS, unit, data)
        return data

    def _unpack(
        self, pieces: Sequence[Piece], tokens: Future[bytes], encoder: TextEncoder
    ) -> Iterator[tuple[Piece, Encoded]]:
        """Yield the pieces of a unit with their tokens."""
        data = tokens.result()
        encoded = unpack_tokens(data, encoder.token_type, with_roles=self._with_roles)
        return zip(pieces, encoded, strict=True)

    def help(self, encoder: TextEncoder) -> bool:
        """Encode units that were handed out and nobody else encodes; return whether there was one.

        Raises:
            StoreError: where the store fails.
        """
        team = self._team
        units = sorted(team.list_done(PIECES))
        return team.work_at(TOKENS, units, lambda unit: self._encode_unit(unit, encoder))

    def _encode_unit(self, unit: int, encoder: TextEncoder) -> None:
        """Encode a unit that was handed out."""
        store = self._team.store
        texts: list[str] = json.loads(store.read_bytes(f"{WORK}{name_unit(PIECES, unit)}"))
        self._team.put(TOKENS, unit, self._encode_texts(texts, encoder))

    def _encode_texts(self, texts: Sequence[str], encoder: TextEncoder) -> bytes:
        encode = partial(encode_batch, encoder=encoder, with_roles=self._with_roles)
        run = self._run or partial(map, encode)
        cores = count_usable_cores()
        # With more, the library by itself, which encodes on all of them.
        is_worth_it = sum(map(len, texts)) >= PROCESS_CHARACTERS and 1 < cores <= MOST_CORES
        if self._run is None and is_worth_it:
            run = self._run = self._processes.enter_context(open_workers(encode, cores))
        encoded = chain.from_iterable(run(divide_texts(texts)))
        return pack_tokens(encoded, encoder.token_type)


def keeps_roles(data: DataSpec) -> bool:
    """Return whether the role of each token is kept: where not all are plain text."""
    return data.pack is not None or bool(list_special_tokens(data))


def divide_texts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the texts by batches of about `BATCH_CHARACTERS`."""
    start, size = 0, 0
    for end, text in enumerate(texts, start=1):
        size += len(text)
        if size >= BATCH_CHARACTERS or end == len(texts):
            yield texts[start:end]
            start, size = end, 0


def encode_batch(texts: Sequence[str], encoder: TextEncoder, *, with_roles: bool) -> list[Encoded]:
    """Return the tokens of each text, and the role of each where `with_roles`."""
    if with_roles:
        return list(encoder.encode_marked(texts))
    return [(tokens, None) for tokens in encoder.encode(texts)]


def read_tokens(team: Team, unit: int) -> bytes | None:
    """Return the tokens of a unit; None where it is not done."""
    key = f"{WORK}{name_unit(TOKENS, unit)}"
    if team.store.find_object(f"{key}{RECORD}") is None:
        return None
    return team.store.read_bytes(key)


def pack_tokens(texts: Iterable[Encoded], token_type: np.dtype[Any]) -> bytes:
    """Return the tokens of several texts, and the roles that are kept, as one object."""
    parts: list[bytes] = []
    roles: list[bytes] = []
    for tokens, of_text in texts:
        parts.append(tokens.astype(token_type, copy=False).tobytes())
        if of_text is not None:
            roles.append(of_text.astype(ROLE_TYPE, copy=False).tobytes())
    lengths = [len(part) // token_type.itemsize for part in parts]
    head = np.array([len(parts), *lengths], dtype=LENGTH_TYPE)
    return b"".join([head.tobytes(), *parts, *roles])


def unpack_tokens(data: bytes, token_type: np.dtype[Any], *, with_roles: bool) -> Iterator[Encoded]:
    """Yield the tokens of each text of an object, and the roles that are kept."""
    count = int(np.frombuffer(data, LENGTH_TYPE, count=1)[0])
    lengths = np.frombuffer(data, LENGTH_TYPE, count=1 + count)[1:]
    total, cuts = int(lengths.sum()), np.cumsum(lengths)[:-1].astype(np.int64)
    start = (1 + count) * LENGTH_TYPE.itemsize
    tokens = np.split(np.frombuffer(data, token_type, count=total, offset=start), cuts)
    if not with_roles:
        yield from ((part, None) for part in tokens)
        return
    after = start + total * token_type.itemsize
    roles = np.split(np.frombuffer(data, ROLE_TYPE, count=total, offset=after), cuts)
    yield from zip(tokens, roles, strict=True)


def obtain_encoder(
    team: Team,
    spec: TokenizerSpec,
    storage: StorageConfig,
    folder: Path,
    make: Callable[[Path], TextEncoder],
) -> TextEncoder:
    """Return the tokenizer that is kept in the store, or make one and keep it; for task 0.

    All tokens must be those of one tokenizer, and other tasks may have begun with that of an
    earlier start of this one.

    Args:
        team: the tasks that encode by it.
        spec: what was asked for.
        storage: how the store is reached.
        folder: for its files; it is made.
        make: makes the tokenizer and writes it to the folder that it is given.
    """
    kept = fetch_kept_tokenizer(team, spec, storage, folder)
    if kept is not None:
        return kept
    logger.info("begins with the tokenizer")
    encoder = make(folder)
    for path in sorted(folder.iterdir()):
        team.store.upload(f"{WORK}{TOKENIZER_FOLDER}/{path.name}", path)
    team.put_record(TOKENIZER_DONE)
    return encoder


def fetch_kept_tokenizer(
    team: Team, spec: TokenizerSpec, storage: StorageConfig, folder: Path
) -> TextEncoder | None:
    """Return the tokenizer that task 0 keeps in the store; None where it has not made one yet.

    Its files are written to `folder`, which is made here.
    """
    if team.store.find_object(f"{WORK}{TOKENIZER_DONE}") is None:
        return None
    store = open_store(f"{team.store.uri}/{WORK}{TOKENIZER_FOLDER}", storage)
    return load_encoder(spec, store, folder)
