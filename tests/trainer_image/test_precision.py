"""Which arithmetic is chosen, by a clock that tells the speeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from llmtrain_api.training import Precision
from llmtrain_trainer import precision
from llmtrain_trainer.precision import (
    BF16,
    FP32,
    FP32_MEDIUM,
    MAX_FP32_PRODUCT_ERROR,
    Arithmetic,
    choose_arithmetic,
    measure_product_error,
    multiplies_bfloat16,
)

CPU = torch.device("cpu")


def tell_speeds(*seconds: float) -> Callable[[], float]:
    """A clock on which the candidates, in their order, take `seconds` each time."""
    now = 0.0
    steps = itertools.cycle([value for item in seconds for value in (0.0, item)])

    def clock() -> float:
        nonlocal now
        now += next(steps)
        return now

    return clock


@pytest.fixture
def with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda capabilities: True)
    monkeypatch.setattr(precision, "measure_product_error", lambda matmul, hidden_size: 3e-7)


@pytest.mark.usefixtures("with_bfloat16")
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((1.0, 1.0, 1.0), FP32),
        ((1.0, 0.9, 0.9), FP32),  # within the noise
        ((1.0, 0.6, 0.8), FP32_MEDIUM),
        ((1.0, 0.6, 0.4), BF16),
        ((1.0, 3.0, 0.7), BF16),
    ],
)
def test_auto_takes_the_clearly_fastest(seconds: tuple[float, ...], expected: Arithmetic) -> None:
    before = torch.get_float32_matmul_precision()
    found = choose_arithmetic(Precision.AUTO, CPU, hidden_size=128, clock=tell_speeds(*seconds))
    assert found == expected
    assert torch.get_float32_matmul_precision() == before


def test_auto_refuses_medium_that_is_not_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda capabilities: False)
    monkeypatch.setattr(precision, "measure_product_error", lambda matmul, hidden_size: 2e-3)
    # One candidate is left, whatever a clock says.
    assert choose_arithmetic(Precision.AUTO, CPU, hidden_size=128) == FP32


@pytest.mark.usefixtures("with_bfloat16")
def test_fp32_is_never_bfloat16_and_takes_the_faster_library() -> None:
    for seconds, expected in (((1.0, 0.9), FP32), ((1.0, 0.6), FP32_MEDIUM)):
        clock = tell_speeds(*seconds)
        assert choose_arithmetic(Precision.FP32, CPU, hidden_size=128, clock=clock) == expected


@pytest.mark.usefixtures("with_bfloat16")
def test_what_is_asked_for_is_taken() -> None:
    assert choose_arithmetic(Precision.BF16, CPU, hidden_size=128) == BF16
    assert choose_arithmetic(Precision.AUTO, CPU, hidden_size=16) == FP32  # nothing to gain
    assert Arithmetic.load(BF16.dump()) == BF16


def test_error_tells_fp32_from_bfloat16() -> None:
    assert measure_product_error("highest", 64) < MAX_FP32_PRODUCT_ERROR
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    exact = left.double() @ right.double()
    error = ((left.bfloat16() @ right.bfloat16()) - exact).norm() / exact.norm()
    assert error > 100 * MAX_FP32_PRODUCT_ERROR


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_bfloat16_hardware(capabilities: dict[str, bool], expected: bool) -> None:
    assert multiplies_bfloat16(capabilities) is expected
