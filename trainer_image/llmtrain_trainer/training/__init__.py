"""What the training stage consists of, beside its story in `train`.

Below: `model`, `objective`, `dataset`, `checkpoint`. `run` opens and resumes what the steps work
on, `step` is one of them.
"""
