"""Measure how little the direction of the stream changes over one block or several.

With `x_l` the stream that enters block `l` at one token, and `x_L` the stream that leaves the last
block before the final norm, there are two measures for every block `l` and number `n` of blocks:

- influence: `1 - cos(x_l, x_(l+n))`; for `n = 1` it is the block influence of ShortGPT (Men et al.
  2024, arXiv 2403.03853);
- angular distance: `arccos(cos(x_l, x_(l+n))) / pi`, 0 to 1; Gromov et al. 2024 ("The Unreasonable
  Ineffectiveness of the Deeper Layers", arXiv 2403.17887) cut the `n` blocks where it is least.

Both measure how much the blocks change the stream, not how much the change is needed.

    >>> frame = Similarity(position="all").measure(model, tasks)  # doctest: +SKIP
    >>> least_change(frame)  # doctest: +SKIP
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models import with_float64
from layerroles.probes.answering_position import Batch
from layerroles.probes.base import Probe, register
from layerroles.probes.chunked_prefill import read_in_pieces
from layerroles.sites import ENTRY, EXIT

POSITIONS = ("last", "all")


@register("similarity")
@dataclass(frozen=True)
class Similarity(Probe):
    """Measure how far every group of neighbouring blocks turns the residual stream.

    Columns: layer (the first block of the group), n (the number of its blocks), influence (1 minus
    the cosine between the streams before and after the group, 0 to 2), angular (the angle between
    them, divided by pi, 0 to 1), and n_tokens (the number of tokens over which both are averaged).
    0 means that the direction of the stream does not change.

    Attributes:
        position: `"last"` measures at the answering position (see `probes.answering_position`),
            `"all"` at all tokens up to it.

    Raises:
        InputError: an unknown `position`.

    Example:
        similarity = lr.probes.Similarity().measure(model, tasks, limit=8)
        similarity[similarity["n"] == 1].groupby("layer")["influence"].mean()
    """

    position: str = "last"

    def __post_init__(self) -> None:
        if self.position not in POSITIONS:
            raise InputError(f"unknown position {self.position!r}: known are 'last' and 'all'")

    def rows(self, model: TransformerBridge, batch: Batch) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a row for each example and group of neighbouring blocks."""
        is_counted = batch.attended.bool()
        if self.position == "last":
            is_counted = torch.zeros_like(is_counted)
            is_counted[:, -1] = True
        n_layers = model.cfg.n_layers
        sums = torch.zeros(2, len(batch.examples), n_layers + 1, n_layers + 1, dtype=torch.float64)
        streams: list[Tensor] = []

        def note_stream(value: Tensor, start: int, *, last: bool) -> None:
            streams.append(value)
            if last:
                piece_mask = is_counted[:, start : start + value.shape[1]]
                for row, row_mask in enumerate(piece_mask):
                    if row_mask.any():
                        sums[:, row] += _measure_changes(
                            [stream[row, row_mask.to(stream.device)] for stream in streams]
                        )
                streams.clear()

        hooks = {ENTRY.format(layer=n): partial(note_stream, last=False) for n in range(n_layers)}
        hooks[EXIT.format(layer=n_layers - 1)] = partial(note_stream, last=True)
        read_in_pieces(model, batch.tokens, batch.attended, hooks)
        n_tokens = is_counted.sum(-1).tolist()
        for row, example in enumerate(batch.examples):
            influence, angular = (sums[:, row] / n_tokens[row]).tolist()
            for layer in range(n_layers):
                for n in range(1, n_layers - layer + 1):
                    yield (
                        example.id,
                        {
                            "layer": layer,
                            "n": n,
                            "influence": influence[layer][layer + n],
                            "angular": angular[layer][layer + n],
                            "n_tokens": n_tokens[row],
                        },
                    )


def least_change(frame: pd.DataFrame) -> pd.DataFrame:
    """Find, for each number `n`, the `n` neighbouring blocks with the least mean angular distance.

    Returns:
        A row per task and number of blocks `n`, with the columns task, n, layer, stop (the blocks
        are `[layer, stop)`) and angular (the mean distance over examples).

    Raises:
        InputError: `frame` is not one of the similarity probe, or is empty.

    Example:
        similarity = lr.probes.Similarity().measure(model, tasks, limit=8)
        lr.probes.least_change(similarity)
    """
    if frame.empty or not {"task", "layer", "n", "angular"} <= set(frame.columns):
        raise InputError("least_change needs a frame that Similarity().measure gave")
    means = frame.groupby(["task", "n", "layer"], as_index=False, sort=False)["angular"].mean()
    best = means.loc[means.groupby(["task", "n"], sort=False)["angular"].idxmin()]
    best = best.assign(stop=best["layer"] + best["n"])
    return best[["task", "n", "layer", "stop", "angular"]].reset_index(drop=True)


def _measure_changes(
    streams: list[Float[Tensor, "token d_model"]],
) -> Float[Tensor, "2 layer layer"]:
    """Return influence and angular distance of each pair of streams, summed over tokens.

    The axes of the result are the measure, and the first and the second stream of the pair.
    """
    device = streams[0].device  # layers may lie on different devices
    x = with_float64(torch.stack([stream.to(device) for stream in streams])).double()
    unit = x / x.norm(dim=-1, keepdim=True)
    # Rounding may bring a cosine beyond 1, where arccos is not defined.
    cosine = einsum(unit, unit, "one token d, two token d -> token one two").clamp(-1, 1)
    return torch.stack([(1 - cosine).sum(0), (cosine.arccos() / torch.pi).sum(0)]).cpu()
