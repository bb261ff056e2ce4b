"""The networks, their losses, and the directory that a trained one is exported to.

Below: `transformers`, torch. Above: `training`, `evaluation`.
"""
