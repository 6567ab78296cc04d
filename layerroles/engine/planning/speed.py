"""How fast the device at hand is, measured in about a second."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from layerroles.engine.fused.attention import Scoring, part
from layerroles.engine.planning.cost import Speed
from layerroles.engine.planning.memory import Shape

# Small enough that some are done before other programs have their turn.
# Rows of a matrix product, tokens that attend to as many, numbers that are multiplied one by one.
_ROWS, _TOKENS, _NUMBERS = 128, 256, 2**23
_SMALL, _MANY = 8, 200
_TEXT = 48  # tokens of a text that is spelled
_LONGEST, _MOST = 0.3, 100  # seconds of one kind of measurement, and how often at the most


@torch.inference_mode()
def measured(device: torch.device, dtype: torch.dtype, shape: Shape, tokenizer: Any) -> Speed:
    """The speed of a device at a model's own kind of operations.

    Args:
        device: that is measured.
        dtype: of the numbers.
        shape: of the model: its widths decide over the sizes.
        tokenizer: that spells what is written.
    """
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    rows = torch.ones(_ROWS, shape.d_model, **options)
    weight = torch.ones(shape.d_mlp, shape.d_model, **options)
    heads = torch.ones(1, shape.n_heads, _TOKENS, shape.d_head, **options)
    numbers, into = (torch.ones(_NUMBERS, device=device) for _ in range(2))
    small, module = torch.ones(1, _SMALL, **options), nn.Linear(_SMALL, _SMALL, **options)
    scale = Scoring(shape.d_head**-0.5)

    def many() -> torch.Tensor:
        for _ in range(_MANY):
            found: torch.Tensor = module(small)
        return found

    return Speed(
        products=2.0 * _ROWS * weight.numel() / _seconds(lambda: rows @ weight.T, device),
        attention=4.0
        * _TOKENS**2
        * shape.n_heads
        * shape.d_head
        / _seconds(lambda: part(heads, heads, heads, scale), device),
        bandwidth=2.0
        * numbers.nbytes
        / _seconds(lambda: torch.mul(numbers, numbers, out=into), device),
        start=_seconds(many, device) / _MANY,
        text=text_seconds(tokenizer),
        queues=device.type != "cpu",
        fuses=device.type == "cpu",
    )


def text_seconds(tokenizer: Any) -> float:
    """Seconds of spelling a text of medium length, which is done for each token that is written."""
    ids = list(range(min(_TEXT, len(tokenizer))))
    spell = partial(tokenizer.decode, ids, skip_special_tokens=True)
    return _seconds(spell, torch.device("cpu"))


def _seconds(do: Callable[[], object], device: torch.device) -> float:
    """The shortest of a few times: what else the machine does meanwhile makes the others longer."""
    took: list[float] = []
    end = time.perf_counter() + _LONGEST
    while len(took) < _MOST and (len(took) < 2 or time.perf_counter() < end):
        began = time.perf_counter()
        do()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        took.append(time.perf_counter() - began)
    return min(took)
