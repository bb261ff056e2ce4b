"""What the model is to predict: from sequences of tokens to inputs and targets.

Read `batch` first; `choosing` makes the objective of a run out of `masking`, `spans` or the next
token. What is drawn comes from `draws` and depends on (seed, number of the sample) alone. The
numbers of samples count on over epochs, so that each epoch hides something else, and over nothing
else: neither restarts nor the number of ranks change what a sample becomes.
"""
