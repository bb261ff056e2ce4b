"""How good a model is: its loss on held-out text, what it writes, and the report of it.

Below: `model`, `objective`, `dataset`. Above: `evaluate`, and `train` for its evaluations.
"""
