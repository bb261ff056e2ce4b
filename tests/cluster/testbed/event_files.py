"""How many events a file for TensorBoard has, read by its framing alone.

Nothing below. Above: tests of the trainer.
"""

from __future__ import annotations

import struct

LENGTH_BYTES, CHECKSUM_BYTES = 8, 4


def count_events(data: bytes) -> int:
    """Count the TFRecords of a file: each a length, its checksum, data, its checksum."""
    count = 0
    while data:
        (length,) = struct.unpack_from("<Q", data)
        data = data[LENGTH_BYTES + length + 2 * CHECKSUM_BYTES :]
        count += 1
    return count
