"""Every example that trains a model, really run: data, training, evaluation, export.

What each says is kept but for its sizes; those that begin from a model begin from what another
example has exported.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from llmtrain_api import LLMTrainingJob
from llmtrain_api.records import StageResult
from llmtrain_api.run import Rendezvous, StorageConfig
from llmtrain_operator.plan.run_config import build_run_config
from llmtrain_trainer.evaluate import run_evaluate
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from testbed.example_jobs import (
    PARENTS,
    STEPS,
    shrink_example,
    write_example_files,
)
from testbed.main_job import CORPUS_BUCKET
from testbed.ranks import run_ranks

QUIET = Reporter(0, lambda update: None)


class Examples:
    """The examples in one store, which is a folder; each is run once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.run = cache(self._run)
        for key, content in write_example_files().items():
            path = root / CORPUS_BUCKET / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def _run(self, name: str) -> StageResult:
        """Run an example, after the one that it takes up, and return what came of it."""
        parent = PARENTS[name]
        manifest = shrink_example(name, None if parent is None else self.run(parent).export_uri)
        job = LLMTrainingJob.model_validate(manifest)
        storage = StorageConfig(uri=job.spec.storage.uri, local_root=str(self._root))
        config = build_run_config(
            job, storage=storage, rendezvous=Rendezvous(leader_host="127.0.0.1")
        )
        results = [
            run_prepare(config, QUIET),
            run_ranks(config).result,
            run_evaluate(config, RankGroup(), QUIET),
        ]
        merged = StageResult()
        for result in results:
            assert result is not None
            merged = merged.model_copy(update=result.model_dump(exclude_none=True))
        return merged


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return Examples(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("name", PARENTS)
def test_it_trains_a_model_that_is_evaluated_and_exported(examples: Examples, name: str) -> None:
    result = examples.run(name)
    assert result.step is not None
    assert result.step >= STEPS or name == "lora"  # by epochs
    assert result.perplexity is not None
    assert result.export_uri is not None
    assert result.report_uri is not None
