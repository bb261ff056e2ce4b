"""Fuzz the readers of sources by coverage, with atheris: `make fuzz`.

    python tests/fuzz/fuzz_readers.py --seconds 60 --output fuzz.json

The first byte of an input chooses one of the files of `testbed.source_files`, by whose name the
rest is read. Every input must be read or refused by a named error, within 20 s and 2 GiB. libFuzzer
ends the run at the first that is not, and leaves it in the working directory as crash-*, timeout-*
or oom-*; call this with `--input FILE` to see what it does.

libFuzzer's process never returns to Python, so that it is a child of this one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

SLOWEST_SECONDS = 20
LARGEST_MEBIBYTES = 2048
LONGEST_INPUT = 4096
"""Bytes: the files that it begins with are shorter."""

CHILD = "--child"


@click.command()
@click.option("--seconds", default=60, show_default=True, help="How long, without the start.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="For figures.")
@click.option(
    "--input", "replayed", type=click.Path(exists=True), help="One file, and nothing more."
)
def main(seconds: int, output: Path | None, replayed: str | None) -> None:
    """Fuzz for a while; the exit code is that of libFuzzer, 0 where nothing was found."""
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        flags = [f"-timeout={SLOWEST_SECONDS}", f"-rss_limit_mb={LARGEST_MEBIBYTES}"]
        flags.append("-print_final_stats=1")
        if replayed is None:
            write_corpus(corpus)
            flags += [f"-max_total_time={seconds}", f"-max_len={LONGEST_INPUT}", str(corpus)]
        else:
            flags.append(replayed)
        started = time.monotonic()
        child = subprocess.run(
            [sys.executable, __file__, CHILD, *flags],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        click.echo(child.stderr, err=True)
        figures = {
            **read_figures(child.stderr),
            "wallSeconds": time.monotonic() - started,
            "exitCode": child.returncode,
        }
    click.echo(json.dumps(figures))
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.exit(child.returncode)


def write_corpus(folder: Path) -> None:
    """Write the files that fuzzing begins with."""
    from testbed.source_files import FILES

    for number, content in enumerate(FILES.values()):
        (folder / str(number)).write_bytes(bytes([number]) + content)


def read_figures(log: str) -> dict[str, int]:
    """Return what libFuzzer says of a run: inputs that were tried, kept, and what they reached."""
    executions = re.search(r"stat::number_of_executed_units:\s+(\d+)", log)
    reached = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)/", log)
    edges, features, kept = map(int, reached[-1]) if reached else (0, 0, 0)
    return {
        "executions": int(executions[1]) if executions else 0,
        "edges": edges,
        "features": features,
        "inputsKept": kept,
    }


def fuzz(arguments: list[str]) -> None:
    """Hand this process over to libFuzzer; it does not return."""
    import atheris

    with atheris.instrument_imports(include=["llmtrain_trainer.preparation", "csv", "json"]):
        from testbed.source_files import FILES, read_or_refuse

    names = list(FILES)
    folder = Path(tempfile.mkdtemp(prefix="llmtrain-fuzz-"))

    def read_input(data: bytes) -> None:
        if data:
            read_or_refuse(folder, names[data[0] % len(names)], data[1:])

    atheris.Setup(["fuzz_readers", *arguments], read_input)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        fuzz(sys.argv[2:])
    else:
        main()
