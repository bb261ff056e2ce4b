"""A model that learns to answer in turns, from conversations to its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import open_run_dataset
from llmtrain_trainer.evaluate import run_evaluate
from llmtrain_trainer.failures import PreemptedError
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import open_store
from testbed.ranks import Fate, RunningRanks, run_ranks
from testbed.tiny_run import find_run_folder, prepare_tiny_run

ANSWERS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red"}
LENGTH = 48
LOSS_TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with conversations of one and of two questions."""
    root = tmp_path_factory.mktemp("chats")
    source = root / "tiny-bucket" / "chats.jsonl"
    source.parent.mkdir(parents=True)
    pairs = list(ANSWERS.items())
    chats = []
    for number in range(120):
        asked = [pairs[number % 4], pairs[(number // 4 + 1) % 4]][: 1 + number % 2]
        chats.append(
            [
                turn
                for thing, colour in asked
                for turn in (
                    {"role": "user", "content": f"{thing}?"},
                    {"role": "assistant", "content": colour},
                )
            ]
        )
    lines = [json.dumps({"messages": chat}) + "\n" for chat in chats]
    source.write_text("".join(lines), encoding="utf-8")
    return root


def prepare_chat(root: Path, run: str, *, steps: int, **sections: Any) -> RunConfig:
    training = {"steps": steps, "sequenceLength": LENGTH, **sections.pop("training", {})}
    return prepare_tiny_run(
        root,
        run=run,
        data={
            "sources": [
                {"uri": "s3://tiny-bucket/chats.jsonl", "fields": {"messages": "messages"}}
            ],
            "deduplicate": {"exact": False},
            "tokenizer": {"kind": "bpe", "vocabularySize": 400},
            "pack": {"sequenceLength": LENGTH},
            "split": {"method": "document", "validationFraction": 0.2},
        },
        model={"architecture": "llama"},
        training=training,
        evaluation={"everySteps": 20, "samples": {"prompts": ["snow?"], "temperature": 0.0}},
        **sections,
    )


def test_a_model_learns_its_template(root: Path) -> None:
    config = prepare_chat(root, "learns", steps=80)
    run_ranks(config)

    result = run_evaluate(config, RankGroup(), Reporter(0, lambda update: None))
    folder = find_run_folder(config)
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    assert result.accuracy is not None
    assert result.accuracy > 0.8
    assert result.bits_per_byte is None
    assert [sample["continuation"] for sample in report["samples"]] == ["white"]

    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "export")
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "export")
    chat = [
        {"role": "user", "content": "coal?"},
        {"role": "assistant", "content": "black"},
        {"role": "user", "content": "grass?"},
    ]
    read: Any = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    written = model.generate(**read, do_sample=False, max_new_tokens=20)[0]
    answer = tokenizer.decode(written[read["input_ids"].shape[1] :])
    assert answer == "green<|im_end|>"


def test_turns_keep_their_loss_over_ranks_passes_and_resumption(root: Path) -> None:
    alone = prepare_chat(root, "alone", steps=8)
    losses = run_ranks(alone).list_facts("loss")
    dataset = open_run_dataset(open_store(alone.run_uri, alone.storage), alone)
    assert dataset.train.has_roles

    halved = {"training": {"microBatchSize": 2}, "strategy": "fsdp", "processes_per_worker": 2}
    ranks = RunningRanks(
        prepare_chat(root, "disturbed", steps=8, **halved), fate=Fate(leaves_in_step=3)
    )
    with pytest.raises(PreemptedError):
        ranks.finish()
    again = prepare_chat(root, "disturbed", steps=8)
    told = ranks.logs[0].list_facts("loss")
    told += run_ranks(again, round_number=2).list_facts("loss")
    assert told == pytest.approx(losses, rel=LOSS_TOLERANCE, abs=0)
