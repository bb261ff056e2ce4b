"""Amounts as Kubernetes writes them.

Nothing below. Above: `plan`, the forecast, the command line.
"""

from __future__ import annotations

import re

_MILLI = 1000
_CPU = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m?)")
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?)(|m|k|Ki|M|Mi|G|Gi|T|Ti)")
_UNITS = {
    "": 1,
    "m": 1 / _MILLI,
    "k": 10**3,
    "Ki": 1 << 10,
    "M": 10**6,
    "Mi": 1 << 20,
    "G": 10**9,
    "Gi": 1 << 30,
    "T": 10**12,
    "Ti": 1 << 40,
}


def parse_cores(quantity: str) -> float:
    """Read an amount of processor cores as Kubernetes writes it: 2, 1.5 or 500m."""
    match = _CPU.fullmatch(quantity)
    if match is None:
        raise ValueError(f"workers.resources.cpu: {quantity!r} is not cores, as 2, 1.5 or 500m")
    return float(match[1]) / (_MILLI if match[2] else 1)


def parse_bytes(quantity: str) -> int:
    """Read an amount of memory as Kubernetes writes it: 512Mi, 8Gi or 2G."""
    match = _BYTES.fullmatch(quantity)
    if match is None:
        raise ValueError(f"workers.resources.memory: {quantity!r} is not bytes, as 512Mi or 8Gi")
    return int(float(match[1]) * _UNITS[match[2]])
