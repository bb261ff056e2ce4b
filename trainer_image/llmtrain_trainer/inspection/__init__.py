"""What people ask of the trainer, which knows stores: checkpoints, datasets, runs side by side, and
what the next run should do differently.

Below: `store`, and the records of `checkpoint`, `dataset` and `evaluation`. Above: `__main__`.
Nothing here imports torch, so that it answers at once.
"""
