"""Texts and their answers, against a plain reference, and whatever happens to the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5Config

from llmtrain_api.objective import Objective
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Provenance
from llmtrain_trainer.evaluate import run_evaluate
from llmtrain_trainer.failures import PreemptedError
from llmtrain_trainer.model.network import compute_token_losses, create_model
from llmtrain_trainer.objective.answers import AnswerOfText
from llmtrain_trainer.objective.batch import NOT_A_TARGET
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.tokenizer.marks import Role
from testbed.ranks import Fate, RunningRanks, run_ranks
from testbed.tiny_run import find_run_folder, prepare_tiny_run

PADDING, END, TURN_END, NAME = 0, 1, 2, 3
PAIRS: tuple[tuple[list[int], list[int]], ...] = (([5, 6, 7], [8, 9]), ([10], [11, 12, 13, 14, 15]))
LENGTH = 5
LOSS_TOLERANCE = 1e-6


def write_pair(read: list[int], written: list[int]) -> tuple[list[int], list[Role]]:
    """Write a pair as it is stored, with its end of text."""
    tokens = [NAME, *read, TURN_END, NAME, *written, TURN_END, END]
    user, assistant = [Role.USER] * (len(read) + 1), [Role.ASSISTANT] * (len(written) + 1)
    return tokens, [Role.TEMPLATE, *user, Role.TEMPLATE, *assistant, Role.TEMPLATE]


def test_the_loss_is_that_of_each_answer() -> None:
    stored = [write_pair(*pair) for pair in PAIRS]
    width = max(len(tokens) for tokens, _ in stored)
    sequences = np.array([tokens + [END] * (width - len(tokens)) for tokens, _ in stored])
    roles = np.array(
        [list(row) + [Role.PADDING] * (width - len(row)) for _, row in stored], dtype=np.uint8
    )
    objective = AnswerOfText(sequence_length=LENGTH, end_of_text=END, padding=PADDING)
    batch = objective.make_batch(
        sequences,
        np.arange(2),
        is_training=True,
        provenance=Provenance(roles=roles, documents=np.zeros_like(sequences)),
    )
    none = NOT_A_TARGET
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7, END], [10, END, 0, 0]]
    # The second answer is cut to four tokens and the end.
    assert batch.targets.tolist() == [[8, 9, END, none, none], [11, 12, 13, 14, END]]

    kind: Any = T5Config
    configuration = kind(
        vocab_size=20,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        pad_token_id=PADDING,
        eos_token_id=END,
        decoder_start_token_id=PADDING,
    )
    model: Any = create_model(configuration, Objective.SEQUENCE_TO_SEQUENCE, seed=0).eval()
    losses = compute_token_losses(model, batch)
    for number, (read, written) in enumerate(PAIRS):
        answer = torch.tensor([[*written[: LENGTH - 1], END]])
        expected = model(input_ids=torch.tensor([[*read, END]]), labels=answer).loss
        found = losses[number].sum() / answer.numel()
        torch.testing.assert_close(found, expected)


def prepare_pairs(root: Path, run: str, **sections: Any) -> RunConfig:
    training = {"objective": "sequence-to-sequence", "steps": 8, "batchSize": 8}
    return prepare_tiny_run(
        root,
        run=run,
        data={
            "sources": [
                {
                    "uri": "s3://tiny-bucket/pairs.jsonl",
                    "fields": {"source": "said", "target": "meant"},
                }
            ],
            "split": {"method": "document", "validationFraction": 0.2},
        },
        model={"architecture": "t5"},
        training={**training, **sections.pop("training", {})},
        evaluation={"everySteps": 20, "samples": {"prompts": ["number 3"], "maxNewTokens": 4}},
        **sections,
    )


def test_answers_keep_their_loss_over_ranks_passes_and_resumption(tmp_path: Path) -> None:
    source = tmp_path / "tiny-bucket" / "pairs.jsonl"
    source.parent.mkdir()
    pairs = [{"said": f"number {i}", "meant": "x" * (i % 7 + 1)} for i in range(90)]
    source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")

    alone = prepare_pairs(tmp_path, "alone")
    losses = run_ranks(alone).list_facts("loss")
    assert losses[-1] < losses[0] - 1.0
    result = run_evaluate(alone, RankGroup(), Reporter(0, lambda update: None))
    report = json.loads((find_run_folder(alone) / "evaluation" / "report.json").read_text())
    assert result.bits_per_byte is None
    assert [sample["prompt"].startswith("number 3") for sample in report["samples"]] == [True]

    disturbed = prepare_pairs(
        *(tmp_path, "disturbed"),
        training={"microBatchSize": 2},
        strategy="fsdp",
        processes_per_worker=2,
    )
    ranks = RunningRanks(disturbed, fate=Fate(leaves_in_step=3))
    with pytest.raises(PreemptedError):
        ranks.finish()
    told = ranks.logs[0].list_facts("loss")
    told += run_ranks(prepare_pairs(tmp_path, "disturbed"), round_number=2).list_facts("loss")
    assert told == pytest.approx(losses, rel=LOSS_TOLERANCE, abs=0)
