"""Copies are found, what is merely alike is not, and the first of each kind stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from llmtrain_api.recipe import NearMethod
from llmtrain_trainer.preparation import duplicates
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.duplicates import (
    drop_exact_duplicates,
    drop_near_duplicates,
    find_candidates,
)
from llmtrain_trainer.preparation.minhash import (
    SCHEMES,
    compute_keys,
    list_sequences,
    measure_similarity,
)
from llmtrain_trainer.preparation.spool import Spool

NUM_DOCUMENTS = 300
EDITED = SCHEMES[NearMethod.EDITED]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool")
    yield spool
    spool.close()


def write_text(random: Random) -> str:
    """Write 40 to 200 words out of a thousand, common ones more often."""
    ranks = random.choices(range(1, 1001), [1 / rank for rank in range(1, 1001)], k=1)
    count = random.randint(40, 200)
    ranks = random.choices(range(1, 1001), [1 / rank for rank in range(1, 1001)], k=count)
    return " ".join(f"word{rank}" for rank in ranks)


def edit_text(text: str, share: float, random: Random) -> str:
    """Change a share of the words: replace, remove or insert one."""
    words = text.split()
    for place in random.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = random.choice(["", f"new{place}", f"{words[place]} new{place}"])
    return " ".join(word for word in words if word)


def drop_near(spool: Spool, texts: list[str], method: NearMethod) -> list[int]:
    for i, text in enumerate(texts):
        spool.append(Document(text, f"file:{i}", 0))
    scheme = SCHEMES[method]
    keys = compute_keys(texts, scheme)
    kept, tally = drop_near_duplicates(spool, np.arange(len(texts)), keys, scheme)
    assert (tally.documents_in, tally.documents_out) == (len(texts), len(kept))
    assert tally.counts.get("duplicate", 0) == len(texts) - len(kept)
    return [int(number) for number in kept]


def test_first_of_equal_documents_stays(spool: Spool) -> None:
    for i, text in enumerate(["b", "a", "b", "c", "a", "b"]):
        spool.append(Document(text, f"file:{i}", 0))
    kept, tally = drop_exact_duplicates(spool)
    assert kept.tolist() == [0, 1, 3]
    record = tally.record()
    assert (record.documents_in, record.documents_out, record.characters_out) == (6, 3, 3)
    assert record.rules["duplicate"].count == 3
    examples = [(e.place, e.measure) for e in record.rules["duplicate"].examples]
    assert examples == [("file:2", "of file:0"), ("file:4", "of file:1"), ("file:5", "of file:0")]


@pytest.mark.parametrize(
    ("method", "share", "least", "most"),
    [
        (NearMethod.EDITED, 0.02, 0.99, 1.0),
        (NearMethod.EDITED, 0.08, 0.95, 1.0),
        (NearMethod.FINEWEB, 0.02, 0.75, 1.0),
        (NearMethod.FINEWEB, 0.08, 0.0, 0.4),
    ],
)
def test_share_of_edited_copies_that_is_found(
    spool: Spool, method: NearMethod, share: float, least: float, most: float
) -> None:
    random = Random(7)
    originals = [write_text(random) for _ in range(NUM_DOCUMENTS)]
    copies = [edit_text(text, share, random) for text in originals]
    kept = drop_near(spool, [*originals, *copies], method)
    assert kept[:NUM_DOCUMENTS] == list(range(NUM_DOCUMENTS))
    found = 1 - (len(kept) - NUM_DOCUMENTS) / NUM_DOCUMENTS
    assert least <= found <= most


def test_a_chain_of_small_changes_is_cut_where_it_left_its_beginning(spool: Spool) -> None:
    random = Random(3)
    chain = [write_text(random)]
    while len(chain) < 12:
        chain.append(edit_text(chain[-1], 0.1, random))
    kept = drop_near(spool, chain, NearMethod.EDITED)
    assert 1 < len(kept) < len(chain)
    sets = [list_sequences(text, EDITED) for text in chain]
    for number in set(range(len(chain))) - set(kept):
        similarities = [measure_similarity(sets[i], sets[number]) for i in kept if i < number]
        assert max(similarities) >= EDITED.similarity


def test_texts_without_words_are_no_duplicates_of_each_other(spool: Spool) -> None:
    assert drop_near(spool, ["--", "!!", "...", "a"], NearMethod.EDITED) == [0, 1, 2, 3]


def test_many_copies_of_one_make_as_many_pairs() -> None:
    keys = np.full((500, 2), 7, dtype=np.uint64)
    pairs = find_candidates(keys)
    assert len(pairs) == 499 + 498
    assert {int(pair & np.uint64(0xFFFFFFFF)) for pair in pairs[:3]} == {0, 1}


def test_what_is_judged_apart_is_connected_by_no_pair(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(11)
    originals = [write_text(random) for _ in range(40)]
    texts = originals + [
        edit_text(text, share, random) for share in (0.1, 0.2) for text in originals
    ]
    for i, text in enumerate(texts):
        spool.append(Document(text, f"file:{i}", 0))
    numbers = np.arange(0, len(texts) - 1)
    keys = compute_keys(texts, EDITED)
    together = drop_near_duplicates(spool, numbers, keys, EDITED)
    monkeypatch.setattr(duplicates, "BATCH_PAIRS", 2)
    parts = list(duplicates.divide_clusters(numbers, find_candidates(keys[numbers])))
    members = [number for part in parts for number in np.unique(part).tolist()]
    assert len(parts) > 20
    assert len(members) == len(set(members))
    # By two processes, too.
    monkeypatch.setattr(duplicates, "PROCESS_PAIRS", 1)
    monkeypatch.setattr(duplicates, "count_usable_cores", lambda: 2)
    kept, tally = drop_near_duplicates(spool, numbers, keys, EDITED)
    assert (kept.tolist(), tally) == (together[0].tolist(), together[1])


def test_keys_do_not_depend_on_the_batch() -> None:
    random = Random(1)
    texts = [write_text(random) for _ in range(9)] + ["", "one", "!"]
    together = compute_keys(texts, EDITED)
    alone = np.concatenate([compute_keys([text], EDITED) for text in texts])
    assert (together == alone).all()
    assert (together[[9, 11]] == 0).all()


def test_probability_of_equal_keys_is_that_of_minhash() -> None:
    """Over random pairs of one similarity, keys of r rows agree with probability s^r."""
    random = Random(5)
    agreed = expected = 0.0
    for _ in range(60):
        words = [f"w{random.random()}" for _ in range(150)]
        other = words[:110] + [f"w{random.random()}" for _ in range(40)]
        one_text, other_text = " ".join(words), " ".join(other)
        similarity = measure_similarity(
            list_sequences(one_text, EDITED), list_sequences(other_text, EDITED)
        )
        one, two = compute_keys([one_text, other_text], EDITED)
        agreed += (one == two).mean()
        expected += similarity**EDITED.rows
    assert agreed == pytest.approx(expected, rel=0.15)
