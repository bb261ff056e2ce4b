"""What preparation costs, and how well duplicates and personal data are found.

    PYTHONPATH=tests/cluster python tests/bench/bench_data.py --output data.json --megabytes 100

The text is real: docstrings and documentation of the installed packages. Each step is timed over a
part of it by processor time, beside a reference that does the same in the obvious way, in the same
run on a smaller part: `ftfy` on every text, MinHash word by word in Python, every pattern on every
text.

`recipes` are whole ways from JSON lines in a store to what is left, reading and writing included,
each in a process of its own for its peak memory: `near` looks for near-duplicates and does nothing
else, `documents` cleans and looks for personal data too, `dataset` is the whole stage, with a
tokenizer learned of ten megabytes and everything encoded. On one core they have one process. Sizes
are given in megabytes; text that no package has is made of real text with a letter added to its
words.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import Any

import click
import ftfy
import numpy as np

from llmtrain_api.data import DataSpec, TokenizerKind
from llmtrain_api.recipe import Clean, NearMethod, PersonalData, QualityRules
from llmtrain_api.run import RunConfig
from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.preparation.corpus import open_corpus
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.duplicates import drop_exact_duplicates, drop_near_duplicates
from llmtrain_trainer.preparation.erasure import NO_ERASURES
from llmtrain_trainer.preparation.minhash import SCHEMES, compute_keys
from llmtrain_trainer.preparation.normalize import normalize_text
from llmtrain_trainer.preparation.personal_data import FORMS
from llmtrain_trainer.preparation.portions import divide_files
from llmtrain_trainer.preparation.privacy import replace_personal_data
from llmtrain_trainer.preparation.quality import judge_text
from llmtrain_trainer.preparation.reading import make_refiner, read_part
from llmtrain_trainer.preparation.relabelling import NO_RELABELS
from llmtrain_trainer.preparation.selection import identify_language
from llmtrain_trainer.preparation.sources import find_inputs
from llmtrain_trainer.preparation.spool import Spool
from llmtrain_trainer.preparation.workers import open_workers
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.tokenizer.learning import cut_at_lines, train_bpe_tokenizer
from llmtrain_trainer.tokenizer.tokenization import choose_encoding, encode_with
from testbed.personal_texts import make_texts
from testbed.tiny_run import configure_tiny_run

DOCSTRING = re.compile(r'"""(.{200,20000}?)"""', re.DOTALL)
TEXT_SUFFIXES = {".md", ".rst", ".txt"}
WORD_END = re.compile(r"(?<=[a-z]{3})\b")
BATCH_DOCUMENTS = 1000
STEP_CHARACTERS = 20_000_000
UNIT_BYTES = 8 * 1024 * 1024
REFERENCE_CHARACTERS = 2_000_000
EDITED_DOCUMENTS = 2000
PERSONAL_TEXTS = 1000

NOTHING_CLEANED = {"repairEncoding": False, "unicode": "keep", "removeControlCharacters": False}
NEAR = {"near": "edited"}
RECIPES: dict[str, dict[str, Any]] = {
    "near": {"clean": NOTHING_CLEANED, "privacy": {"action": "off"}, "deduplicate": NEAR},
    "documents": {"privacy": {"action": "replace"}, "deduplicate": NEAR},
    "dataset": {
        "privacy": {"action": "replace"},
        "deduplicate": NEAR,
        "tokenizer": {"kind": "bpe", "sampleCharacters": 10_000_000},
    },
}


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--megabytes", default=100, show_default=True, help="Of text, for most figures.")
@click.option("--sizes", default="10", show_default=True, help="Further ones, as 10,1000.")
@click.option("--datatrove", default="", help="A Python that has it, for the same steps by it.")
@click.option("--only", type=click.Choice(list(RECIPES)), help="One recipe alone, on one core.")
def main(output: Path, megabytes: int, sizes: str, datatrove: str, only: str | None) -> None:
    """Measure, and write figures to OUTPUT as JSON."""
    texts = list(gather_texts(megabytes * 1_000_000))
    size = sum(len(text.encode()) for text in texts) / 1e6
    click.echo(f"{len(texts)} documents, {size:.1f} MB")
    results: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "loadBefore": os.getloadavg(),
        "text": {"documents": len(texts), "megabytes": size},
    }
    all_sizes = [megabytes, *map(int, sizes.split(","))] if sizes else [megabytes]
    recipes = [only] if only else list(RECIPES)
    cores = [1] if only else sorted({1, count_usable_cores()})
    measures: dict[str, Callable[[], object]] = {
        "recipes": lambda: measure_recipes(texts, all_sizes, datatrove, recipes, cores),
        "megabytesPerSecond": lambda: measure_steps(take_part(texts, STEP_CHARACTERS)),
        "nearDuplicates": lambda: measure_near_duplicates(texts),
        "personalData": measure_personal_data,
    }
    if only:
        measures = {"recipes": measures["recipes"]}
    for name, measure in measures.items():
        results[name] = measure()
        results["loadAfter"] = os.getloadavg()
        # As it goes on, so that a run that is ended has said something.
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(results, indent=1))


def gather_texts(size: int) -> Iterator[str]:
    """Yield different texts of installed packages until they hold `size` characters."""
    seen: set[bytes] = set()
    for folder in ("purelib", "stdlib"):
        for path in sorted(Path(sysconfig.get_path(folder)).rglob("*")):
            found: list[str] = []
            with suppress(OSError, UnicodeDecodeError):
                if path.suffix == ".py":
                    found = DOCSTRING.findall(path.read_text(encoding="utf-8"))
                elif path.suffix in TEXT_SUFFIXES:
                    found = [path.read_text(encoding="utf-8")]
            for text in found:
                digest = hashlib.sha256(text.encode()).digest()
                if digest not in seen and len(text) >= 200:
                    seen.add(digest)
                    size -= len(text)
                    yield text
            if size <= 0:
                return


def measure_steps(texts: list[str]) -> dict[str, dict[str, float]]:
    """Return the speed of each step and of its reference, in MB/s of one core."""
    part = take_part(texts, REFERENCE_CHARACTERS)
    clean, kinds = Clean(), list(PersonalData)
    edited = SCHEMES[NearMethod.EDITED]
    tokenizer = train_bpe_tokenizer(take_part(texts, 8_000_000), 8192)
    encode = choose_encoding(TokenizerKind.BPE, tokenizer)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def normalize(text: str) -> object:
        return normalize_text(clean, text, ignore)

    steps: dict[str, tuple[Callable[[list[str]], object], Callable[[list[str]], object] | None]] = {
        "normalize": (each(normalize), each(ftfy.fix_text)),
        "language": (each(identify_language), None),
        **{
            rules.value: (each(partial(judge_text, rules, count=ignore)), None)
            for rules in QualityRules
        },
        "privacy": (
            each(lambda text: replace_personal_data(text, kinds, Counter())),
            each(search_every_form),
        ),
        "near keys": (
            lambda some: [compute_keys(batch, edited) for batch in divide(some)],
            each(lambda text: compute_key_by_words(text, edited.bands * edited.rows)),
        ),
        "encode": (
            lambda some: [list(encode(batch)) for batch in divide(some)],
            lambda some: [list(encode_with(tokenizer, cut_at_lines, b)) for b in divide(some)],
        ),
    }
    speeds = {}
    for name, (run, reference) in steps.items():
        speeds[name] = {"ours": measure_speed(run, texts)}
        if reference is not None:
            speeds[name]["reference"] = measure_speed(reference, part)
        click.echo(f"{name}: {speeds[name]}")
    return speeds


def each(function: Callable[[str], object]) -> Callable[[list[str]], object]:
    """Return what applies a function to each of many texts."""
    return lambda texts: [function(text) and None for text in texts]


def measure_speed(run: Callable[[list[str]], object], texts: list[str]) -> float:
    """Return how many MB a second of processor time takes."""
    run(texts[:10])
    started = time.process_time()
    run(texts)
    return sum(len(text.encode()) for text in texts) / 1e6 / (time.process_time() - started)


def measure_recipes(
    texts: list[str], sizes: list[int], datatrove: str, recipes: list[str], cores: list[int]
) -> dict[str, dict[str, Any]]:
    """Return what each recipe costs for each size, on one core; the first size on `cores`.

    With a Python that has datatrove, the last size by it, too.
    """
    found: dict[str, dict[str, Any]] = {}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        for size in sizes:
            root = Path(name) / str(size)
            written = write_texts(texts, size, root / "tiny-bucket" / "texts.jsonl")
            for recipe in recipes:
                for num_cores in cores if size == sizes[0] else [1]:
                    # In a process of its own, whose peak memory is that of the recipe.
                    with ProcessPoolExecutor(1, context) as pool:
                        run = pool.submit(run_recipe, root, recipe, num_cores).result()
                    key = f"{recipe}, {size} MB, {num_cores} cores"
                    run["megabytesPerProcessorSecond"] = written / run["processorSeconds"]
                    run["megabytesPerSecond"] = written / run["wallSeconds"]
                    found[key] = run
                    click.echo(f"{key}: {json.dumps(run)}")
        if datatrove:
            found[f"datatrove, {sizes[-1]} MB"] = run = run_datatrove(datatrove, root)
            run["megabytesPerProcessorSecond"] = written / sum(run["processorSeconds"].values())
            click.echo(json.dumps(run))
    return found


def run_datatrove(python: str, root: Path) -> dict[str, Any]:
    """Return what datatrove needs for the steps of `dataset`, by the tokenizer of that run."""
    (tokenizer,) = root.glob("tiny-bucket/dataset-1/datasets/*/tokenizer/tokenizer.json")
    script = Path(__file__).parent / "datatrove_contestant.py"
    source = root / "tiny-bucket" / "texts.jsonl"
    answer = subprocess.run(
        [python, script, source, tokenizer],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": ""},
    )
    run: dict[str, Any] = json.loads(answer.stdout)
    return run


def write_texts(texts: list[str], megabytes: int, path: Path) -> float:
    """Write texts of about a size as JSON lines; return how many megabytes of text they are."""
    path.parent.mkdir(parents=True)
    total = 0
    with path.open("w", encoding="utf-8") as file:
        for number in count():
            for text in texts:
                if total >= megabytes * 1_000_000:
                    return total / 1e6
                changed = text if number == 0 else WORD_END.sub(ascii_lowercase[number], text)
                total += len(changed.encode())
                file.write(json.dumps({"text": changed}) + "\n")
    raise AssertionError


def run_recipe(root: Path, recipe: str, num_cores: int) -> dict[str, Any]:
    """Prepare the documents in `root`; return seconds, peak memory and what each step did."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    if num_cores == 1:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    data = {"sources": [{"uri": "s3://tiny-bucket/texts.jsonl"}], **RECIPES[recipe]}
    name = f"{recipe}-{num_cores}"
    config = configure_tiny_run(root, run=name, storage={"uri": f"s3://tiny-bucket/{name}"})
    config = config.model_copy(update={"data": DataSpec.model_validate(data)})
    before = read_peak_megabytes()
    wall, processor = time.perf_counter(), time.process_time()
    if recipe == "dataset":
        result = run_prepare(config, Reporter(0, lambda update: None))
        left: dict[str, Any] = {"tokens": result.train_tokens}
    else:
        left = read_documents(config, root / f"scratch-{name}", num_cores)
    return {
        "wallSeconds": time.perf_counter() - wall,
        # On several cores, of the process that reads and decides; its workers are others.
        "processorSeconds": time.process_time() - processor,
        "peakMegabytes": read_peak_megabytes(),
        "peakMegabytesBefore": before,
        **left,
    }


def read_peak_megabytes() -> float:
    """Return the most memory that this process has had; rusage would begin with its parent's."""
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    return int(line.split()[1]) / 1024


def read_documents(config: RunConfig, scratch: Path, num_processes: int) -> dict[str, Any]:
    """Do both passes up to the documents that are left, which are read once more."""
    scratch.mkdir()
    inputs = find_inputs(config.data, config.storage)
    # In units, as a task does.
    units = divide_files(inputs.documents, UNIT_BYTES)
    rejected = scratch / "rejected"
    with ExitStack() as stack:
        refine = stack.enter_context(open_workers(make_refiner(config.data), num_processes))
        parts = (
            read_part(
                unit,
                config.data,
                NO_ERASURES,
                NO_RELABELS,
                scratch / str(number),
                lambda: None,
                refine,
            )
            for number, unit in enumerate(units)
        )
        corpus = stack.enter_context(
            open_corpus(config.data, inputs, scratch, rejected, lambda: None, parts)
        )
        left = sum(len(document.text) for document in corpus.read())
        steps = corpus.record_steps()
    return {
        "charactersLeft": left,
        "documentsOut": {step.step: step.documents_out for step in steps},
    }


def measure_near_duplicates(texts: list[str]) -> dict[str, dict[str, float]]:
    """Return recall and precision for copies with edited words, by method and share."""
    random = Random(0)
    chosen = random.sample(texts, min(2 * EDITED_DOCUMENTS, len(texts)))
    vocabulary = " ".join(chosen[EDITED_DOCUMENTS:]).split()
    originals = drop(chosen[:EDITED_DOCUMENTS], NearMethod.EDITED)
    results = {}
    for method in (NearMethod.EDITED, NearMethod.FINEWEB):
        for low, high in ((0.01, 0.03), (0.05, 0.10)):
            copies = [
                edit_text(t, random.uniform(low, high), vocabulary, random) for t in originals
            ]
            kept = set(drop_numbers([*originals, *copies], method))
            count = len(originals)
            found = sum(number not in kept for number in range(count, 2 * count))
            wrong = sum(number not in kept for number in range(count))
            results[f"{method.value} {low:.0%} to {high:.0%}"] = {
                "recall": found / count,
                "precision": found / max(found + wrong, 1),
            }
    click.echo(json.dumps(results, indent=1))
    return results


def edit_text(text: str, share: float, vocabulary: list[str], random: Random) -> str:
    """Change a share of the words: replace, remove or insert one."""
    words = text.split()
    for place in random.sample(
        range(len(words)), min(len(words), max(1, round(share * len(words))))
    ):
        other = random.choice(vocabulary)
        words[place] = random.choice([other, other, "", f"{words[place]} {other}"])
    return " ".join(word for word in words if word)


def drop(texts: list[str], method: NearMethod) -> list[str]:
    """Return texts without exact and near duplicates."""
    return [texts[number] for number in drop_numbers(texts, method)]


def drop_numbers(texts: list[str], method: NearMethod) -> list[int]:
    """Return the places of the texts that stay."""
    with tempfile.TemporaryDirectory() as name:
        spool = Spool(Path(name) / "spool")
        for number, text in enumerate(texts):
            spool.append(Document(text, str(number), 0))
        scheme = SCHEMES[method]
        keys = np.concatenate([compute_keys(batch, scheme) for batch in divide(texts)])
        numbers, _ = drop_exact_duplicates(spool)
        kept, _ = drop_near_duplicates(spool, numbers, keys, scheme)
        spool.close()
    return [int(number) for number in kept]


def measure_personal_data() -> dict[str, dict[str, float]]:
    """Return recall and precision for each kind on generated texts."""
    expected, right, found = Counter[str](), Counter[str](), Counter[str]()
    for sample in make_texts(Random(0), PERSONAL_TEXTS):
        here: Counter[PersonalData] = Counter()
        replace_personal_data(sample.text, list(PersonalData), here)
        for kind, times in here.items():
            found[kind.value] += times
            if kind.value == sample.kind:
                right[kind.value] += min(times, len(sample.values))
        expected[sample.kind] += len(sample.values)
    return {
        kind.value: {
            "recall": right[kind.value] / expected[kind.value],
            "precision": right[kind.value] / max(found[kind.value], 1),
        }
        for kind in PersonalData
    }


def search_every_form(text: str) -> int:
    """Search a text for every form, as one would without hints."""
    return sum(1 for form in FORMS for match in form.pattern.finditer(text) if form.is_valid(match))


def compute_key_by_words(text: str, functions: int) -> list[int]:
    """Compute MinHash as in books: a call for each sequence, a pass for each function."""
    words = re.findall(r"\w+", text.lower())
    sequences = {
        int.from_bytes(hashlib.blake2b(" ".join(words[i : i + 3]).encode(), digest_size=4).digest())
        for i in range(max(len(words) - 2, 1))
    }
    numbers = np.fromiter(sequences, np.uint64, len(sequences))
    factors = np.arange(1, 2 * functions, 2, dtype=np.uint64) * np.uint64(2654435761)
    prime = np.uint64((1 << 61) - 1)
    return [int(((numbers * factor) % prime).min()) for factor in factors]


def take_part(texts: list[str], characters: int) -> list[str]:
    """Return every so many-th text, so that they hold about so much."""
    step = max(1, sum(map(len, texts)) // characters)
    return texts[::step]


def divide(texts: list[str]) -> Iterator[list[str]]:
    """Divide texts into batches."""
    for start in range(0, len(texts), BATCH_DOCUMENTS):
        yield texts[start : start + BATCH_DOCUMENTS]


def ignore(rule: str, measure: str = "", *, times: int = 1) -> None:
    """Count nothing."""


if __name__ == "__main__":
    main()
