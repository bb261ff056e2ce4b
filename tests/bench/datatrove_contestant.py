"""What datatrove needs for the steps of a whole preparation: beside ours, called by `bench_data`.

    PYTHON tests/bench/datatrove_contestant.py texts.jsonl tokenizer.json

PYTHON has datatrove with its extra `io`, spaCy, ftfy and tokenizers; this project depends on no
datatrove. Encodings are mended, mail and IP addresses replaced, near-duplicates removed by the
settings of FineWeb and the rest is encoded, all in one process, whose seconds of processor time are
printed for each step.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter


def main() -> None:
    """Run the steps one after the other."""
    source, tokenizer = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "in").mkdir()
        shutil.copy(source, root / "in" / source.name)
        config = MinhashConfig()
        clean, keys = f"{root}/clean", f"{root}/signatures"
        steps = {
            "clean and replace personal data": [
                JsonlReader(f"{root}/in"),
                FTFYFormatter(),
                PIIFormatter(),
                JsonlWriter(clean, compression=None),
            ],
            "near keys": [JsonlReader(clean), MinhashDedupSignature(keys, config=config)],
            "find near-duplicates": [
                MinhashDedupBuckets(keys, f"{root}/buckets", config=config),
            ],
            "join them": [MinhashDedupCluster(f"{root}/buckets", f"{root}/remove", config=config)],
            "filter and encode": [
                JsonlReader(clean),
                MinhashDedupFilter(f"{root}/remove"),
                DocumentTokenizer(f"{root}/tokens", str(tokenizer), eos_token="<|endoftext|>"),
            ],
        }
        seconds = {}
        for number, (step, pipeline) in enumerate(steps.items()):
            tasks = config.num_buckets if step == "find near-duplicates" else 1
            started = time.process_time()
            LocalPipelineExecutor(
                pipeline, tasks=tasks, workers=1, logging_dir=f"{root}/logs/{number}"
            ).run()
            seconds[step] = time.process_time() - started
    sys.stdout.write(json.dumps({"processorSeconds": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
