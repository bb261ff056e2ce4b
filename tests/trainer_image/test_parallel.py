"""Threads of a rank; meeting and spreading are tested by real ranks in `test_train`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.parallel import count_threads, join_ranks
from llmtrain_trainer.rank_group import RankGroup

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", CORES),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("99900000 100000", CORES),
        ("", CORES),
    ],
)
def test_cores_within_the_quota(tmp_path: Path, quota: str, expected: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    assert count_usable_cores(file) == expected


def test_cores_without_a_quota(tmp_path: Path) -> None:
    assert count_usable_cores(tmp_path / "absent") == CORES


def test_threads() -> None:
    assert count_threads(3, ranks_on_host=64) == 3
    assert count_threads(None, ranks_on_host=10_000) == 1


def test_one_rank_speaks_for_itself() -> None:
    with join_ranks(RankGroup(), threads=1) as ranks:
        assert ranks.is_first
        assert ranks.share("key", {"value": 1}, source=0) == {"value": 1}
        assert ranks.all_agree(True)
        assert not ranks.all_agree(False)
        assert ranks.sum(torch.tensor([2.0])).item() == 2.0
        assert ranks.begin_sum(torch.tensor([2.0])) is None
