"""Tokens as arrays: how many bytes each takes, and what is known of each.

Below: numpy. Above: `tokenization`, and everything that stores or reads tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL_VOCABULARY = 1 << 16
"""Vocabularies of at most so many tokens are stored in two bytes a token."""

TokenArray = NDArray[np.unsignedinteger[Any]]
"""Tokens as they are stored: uint16 or uint32."""

RoleArray = NDArray[np.uint8]
"""A `Role` for each token."""


def choose_token_type(vocabulary_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return how tokens of a vocabulary are stored."""
    return np.dtype("<u2") if vocabulary_size <= SMALL_VOCABULARY else np.dtype("<u4")
