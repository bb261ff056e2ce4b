"""What GPUs can do, by the name that NVIDIA's feature discovery labels their nodes with.

Nothing below. Above: the operator's forecast takes a job's time from it, the trainer the share of
what is possible that it reaches. Figures are those of NVIDIA's data sheets: bfloat16 products
without sparsity, memory, and the power of the whole board.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PRODUCT_LABEL = "nvidia.com/gpu.product"

GIB = 1 << 30
TERA = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One kind of GPU."""

    name: str
    bf16_flops: float
    """Operations a second, dense."""

    memory: int
    """Bytes."""

    watts: float


DEVICES = (
    Device(name="B200", bf16_flops=2250 * TERA, memory=180 * GIB, watts=1000),
    Device(name="H200", bf16_flops=989 * TERA, memory=140 * GIB, watts=700),
    Device(name="H100-NVL", bf16_flops=835 * TERA, memory=93 * GIB, watts=400),
    Device(name="H100-PCIe", bf16_flops=756 * TERA, memory=79 * GIB, watts=350),
    Device(name="H100", bf16_flops=989 * TERA, memory=79 * GIB, watts=700),
    Device(name="A100-SXM4-40GB", bf16_flops=312 * TERA, memory=40 * GIB, watts=400),
    Device(name="A100-PCIE-40GB", bf16_flops=312 * TERA, memory=40 * GIB, watts=250),
    Device(name="A100", bf16_flops=312 * TERA, memory=80 * GIB, watts=400),
    Device(name="L40S", bf16_flops=362 * TERA, memory=45 * GIB, watts=350),
    Device(name="L4", bf16_flops=121 * TERA, memory=22 * GIB, watts=72),
    Device(name="A10", bf16_flops=125 * TERA, memory=22 * GIB, watts=150),
)
"""The more special name comes first: `NVIDIA-H100-PCIe` is not an `H100` of the SXM form."""


def find_device(name: str) -> Device | None:
    """Return the GPU that a name speaks of, as `h100`, or as drivers and nodes' labels call it.

    That is `NVIDIA H100 80GB HBM3`, with spaces or with hyphens.
    """
    words = name.lower().replace(" ", "-").removeprefix("nvidia-")
    for device in DEVICES:
        known = device.name.lower()
        if words == known or words.startswith(f"{known}-"):
            return device
    return None


def find_selected_device(node_selector: Mapping[str, str]) -> Device | None:
    """Return the GPU that a job asks for by its node selector, where it is known."""
    product = node_selector.get(PRODUCT_LABEL)
    return None if product is None else find_device(product)
