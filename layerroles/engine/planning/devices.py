"""Devices whose speed is published, and the share of it that this program is assumed to reach.

Peaks are those of dense matrix products (makers like to print twice as much, for matrices of which
half is zero), in float32 without TensorFloat-32, which PyTorch leaves off unless asked.
"""

from dataclasses import dataclass

import torch

from layerroles.engine.planning.cost import Speed
from layerroles.errors import InputError
from layerroles.models import resolve_device, resolve_dtype
from layerroles.registry import nearest_name

# Shares of the peaks that are taken to be reached: by matrix products, by attention as plain
# products of small matrices, by what is moved; and seconds to start an operation from Python.
# Assumed, and not measured on the device.
PRODUCT_SHARE, ATTENTION_SHARE, BANDWIDTH_SHARE, START = 0.5, 0.2, 0.7, 1e-5
# Of the speed that is measured with one matrix of the model's width on the machine at hand.
MEASURED_SHARE = 0.8
_GB = 1e9


@dataclass(frozen=True)
class Device:
    """A device as its maker describes it.

    Attributes:
        half: floating-point operations a second in bfloat16 and float16.
        single: in float32.
        bandwidth: bytes a second.
        memory: bytes.
        source: where the maker says so.
    """

    half: float
    single: float
    bandwidth: float
    memory: float
    source: str

    def speed(self, dtype: str, text: float) -> Speed:
        """Return the speed assumed in a dtype; `text`: seconds for each token written."""
        peak = self.single if dtype == "float32" else self.half
        return Speed(
            products=PRODUCT_SHARE * peak,
            attention=ATTENTION_SHARE * peak,
            bandwidth=BANDWIDTH_SHARE * self.bandwidth,
            start=START,
            text=text,
            queues=True,
            fuses=False,
        )


_AMPERE = "NVIDIA A100 Tensor Core GPU datasheet"
_HOPPER = "NVIDIA H100 Tensor Core GPU datasheet"
_H200 = "NVIDIA H200 Tensor Core GPU datasheet"
_ADA = "NVIDIA Ada GPU architecture whitepaper"

DEVICES = {
    "a100-40gb": Device(312e12, 19.5e12, 1555e9, 40 * _GB, f"{_AMPERE}, SXM"),
    "a100-80gb": Device(312e12, 19.5e12, 2039e9, 80 * _GB, f"{_AMPERE}, SXM"),
    "h100": Device(989e12, 67e12, 3350e9, 80 * _GB, f"{_HOPPER}, SXM"),
    "h200": Device(989e12, 67e12, 4800e9, 141 * _GB, f"{_H200}, SXM"),
    "l4": Device(121e12, 30.3e12, 300e9, 24 * _GB, "NVIDIA L4 Tensor Core GPU datasheet"),
    "l40s": Device(362e12, 91.6e12, 864e9, 48 * _GB, "NVIDIA L40S GPU datasheet"),
    "rtx4090": Device(165.2e12, 82.6e12, 1008e9, 24 * _GB, f"{_ADA}, GeForce RTX 4090"),
}
# This machine: its processor, or the device on which a model would be loaded.
HERE = ("cpu", "measured")


def published_device(name: str) -> Device | None:
    """Return the device of that name; None if it is the machine at hand, which is measured.

    Raises:
        InputError: unknown device.
    """
    if name in HERE:
        return None
    if name not in DEVICES:
        known = [*HERE, *DEVICES]
        near = nearest_name(name, known)
        hint = f", did you mean {near!r}?" if near else ":"
        raise InputError(f"unknown device {name!r}{hint} known are {', '.join(known)}")
    return DEVICES[name]


def loading_dtype(name: str, dtype: str) -> torch.dtype:
    """Return the dtype in which a model is loaded on a device; published ones multiply bfloat16.

    Raises:
        InputError: unknown device or dtype.
    """
    if published_device(name) is not None and dtype == "auto":
        return torch.bfloat16
    return resolve_dtype(dtype, torch.device("cpu") if name == "cpu" else resolve_device(None))
