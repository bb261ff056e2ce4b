"""How fast an evaluation is beside the loops that one would write with `transformers`.

    PYTHONPATH=tests/cluster:tests/bench python tests/bench/bench_evaluation.py --output eval.json

Two small models are trained first, on first paragraphs of docstrings of installed packages: a GPT
that writes them, so that its answers end where such texts end, and a BERT that tells the package.
Each task is then done by every contestant in turn, with one model in one process, in another order
each round, and what came out is compared:

- `ours`: what the evaluation stage calls.
- `one`: `model.generate` or `model(...)` for one item at a time.
- `batch`: the same for as many items at a time as training had sequences, in the order of the file,
  padded to the longest of each batch.
- `trainer` (loss and classes): what `transformers` itself has for it, `Trainer.evaluate` and
  `Trainer.predict`, on the same documents: 8 at a time, its default, in the order of the file,
  padded by its collator.
- `documents` (loss only): one document at a time, as is often done; ours reads rows of text that is
  joined, and all are counted by their tokens.

The tasks: `answers` (what is written after prompts), `choices` (ln p of continuations), `classes`
(probabilities of documents' labels), `loss` (of held-out text).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import click
import numpy as np
import torch
import transformers
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from bench_classification import MOST_READ, PACKAGES, read_docstrings
from bench_training import compare_medians, rotate
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Dataset, open_run_dataset
from llmtrain_trainer.evaluation.asking import PROMPTS_PER_SEQUENCE
from llmtrain_trainer.evaluation.choices import encode_pair, score_continuations
from llmtrain_trainer.evaluation.generating import Writer
from llmtrain_trainer.evaluation.measure import measure
from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.model.export import download_export, load_export
from llmtrain_trainer.objective.batch import count_samples, read_batch
from llmtrain_trainer.objective.choosing import choose_objective
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import open_store
from llmtrain_trainer.train import run_train
from testbed.tiny_run import prepare_tiny_run

OURS = "ours"
ALONE = Ranks(group=RankGroup(), device=torch.device("cpu"), store=None)
BATCH_SIZE, SEQUENCE_LENGTH = 16, 128
MAX_NEW_TOKENS = 64
LINES = "docstrings.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The models, and how much they are asked."""

    layers: int
    hidden_size: int
    steps: int
    of_a_class: int
    """Texts of each package, at most."""

    items: int
    """Prompts, and pairs of prompt and continuation."""


SMALL = Shape(layers=4, hidden_size=256, steps=300, of_a_class=600, items=192)
TINY = Shape(layers=1, hidden_size=32, steps=4, of_a_class=40, items=12)
"""Only shows that the benchmark runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a contestant said, and how much it had to read or write for it."""

    said: Sequence[Any]
    """Token ids of each answer, or numbers."""

    tokens: int
    """Of the task: written, or read without padding."""


class Bench:
    """A trained model, its data, and the tasks."""

    def __init__(self, root: Path, shape: Shape, objective: str) -> None:
        """Train a model; the texts lie in `root`."""
        self.config = configure(root, shape, objective)
        with tempfile.TemporaryDirectory(prefix="llmtrain-staging-") as staging:
            group = RankGroup(staging=(staging,))
            run_train(self.config, group, Reporter(0, lambda update: None), lambda: False)
        store = open_store(self.config.run_uri, self.config.storage)
        self.dataset: Dataset = open_run_dataset(store, self.config)
        with tempfile.TemporaryDirectory() as name:
            download_export(store, Path(name))
            self.model: Any = load_export(self.config, Path(name)).eval()
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token  # collators must pad
        self.root = root
        self.end = self.dataset.end_of_text
        self.items = shape.items

    def list_pairs(self) -> list[tuple[str, str]]:
        """Return held-out texts as two parts, of which the first has a third to half the words."""
        rng = Random(0)
        pairs = []
        for number in range(min(self.items, self.dataset.validation.num_documents)):
            text = str(self.tokenizer.decode(self.dataset.validation.read_document(number)))
            words = text.split()
            place = max(1, round(rng.uniform(0.33, 0.5) * len(words)))
            pairs.append((" ".join(words[:place]), " " + " ".join(words[place:])))
        return pairs


def configure(root: Path, shape: Shape, objective: str) -> RunConfig:
    """Prepare the texts for a model of an objective."""
    architecture = "bert" if objective == "classification" else "gpt2"
    return prepare_tiny_run(
        root,
        run=architecture,
        data={
            "sources": [{"uri": f"s3://tiny-bucket/{LINES}", "fields": {"label": "label"}}],
            "tokenizer": {"kind": "bpe", "vocabularySize": 4096},
            "split": {"method": "document", "validationFraction": 0.2},
        },
        model={
            "architecture": architecture,
            "layers": shape.layers,
            "heads": max(1, shape.hidden_size // 64),
            "hiddenSize": shape.hidden_size,
        },
        training={
            "objective": objective,
            "steps": shape.steps,
            "batchSize": BATCH_SIZE,
            "sequenceLength": SEQUENCE_LENGTH,
            "precision": "fp32",
            "optimizer": {"learningRate": 1e-3},
        },
        evaluation={"everySteps": shape.steps, "maxSequences": 16},
        checkpoint={"everySteps": shape.steps},
        threads_per_process=count_usable_cores(),
    )


def write_texts(path: Path, of_a_class: int) -> None:
    """Write labelled docstrings in random order."""
    records = [
        {"text": text, "label": package}
        for package in PACKAGES
        for text in sorted(set(islice(read_docstrings(package), MOST_READ)))[:of_a_class]
    ]
    Random(0).shuffle(records)
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def split_up(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield items in their order, some at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def make_answers(bench: Bench) -> dict[str, Callable[[], Outcome]]:
    """Return who writes after prompts: the most probable tokens, up to an end."""
    prompts = [prompt for prompt, _ in bench.list_pairs()]
    writer = Writer(
        bench.model,
        bench.tokenizer,
        ALONE,
        context=SEQUENCE_LENGTH,
        end_of_text=bench.end,
        batch_size=PROMPTS_PER_SEQUENCE * BATCH_SIZE,
        is_recurrent=False,
    )

    def ours() -> Outcome:
        written, _ = writer.write(prompts, key="bench", max_new_tokens=MAX_NEW_TOKENS)
        return count_answers([list(item.tokens) for item in written])

    def plain(size: int) -> Outcome:
        answers = []
        room = SEQUENCE_LENGTH - MAX_NEW_TOKENS
        for part in split_up(prompts, size):
            ids = [bench.tokenizer.encode(prompt)[-room:] for prompt in part]
            width = max(map(len, ids))
            padded = [[bench.end] * (width - len(row)) + row for row in ids]
            mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
            rows = bench.model.generate(
                torch.tensor(padded),
                attention_mask=torch.tensor(mask),
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                pad_token_id=bench.end,
            )[:, width:].tolist()
            answers += [row[: row.index(bench.end)] if bench.end in row else row for row in rows]
        return count_answers(answers)

    return {OURS: ours, "one": lambda: plain(1), "batch": lambda: plain(BATCH_SIZE)}


def count_answers(answers: Sequence[list[int]]) -> Outcome:
    """Count the tokens of answers, ends included."""
    tokens = sum(min(len(answer) + 1, MAX_NEW_TOKENS) for answer in answers)
    return Outcome(said=answers, tokens=tokens)


def make_choices(bench: Bench) -> dict[str, Callable[[], Outcome]]:
    """Return who says how probable continuations are."""
    pairs = bench.list_pairs()
    encoded = [encode_pair(bench.tokenizer, *pair, end_of_text=bench.end) for pair in pairs]
    tokens = sum(min(len(first) + len(then), SEQUENCE_LENGTH) for first, then in encoded)

    def ours() -> Outcome:
        scores = score_continuations(
            bench.model,
            bench.tokenizer,
            ALONE,
            pairs,
            key="bench",
            context=SEQUENCE_LENGTH,
            end_of_text=bench.end,
            batch_size=BATCH_SIZE,
        )
        return Outcome(said=scores, tokens=tokens)

    def plain(size: int) -> Outcome:
        scores: list[float] = []
        for part in split_up(pairs, size):
            both = [encode_pair(bench.tokenizer, *pair, end_of_text=bench.end) for pair in part]
            rows = [(first + then)[-(SEQUENCE_LENGTH + 1) :] for first, then in both]
            width = max(map(len, rows))
            ids = torch.tensor([row + [bench.end] * (width - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
            with torch.no_grad():
                logits = bench.model(input_ids=ids, attention_mask=mask).logits
            known = logits[:, :-1].log_softmax(dim=2).gather(2, ids[:, 1:, None])[:, :, 0]
            for values, row, (_, then) in zip(known, rows, both, strict=True):
                count = min(len(then), len(row) - 1)
                scores.append(float(values[len(row) - 1 - count : len(row) - 1].sum()))
        return Outcome(said=scores, tokens=tokens)

    return {OURS: ours, "one": lambda: plain(1), "batch": lambda: plain(BATCH_SIZE)}


def make_classes(bench: Bench) -> dict[str, Callable[[], Outcome]]:
    """Return who says of which class documents are."""
    split = bench.dataset.validation
    objective = choose_objective(bench.config, bench.dataset)
    indices = np.arange(count_samples(objective, split, SEQUENCE_LENGTH), dtype=np.int64)
    start = bench.dataset.special.start
    rows = [
        [start, *split.read_document(i)[: SEQUENCE_LENGTH - 2].tolist(), bench.end]
        for i in range(len(indices))
    ]
    tokens = sum(map(len, rows))

    def ours() -> Outcome:
        measured = measure(
            bench.model,
            objective,
            split,
            indices,
            ALONE,
            sequence_length=SEQUENCE_LENGTH,
            batch_size=BATCH_SIZE,
            logits_bytes=bench.config.training.find_logits_bytes(on_gpu=False),
            num_classes=len(bench.dataset.labels),
        )
        assert measured.probabilities is not None
        return Outcome(said=measured.probabilities.tolist(), tokens=tokens)

    def plain(size: int) -> Outcome:
        said = []
        padding = bench.dataset.special.padding
        for part in split_up(rows, size):
            width = max(map(len, part))
            ids = torch.tensor([row + [padding] * (width - len(row)) for row in part])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in part])
            with torch.no_grad():
                said += bench.model(input_ids=ids, attention_mask=mask).logits.softmax(1).tolist()
        return Outcome(said=said, tokens=tokens)

    trainer, examples = (
        make_trainer(bench, DataCollatorWithPadding(bench.tokenizer)),
        list_examples(rows),
    )

    def by_trainer() -> Outcome:
        logits = torch.from_numpy(trainer.predict(examples).predictions)
        return Outcome(said=logits.softmax(1).tolist(), tokens=tokens)

    return {
        OURS: ours,
        "one": lambda: plain(1),
        "batch": lambda: plain(BATCH_SIZE),
        "trainer": by_trainer,
    }


def make_trainer(bench: Bench, collator: Any) -> Trainer:
    """Return a Trainer as it comes."""
    arguments = TrainingArguments(
        output_dir=str(bench.root), use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = Trainer(model=bench.model, args=arguments, data_collator=collator)
    trainer.remove_callback(PrinterCallback)
    return trainer


def list_examples(rows: Sequence[Sequence[int]]) -> Any:
    """Return documents as a Trainer takes them."""
    return [{"input_ids": list(row)} for row in rows]


def make_loss(bench: Bench) -> dict[str, Callable[[], Outcome]]:
    """Return who measures the loss of held-out text."""
    split = bench.dataset.validation
    objective = choose_objective(bench.config, bench.dataset)
    indices = np.arange(count_samples(objective, split, SEQUENCE_LENGTH), dtype=np.int64)
    tokens = len(indices) * SEQUENCE_LENGTH
    documents = [
        [*split.read_document(i)[: SEQUENCE_LENGTH - 1].tolist(), bench.end]
        for i in range(split.num_documents)
    ]

    def ours() -> Outcome:
        measured = measure(
            bench.model,
            objective,
            split,
            indices,
            ALONE,
            sequence_length=SEQUENCE_LENGTH,
            batch_size=BATCH_SIZE,
            logits_bytes=bench.config.training.find_logits_bytes(on_gpu=False),
        )
        return Outcome(said=[measured.loss], tokens=tokens)

    def plain(size: int) -> Outcome:
        total = 0.0
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            batch = read_batch(
                objective, split, part, part, sequence_length=SEQUENCE_LENGTH, is_training=False
            )
            with torch.no_grad():
                loss = bench.model(
                    input_ids=batch.inputs["input_ids"],
                    labels=batch.targets.contiguous(),
                    shift_labels=batch.targets.contiguous(),
                ).loss
            total += float(loss) * len(part)
        return Outcome(said=[total / len(indices)], tokens=tokens)

    def by_documents() -> Outcome:
        total, count = 0.0, 0
        for row in documents:
            ids = torch.tensor([row])
            with torch.no_grad():
                total += float(bench.model(input_ids=ids, labels=ids).loss) * (len(row) - 1)
            count += len(row) - 1
        return Outcome(said=[], tokens=count)

    collator = DataCollatorForLanguageModeling(bench.tokenizer, mlm=False)
    trainer, examples = make_trainer(bench, collator), list_examples(documents)

    def by_trainer() -> Outcome:
        trainer.evaluate(examples)
        return Outcome(said=[], tokens=sum(len(row) - 1 for row in documents))

    return {
        OURS: ours,
        "one": lambda: plain(1),
        "batch": lambda: plain(BATCH_SIZE),
        "documents": by_documents,
        "trainer": by_trainer,
    }


TASKS: dict[str, tuple[str, Callable[[Bench], dict[str, Callable[[], Outcome]]]]] = {
    "answers": ("causal", make_answers),
    "choices": ("causal", make_choices),
    "loss": ("causal", make_loss),
    "classes": ("classification", make_classes),
}


def compare(contestants: dict[str, Callable[[], Outcome]], rounds: int) -> dict[str, Any]:
    """Let every contestant do a task in turn; return tokens per second, and how alike they are.

    With one thread processor time is what the work takes, whatever else the machine does.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    wall_rates: dict[str, list[float]] = {name: [] for name in contestants}
    outcomes = {}
    for name, run in contestants.items():
        outcomes[name] = run()  # warms up, and says what comes out
    for number in range(rounds):
        for name in rotate(tuple(contestants), number):
            began, worked = time.perf_counter(), time.process_time()
            outcome = contestants[name]()
            rates[name].append(outcome.tokens / (time.process_time() - worked))
            wall_rates[name].append(outcome.tokens / (time.perf_counter() - began))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {f"ours / {name}": 1 / ratio for name, ratio in compare_medians(rates, OURS).items()}
    return {
        "tokensPerProcessorSecond": medians,
        "ratios": {name: ratio for name, ratio in ratios.items() if name != "ours / ours"},
        "agreement": {
            name: describe_agreement(outcomes[OURS].said, outcome.said)
            for name, outcome in outcomes.items()
            if name != OURS and outcome.said
        },
        "items": len(outcomes[OURS].said),
        "tokens": {name: outcome.tokens for name, outcome in outcomes.items()},
        "wallRatios": {
            f"ours / {name}": 1 / ratio
            for name, ratio in compare_medians(wall_rates, OURS).items()
            if name != OURS
        },
        "raw": {"byProcessorTime": rates, "byWallTime": wall_rates},
        "load": os.getloadavg(),
    }


def describe_agreement(ours: Sequence[Any], others: Sequence[Any]) -> dict[str, float]:
    """Say how alike two outcomes are: by equal answers, or by the greatest difference."""
    if isinstance(ours[0], list) and isinstance(ours[0][0], int):
        equal = sum(a == b for a, b in zip(ours, others, strict=True))
        return {"equal": equal, "of": len(ours)}
    return {"greatestDifference": float(np.abs(np.array(ours) - np.array(others)).max())}


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--tasks", default=",".join(TASKS), show_default=True)
@click.option("--threads", default=1, show_default=True, help="For the contestants.")
@click.option("--tiny", is_flag=True, help="Only show that it runs.")
def main(output: Path, rounds: int, tasks: str, threads: int, tiny: bool) -> None:
    """Let all take turns, and write raw figures and ratios to OUTPUT as JSON."""
    shape = TINY if tiny else SMALL
    transformers.utils.logging.disable_progress_bar()
    results: dict[str, Any] = {
        "machine": {
            "processor": str(torch.cpu.get_capabilities().get("cpu_name", platform.processor())),
            "threads": threads,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "model": {"layers": shape.layers, "hiddenSize": shape.hidden_size, "steps": shape.steps},
        "batchSize": BATCH_SIZE,
        "sequenceLength": SEQUENCE_LENGTH,
        "maxNewTokens": MAX_NEW_TOKENS,
    }
    benches: dict[str, Bench] = {}
    with tempfile.TemporaryDirectory(prefix="llmtrain-evaluation-") as name:
        root = Path(name)
        write_texts(root / "tiny-bucket" / LINES, shape.of_a_class)
        for task in tasks.split(","):
            objective, make = TASKS[task]
            if objective not in benches:
                benches[objective] = Bench(root, shape, objective)
            torch.set_num_threads(threads)
            results[task] = compare(make(benches[objective]), rounds)
            kept = ("ratios", "wallRatios", "agreement")
            click.echo(f"{task}: " + json.dumps({key: results[task][key] for key in kept}))
            # As it goes on, so that a run that is ended has said something.
            output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
