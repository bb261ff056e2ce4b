"""What `bench_recovery` compares with: the same model in a plain loop under `torchrun`.

    torchrun --nproc-per-node 2 --max-restarts 100 torchrun_contestant.py CONFIG FOLDER

Written as torch's own examples do it: DDP over gloo, a checkpoint by rank 0 every so many steps,
loaded by every rank at the start. After each step rank 0 writes `attempt step resumed` to
FOLDER/step, and every rank its process id to FOLDER/rank-N.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from llmtrain_api.run import RunConfig
from llmtrain_trainer.model.network import build_model, compute_token_losses
from llmtrain_trainer.objective.batch import predict_next

VOCABULARY_SIZE = 257
CHECKPOINT = "checkpoint.pt"


def main(config: RunConfig, folder: Path) -> None:
    """Train until killed."""
    training = config.training
    rank, attempt = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"]
    write(folder / f"rank-{rank}", str(os.getpid()))
    distributed.init_process_group("gloo")
    torch.set_num_threads(config.threads_per_process or 1)
    model = DistributedDataParallel(
        build_model(
            config.model,
            vocabulary_size=VOCABULARY_SIZE,
            sequence_length=training.sequence_length,
            end_of_text=VOCABULARY_SIZE - 1,
            seed=training.seed,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    step = resumed = 0
    path = folder / CHECKPOINT
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = resumed = int(state["step"])
    generator = torch.Generator().manual_seed(training.seed + rank)
    share = training.global_batch // distributed.get_world_size()
    while True:
        size = (share, training.sequence_length + 1)
        tokens = torch.randint(VOCABULARY_SIZE, size, generator=generator)
        optimizer.zero_grad()
        compute_token_losses(model, predict_next(tokens)).mean().backward()
        optimizer.step()
        step += 1
        if rank != 0:
            continue
        assert config.checkpoint.every_steps is not None
        if step % config.checkpoint.every_steps == 0:
            partial = path.with_suffix(".partial")
            state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step}, partial)
            partial.replace(path)
        write(folder / "step", f"{attempt} {step} {resumed}")


def write(path: Path, text: str) -> None:
    """Replace a small file at once."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    main(RunConfig.model_validate_json(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]))
