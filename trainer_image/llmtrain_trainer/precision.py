"""Which arithmetic trains fastest at the same quality on this machine.

Below: torch. Above: `train` asks once, on rank 0; the answer is kept in every checkpoint, so
that a resumed run computes exactly as the run that it continues.

Three are chosen from. *bf16* mixed precision, where the hardware multiplies bfloat16. *fp32* with
torch's default products. *fp32 with "medium" products*: on CPUs that hands products to oneDNN,
which on some machines is 1.7 times as fast and exactly as accurate, and on CPUs with AMX may
silently be bfloat16. So it is taken only where a product's error says that it is fp32, and
where it is faster by a clear margin; then it is what `fp32` means, too. *fp16* is for GPUs that
have no bfloat16, and is never chosen by itself: it needs a loss scale.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch
from torch.nn import functional

from llmtrain_api.training import Precision

PROBE_ROWS = 512
PROBE_REPEATS = 5
MIN_PROBED_WIDTH = 128
"""Narrower models spend their time elsewhere, and are not worth a difference between two starts."""

CLEAR_MARGIN = 1.2
"""A faster arithmetic must be this many times as fast, so that noise does not choose."""

MAX_FP32_PRODUCT_ERROR = 2e-6
"""Relative error of an fp32 product against fp64; bfloat16 gives about 2e-3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """How products are computed; weights and optimizer state are fp32 in every case."""

    autocast: bool
    """Forward and backward in `half` where that is safe."""

    matmul: Literal["highest", "medium"]
    """`torch.set_float32_matmul_precision`."""

    half: Literal["bfloat16", "float16"] = "bfloat16"
    """The type of products, where it is not float32."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of products."""
        if not self.autocast:
            return torch.float32
        return torch.float16 if self.half == "float16" else torch.bfloat16

    def apply(self) -> None:
        """Set what is set for the whole process."""
        torch.set_float32_matmul_precision(self.matmul)

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)

    @classmethod
    def load(cls, data: dict[str, Any]) -> Self:
        """Read what `dump` returned."""
        return cls(
            autocast=bool(data["autocast"]),
            matmul=data["matmul"],
            half=data.get("half", "bfloat16"),  # checkpoints before there was another
        )


FP32 = Arithmetic(autocast=False, matmul="highest")
FP32_MEDIUM = Arithmetic(autocast=False, matmul="medium")
BF16 = Arithmetic(autocast=True, matmul="highest")
FP16 = Arithmetic(autocast=True, matmul="highest", half="float16")


def choose_arithmetic(
    precision: Precision,
    device: torch.device,
    *,
    hidden_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Arithmetic:
    """Return the arithmetic that `precision` stands for on `device`.

    auto: on a GPU, bf16 where the hardware has it. On a CPU, the fastest of three on a layer of
    the model's own width, forward and backward, interleaved, best of several. fp32: of two.
    """
    if precision in (Precision.BF16, Precision.FP16):
        return BF16 if precision is Precision.BF16 else FP16
    if device.type == "cuda":
        is_bf16 = precision is Precision.AUTO and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return BF16 if is_bf16 else FP32
    candidates = [FP32]
    if hidden_size >= MIN_PROBED_WIDTH:
        if measure_product_error("medium", hidden_size) <= MAX_FP32_PRODUCT_ERROR:
            candidates.append(FP32_MEDIUM)
        if precision is Precision.AUTO and multiplies_bfloat16(torch.cpu.get_capabilities()):
            candidates.append(BF16)
    seconds = _time_layers(candidates, hidden_size, clock) if len(candidates) > 1 else {FP32: 0.0}
    fastest = min(candidates, key=lambda arithmetic: seconds[arithmetic])
    return fastest if seconds[fastest] * CLEAR_MARGIN <= seconds[FP32] else FP32


def multiplies_bfloat16(capabilities: Mapping[str, Any]) -> bool:
    """Tell from `torch.cpu.get_capabilities()` whether the CPU multiplies bfloat16."""
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def measure_product_error(matmul: Literal["highest", "medium"], hidden_size: int) -> float:
    """Return the relative error of an fp32 product against fp64, under a matmul setting."""
    left, right = _make_operands(hidden_size)
    exact = left.double() @ right.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(matmul)
    try:
        product = left @ right
    finally:
        torch.set_float32_matmul_precision(before)
    return float((product - exact).norm() / exact.norm())


def _time_layers(
    candidates: list[Arithmetic], hidden_size: int, clock: Callable[[], float]
) -> dict[Arithmetic, float]:
    """Time what most of a step is: two products and a GELU, there and back, with conversions."""
    states, widen = _make_operands(hidden_size)
    narrow = widen.T.contiguous()
    inputs = [tensor.requires_grad_() for tensor in (states, widen, narrow)]
    before = torch.get_float32_matmul_precision()
    seconds = dict.fromkeys(candidates, float("inf"))
    try:
        for _ in range(PROBE_REPEATS + 1):  # the first round only warms up caches
            for arithmetic in candidates:
                arithmetic.apply()
                start = clock()
                with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic.autocast):
                    written = functional.gelu(states @ widen) @ narrow
                torch.autograd.grad(written.float().sum(), inputs)
                seconds[arithmetic] = min(seconds[arithmetic], clock() - start)
    finally:
        torch.set_float32_matmul_precision(before)
    return seconds


def _make_operands(hidden_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(PROBE_ROWS, hidden_size, generator=generator),
        torch.randn(hidden_size, 4 * hidden_size, generator=generator),
    )
