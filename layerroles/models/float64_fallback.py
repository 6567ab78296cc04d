"""Float64 on devices that lack it: Apple's GPUs compute in float32 at most.

Sums over many tokens are taken in float64, so that they depend neither on order nor on batches.
If the device of a tensor has no float64, the sums are computed on the CPU.
"""

from functools import cache

import torch
from torch import Tensor


def with_float64(tensor: Tensor) -> Tensor:
    """Return the tensor, on the CPU if its own device has no float64."""
    return tensor if has_float64(tensor.device) else tensor.cpu()


def to_device(tensor: Tensor, device: torch.device | str | None) -> Tensor:
    """Move a tensor to a device (None: keep it); float64 becomes float32 if the device lacks it."""
    if device is None:
        return tensor
    if tensor.dtype == torch.float64 and not has_float64(torch.device(device)):
        tensor = tensor.float()
    return tensor.to(device)


@cache
def has_float64(device: torch.device) -> bool:
    """Return whether a device supports float64; tried once for each device."""
    try:
        torch.empty((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):  # the first is what Apple's backend raises
        return False
    return True
