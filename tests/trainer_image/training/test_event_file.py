"""The curve as TensorBoard reads it."""

from __future__ import annotations

from llmtrain_trainer.training.curve import MAX_POINTS
from llmtrain_trainer.training.event_file import compute_crc32c, encode_curve
from testbed.event_files import count_events

CURVE = [
    {"step": 1, "loss": 5.5, "learningRate": 0.25, "time": 1000.5},
    {"step": 300, "loss": 4.0, "tokensPerSecond": 1024.0, "time": 1001.0},
    {"step": 300, "validationLoss": 4.5, "time": 1002.0},
]

FIRST_EVENTS = bytes.fromhex(
    "1800000000000000a37f4b22090000000000448f401a0d627261696e2e4576656e743a32aba33345"
    "3c00000000000000c8b7a352090000000000448f4010012a2f0a110a0a747261696e2f6c6f737315"
    "0000b0400a1a0a13747261696e2f6c6561726e696e675f72617465150000803e60ccf78c"
)
"""What TensorBoard 2.21 writes of the same: file version, then the two numbers of step 1."""


def test_checksums_are_castagnoli_s() -> None:
    assert compute_crc32c(b"123456789") == 0xE3069283  # the check value of CRC catalogues


def test_bytes_are_those_of_tensorboard_itself() -> None:
    assert encode_curve(CURVE, 300).startswith(FIRST_EVENTS)


def test_a_longer_run_s_file_begins_with_the_shorter_one_s() -> None:
    total = 3 * MAX_POINTS
    curve = [{"step": step, "loss": 1.0, "time": 0.0} for step in range(1, 400)]
    before = encode_curve(curve[:200], total)
    assert encode_curve(curve, total).startswith(before)
    assert count_events(before) == 1 + 200 // 3
