"""Several processes give what one gives, and end with the process that they work for."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from llmtrain_api.data import DataSpec, Tokenizer, TokenizerKind
from llmtrain_api.recipe import NearMethod
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.encoding import encode_batch, pack_tokens
from llmtrain_trainer.preparation.minhash import SCHEMES
from llmtrain_trainer.preparation.refine import choose_steps, refine_documents
from llmtrain_trainer.preparation.workers import BATCHES_AHEAD, call_aside, open_workers
from llmtrain_trainer.tokenizer.tokenization import make_tokenizer

WORK_FOREVER = """
import os, time
from llmtrain_trainer.preparation.workers import open_workers

if __name__ == "__main__":
    batches = ["__import__('os').getpid()"] * 9 + ["__import__('time').sleep(99)"] * 9
    with open_workers(eval, 2) as run:
        for pid in run(batches):
            print(pid, flush=True)
"""


def map_batches(function: Callable[[Any], Any], batches: Iterable[Any], count: int) -> list[Any]:
    with open_workers(function, count) as run:
        return list(run(batches))


def test_refined_batches_are_those_of_one_process() -> None:
    data = DataSpec.model_validate(
        {"sources": [{"uri": "s3://bucket/"}], "clean": {"quality": ["gopher", "fineweb"]}}
    )
    documents = [Document(text, name, 0) for name, text in topics.items()]
    batches = [documents[start : start + 5] for start in range(0, len(documents), 5)]
    refine = partial(refine_documents, steps=choose_steps(data), scheme=SCHEMES[NearMethod.EDITED])
    alone = map_batches(refine, batches, 1)
    together = map_batches(refine, batches, 2)
    assert [found.documents for found in together] == [found.documents for found in alone]
    assert [found.tallies for found in together] == [found.tallies for found in alone]
    for one, other in zip(alone, together, strict=True):
        assert one.keys is not None
        assert other.keys is not None
        assert one.keys.tobytes() == other.keys.tobytes()


def test_texts_encoded_by_several_processes_are_those_of_one(tmp_path: Path) -> None:
    spec = Tokenizer(kind=TokenizerKind.BPE, vocabulary_size=300)
    texts = [text + end for text in list(topics.values())[:30] for end in ("", " é 🙂")]
    encoder = make_tokenizer(spec, texts, tmp_path / "tokenizer", [])
    encode = partial(encode_batch, encoder=encoder, with_roles=False)
    batches = [texts[start : start + 5] for start in range(0, len(texts), 5)]
    packed = [
        pack_tokens(chain.from_iterable(map_batches(encode, batches, count)), encoder.token_type)
        for count in (1, 2)
    ]
    assert packed[0] == packed[1]


def test_only_a_few_batches_are_read_ahead() -> None:
    read: list[int] = []

    def list_batches() -> Iterator[int]:
        for number in range(1, 101):
            read.append(number)
            yield number

    with open_workers(abs, 2) as run:
        for done, result in enumerate(run(list_batches()), start=1):
            assert result == done
            assert len(read) <= done + 2 * BATCHES_AHEAD


def test_error_of_a_worker_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        map_batches(partial(divmod, 1), [1, 1, 0, 1], 2)


def test_a_call_aside_is_made_by_another_process_and_raises_what_it_raised() -> None:
    with call_aside(os.getpid) as wait:
        assert wait() != os.getpid()
    with call_aside(partial(divmod, 1, 0)) as wait, pytest.raises(ZeroDivisionError):
        wait()


def test_workers_end_with_the_process_that_they_work_for(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK_FOREVER)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        worker = os.pidfd_open(pid)
        process.send_signal(signal.SIGKILL)
        # The worker holds the other end of our pipe, so this ends when all of them have.
        process.stdout.read()
    assert select.select([worker], [], [], 0)[0] == [worker], "readable: the process has ended"
    os.close(worker)
