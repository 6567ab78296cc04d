"""Measure the speed of this machine's device, in about a second."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from layerroles.engine.fused.partial_attention import AttentionRule, attend_partially
from layerroles.engine.planning.memory import Shape
from layerroles.engine.planning.pass_cost import Speed

# Sizes of measured operations: rows of a matrix product, tokens that attend to each other, numbers
# multiplied elementwise. So small that some repetitions are not interrupted by other programs.
_ROWS, _TOKENS, _NUMBERS = 128, 256, 2**23
# Width of a tiny layer, and how often it is run to measure the time for starting an operation.
_SMALL, _MANY = 8, 200
_TEXT = 48  # tokens of the text that is decoded
_LONGEST, _MOST = 0.3, 100  # limits of one kind of measurement: seconds, and repetitions


@torch.inference_mode()
def measure_speed(device: torch.device, dtype: torch.dtype, shape: Shape, tokenizer: Any) -> Speed:
    """Measure the speed of a device with operations of the kinds and sizes that a model needs.

    Args:
        device: the device to measure.
        dtype: dtype of the model's weights.
        shape: the model's sizes, which determine the sizes of the tensors.
        tokenizer: the tokenizer whose decoding is measured.
    """
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    rows = torch.ones(_ROWS, shape.d_model, **options)
    weight = torch.ones(shape.d_mlp, shape.d_model, **options)
    heads = torch.ones(1, shape.n_heads, _TOKENS, shape.d_head, **options)
    numbers, into = (torch.ones(_NUMBERS, device=device) for _ in range(2))
    small, linear = torch.ones(1, _SMALL, **options), nn.Linear(_SMALL, _SMALL, **options)
    rule = AttentionRule(shape.d_head**-0.5)

    def start_many() -> None:
        for _ in range(_MANY):
            linear(small)

    return Speed(
        products=2.0 * _ROWS * weight.numel() / _shortest_seconds(lambda: rows @ weight.T, device),
        attention=4.0
        * _TOKENS**2
        * shape.n_heads
        * shape.d_head
        / _shortest_seconds(lambda: attend_partially(heads, heads, heads, rule), device),
        bandwidth=2.0
        * numbers.nbytes
        / _shortest_seconds(lambda: torch.mul(numbers, numbers, out=into), device),
        start=_shortest_seconds(start_many, device) / _MANY,
        text=measure_text_seconds(tokenizer),
        is_gpu=device.type != "cpu",
    )


def measure_text_seconds(tokenizer: Any) -> float:
    """Return the seconds to decode 48 token ids to text, as after each generated token."""
    ids = list(range(min(_TEXT, len(tokenizer))))
    spell = partial(tokenizer.decode, ids, skip_special_tokens=True)
    return _shortest_seconds(spell, torch.device("cpu"))


def _shortest_seconds(do: Callable[[], object], device: torch.device) -> float:
    """Return the shortest of several timings of `do`, since other programs only add time."""
    times: list[float] = []
    end = time.perf_counter() + _LONGEST
    while len(times) < _MOST and (len(times) < 2 or time.perf_counter() < end):
        began = time.perf_counter()
        do()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)
