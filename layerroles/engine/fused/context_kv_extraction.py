"""Find the contexts of requests in a packed row, and take their keys and values from it.

A packed row holds the tokens of many requests. A prefix that several contexts share is stored once
in the row, as a trunk (see `prefix_packing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerroles.engine.fused.prefix_packing import Ids, PackedRow

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Contexts:
    """The requests' contexts in a packed row.

    Attributes:
        own: indices in the packed row of each context's tokens after its shared trunks, padded on
            the left with the first of these.
        bias: attention bias: minus infinity at the pads of `own`, else 0; None without pads.
        trunks: indices in the packed row of the tokens of each trunk that several contexts share;
            trunks that belong to the same contexts are joined into one.
        on_trunk: whether each request's context continues beyond each trunk.
        ends: index in the packed row of each context's last token.
        positions: for each token of the packed row, its position in its context.
        trunk_starts: for each trunk, the position of its first token in the contexts.
        shortest, longest: the number of tokens of the shortest and of the longest context.
    """

    own: Int[Tensor, "request n_own"]
    bias: Float[Tensor, "request n_own"] | None
    trunks: tuple[Int[Tensor, " _"], ...]
    on_trunk: Bool[np.ndarray, "trunk request"]
    ends: Int[Tensor, " request"]
    positions: Int[Tensor, " pos"]
    trunk_starts: tuple[int, ...]
    shortest: int
    longest: int


def locate_contexts(
    packed: PackedRow, contexts: Sequence[Ids], dtype: torch.dtype, device: torch.device
) -> Contexts:
    """Find where in a packed row its contexts lie.

    `contexts` are sequences of the row. `dtype` is that of the attention bias, `device` the device
    of all tensors.
    """
    parts = packed.split_contexts(contexts)
    rows, trunks = parts.own, parts.trunks
    longest = max(map(len, rows))
    own = torch.tensor(
        np.stack([np.concatenate([np.full(longest - len(row), row[0]), row]) for row in rows])
    )
    bias = torch.zeros(own.shape, dtype=dtype)
    for index, row in enumerate(rows):
        bias[index, : longest - len(row)] = float("-inf")
    return Contexts(
        own=own.to(device),
        bias=bias.to(device) if any(len(row) < longest for row in rows) else None,
        trunks=tuple(torch.tensor(places, device=device) for places in trunks.values()),
        on_trunk=np.array(list(trunks), dtype=bool).reshape(len(trunks), len(contexts)),
        ends=own[:, -1].to(device),
        positions=torch.tensor(packed.positions, device=device),
        trunk_starts=tuple(packed.positions[places[0]] for places in trunks.values()),
        shortest=min(map(len, contexts)),
        longest=max(map(len, contexts)),
    )


@dataclass
class ContextCache:
    """Keys and values of the requests' contexts at one layer.

    A trunk is a prefix that several contexts share; its keys and values are stored once.

    Attributes:
        own: keys and values of each context's tokens after its shared trunks, padded on the left,
            both `[request head n_own d_head]`.
        trunks: keys and values of each trunk, both `[head pos d_head]`.
    """

    own: KeysValues
    trunks: list[KeysValues]


def take_contexts(k: Tensor, v: Tensor, contexts: Contexts) -> ContextCache:
    """Return the contexts' keys and values, from a packed row's `k` and `v` `[head pos d_head]`."""
    own_k, own_v = (x[:, contexts.own].transpose(0, 1).contiguous() for x in (k, v))
    trunks = [(k[:, places], v[:, places]) for places in contexts.trunks]
    return ContextCache((own_k, own_v), trunks)
