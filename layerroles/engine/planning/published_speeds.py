"""Published peak speeds of devices, and the share of a peak that this program is assumed to reach.

Peaks are for dense matrix products (datasheets often state twice as much, for sparse matrices).
Float32 peaks are without TensorFloat-32, which PyTorch does not use by default.
"""

from dataclasses import dataclass

import torch

from layerroles.engine.planning.pass_cost import Speed
from layerroles.errors import InputError
from layerroles.models import resolve_device, resolve_dtype
from layerroles.registry import nearest_name

# Shares of the peaks that matrix products, attention (as products of small matrices) and memory
# traffic are assumed to reach, and seconds to start an operation from Python. Not measured.
PRODUCT_SHARE, ATTENTION_SHARE, BANDWIDTH_SHARE, START = 0.5, 0.2, 0.7, 1e-5
# Share that a model is assumed to reach of the speed measured with one matrix of its width.
MEASURED_SHARE = 0.8
_GB = 1e9


@dataclass(frozen=True)
class Device:
    """Published peak rates of a device.

    Attributes:
        half: floating-point operations per second in bfloat16 and float16.
        single: floating-point operations per second in float32.
        bandwidth: memory bandwidth, in bytes per second.
        memory: memory, in bytes.
    """

    half: float
    single: float
    bandwidth: float
    memory: float

    def speed(self, dtype: str, text: float) -> Speed:
        """Return the speed assumed for weights of a dtype.

        `text` is the time on the CPU for each generated token (decoding its text), in seconds.
        """
        peak = self.single if dtype == "float32" else self.half
        return Speed(
            products=PRODUCT_SHARE * peak,
            attention=ATTENTION_SHARE * peak,
            bandwidth=BANDWIDTH_SHARE * self.bandwidth,
            start=START,
            text=text,
            is_gpu=True,
        )


# From NVIDIA's datasheet of each GPU (of the A100, H100 and H200: SXM); for the RTX 4090, from the
# Ada GPU architecture whitepaper.
DEVICES = {
    "a100-40gb": Device(312e12, 19.5e12, 1555e9, 40 * _GB),
    "a100-80gb": Device(312e12, 19.5e12, 2039e9, 80 * _GB),
    "h100": Device(989e12, 67e12, 3350e9, 80 * _GB),
    "h200": Device(989e12, 67e12, 4800e9, 141 * _GB),
    "l4": Device(121e12, 30.3e12, 300e9, 24 * _GB),
    "l40s": Device(362e12, 91.6e12, 864e9, 48 * _GB),
    "rtx4090": Device(165.2e12, 82.6e12, 1008e9, 24 * _GB),
}
# Names for this machine: for its processor, and for the device on which a model would be loaded.
HERE = ("cpu", "measured")


def published_device(name: str) -> Device | None:
    """Return a device by its name; None for `"cpu"` and `"measured"`, which mean this machine.

    Raises:
        InputError: an unknown name.
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
    """Return the dtype in which a model is loaded on a device.

    `"auto"` is bfloat16 on devices with published speeds; on this machine, the hardware decides.

    Raises:
        InputError: unknown device or dtype.
    """
    if published_device(name) is not None and dtype == "auto":
        return torch.bfloat16
    return resolve_dtype(dtype, torch.device("cpu") if name == "cpu" else resolve_device(None))
