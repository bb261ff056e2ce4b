"""The curve of a run as a file that TensorBoard reads, in the run's folder of the store.

Below: `curve`, `store`. Above: `train` publishes it after evaluations and at the end.

The file is made anew from the curve each time, and takes the place of the one before. The curve
is part of every checkpoint, so that a run which was resumed, however often, has each step once.

TensorBoard's format: a file of TFRecords (https://www.tensorflow.org/tutorials/load_data/tfrecord),
each an `Event` of tensorboard/compat/proto/event.proto. Of these messages six fields are needed,
which have not changed since 2016.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence

from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.store import Store
from llmtrain_trainer.training.curve import is_kept

logger = logging.getLogger(__name__)

EVENT_FILE = "tensorboard/events.out.tfevents.0000000000.llmtrain"
"""Key, below a run. TensorBoard takes a file with `tfevents` in its name."""

TAGS = {
    "loss": "train/loss",
    "learningRate": "train/learning_rate",
    "gradientNorm": "train/gradient_norm",
    "validationLoss": "validation/loss",
    "tokensPerSecond": "speed/tokens_per_second",
    "utilization": "speed/model_flops_utilization",
    "dataShare": "speed/data_share",
    "deviceMemoryBytes": "memory/device_peak_bytes",
}
"""Number of a point → what TensorBoard calls it."""

FILE_VERSION = b"brain.Event:2"
CASTAGNOLI = 0x82F63B78
"""CRC-32C's polynomial (RFC 3720, appendix B.4), bits reversed."""
MASK_DELTA = 0xA282EAD8
"""Of a TFRecord's checksums."""
CONTINUES, SEVEN_BITS = 0x80, 7
"""Of a protobuf varint: whether another byte follows, and how many bits each has."""


class EventFile:
    """The run's event file, sent while training goes on."""

    def __init__(self, store: Store, *, total_steps: int) -> None:
        """Write to `store`, which is rooted at the run."""
        self._store = store
        self._total_steps = total_steps
        self._thread: threading.Thread | None = None

    def begin(self, curve: Sequence[Mapping[str, float]]) -> None:
        """Begin to send the file as of now; does nothing while one is on its way."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(
            target=self._send, args=([*curve],), name="event-file", daemon=True
        )
        self._thread.start()

    def finish(self, curve: Sequence[Mapping[str, float]]) -> None:
        """Send the file as it is in the end, and wait for that."""
        if self._thread is not None:
            self._thread.join()
        self._send(curve)

    def _send(self, curve: Sequence[Mapping[str, float]]) -> None:
        try:
            self._store.write_bytes(EVENT_FILE, encode_curve(curve, self._total_steps))
        except StoreError as error:  # costs a picture, not the run
            logger.warning("%s was not written: %s", EVENT_FILE, error.message)


def encode_curve(curve: Sequence[Mapping[str, float]], total_steps: int) -> bytes:
    """Return the event file of a curve.

    Of its training steps only those that stay when they are old: so each file begins with the one
    before it, as TensorBoard expects, which goes on reading where it was.
    """
    return b"".join(_frame(event) for event in _list_events(curve, total_steps))


def _list_events(curve: Sequence[Mapping[str, float]], total_steps: int) -> Iterator[bytes]:
    began = curve[0].get("time", 0.0) if curve else 0.0
    yield _encode_double(1, began) + _encode_bytes(3, FILE_VERSION)
    for point in curve:
        step = int(point["step"])
        if "loss" in point and not is_kept(step, total_steps):
            continue
        values = b"".join(
            _encode_bytes(1, _encode_bytes(1, tag.encode()) + _encode_float(2, point[name]))
            for name, tag in TAGS.items()
            if name in point
        )
        number = _encode_key(2, 0) + _encode_varint(step)
        # Checkpoints of earlier versions have no times.
        yield _encode_double(1, point.get("time", began)) + number + _encode_bytes(5, values)


def _frame(data: bytes) -> bytes:
    """Return a TFRecord: length, its checksum, data, its checksum."""
    length = struct.pack("<Q", len(data))
    return length + _pack_checksum(length) + data + _pack_checksum(data)


def _pack_checksum(data: bytes) -> bytes:
    checksum = compute_crc32c(data)
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + MASK_DELTA) & 0xFFFFFFFF)


def compute_crc32c(data: bytes) -> int:
    """Return the CRC-32C of bytes (RFC 3720, appendix B.4)."""
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = checksum >> 8 ^ _CRC_TABLE[(checksum ^ byte) & 0xFF]
    return checksum ^ 0xFFFFFFFF


def _make_crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (CASTAGNOLI if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _make_crc_table()


def _encode_key(field: int, kind: int) -> bytes:
    """Return what a field begins with; kinds: 0 varint, 1 eight bytes, 2 length, 5 four bytes."""
    return bytes([field << 3 | kind])


def _encode_varint(number: int) -> bytes:
    parts = bytearray()
    while number >= CONTINUES:
        parts.append(number % CONTINUES | CONTINUES)
        number >>= SEVEN_BITS
    parts.append(number)
    return bytes(parts)


def _encode_bytes(field: int, data: bytes) -> bytes:
    return _encode_key(field, 2) + _encode_varint(len(data)) + data


def _encode_double(field: int, number: float) -> bytes:
    return _encode_key(field, 1) + struct.pack("<d", number)


def _encode_float(field: int, number: float) -> bytes:
    return _encode_key(field, 5) + struct.pack("<f", number)
