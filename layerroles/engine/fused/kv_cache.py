"""Keys and values of the rows that are decoded together, and attention from their newest tokens.

Rows are (condition, request) pairs, condition by condition in the order of their first layers: the
first whose keys and values are not the intact model's. Before it, a condition's contexts are the
intact model's: those keys and values are kept once for all such conditions ("below"). From it on, a
condition has its own ("above"). What a row wrote itself is its own at every layer.

Keys or values of rows that decode together: longer with every token, fewer as texts end.

They lie in memory that is taken once. New tensors for every change would leave holes behind, each
too small for the next one: half of the memory again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerroles.engine.fused.attention import Part, Scoring, merged, part
from layerroles.engine.fused.packing import Ids, Packed

# Numbers that are moved at a time, by way of a copy.
_AT_ONCE = 2**22


class Held:
    """A tensor of rows that grow along their positions, and become fewer.

    Args:
        like: whose kind and device it has.
        n_rows, n_heads, n, width: its shape; it is filled with zeros.
        most: positions that it may come to have.

    Attributes:
        now: the tensor as it is; replaced by `widen` and `keep`.
    """

    now: Float[Tensor, "row head pos d_head"]

    def __init__(
        self, like: Tensor, n_rows: int, n_heads: int, n: int, width: int, *, most: int
    ) -> None:
        self._n_heads, self._width = n_heads, width
        self._memory = like.new_empty(n_rows * n_heads * most * width)
        self.now = self._seen(n_rows, n).zero_()

    def widen(self, more: int) -> None:
        """Have so many positions more, which are zero."""
        old, n = self.now, self.now.shape[2]
        self.now = self._seen(len(old), n + more)
        # From the last row on: where a row goes, only rows after it were.
        for rows in reversed(list(self._some(len(old)))):
            moved = old[rows].clone()
            self.now[rows, :, :n] = moved
            self.now[rows, :, n:] = 0

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Have these of the rows only, which ascend."""
        old = self.now
        self.now = self._seen(len(rows), old.shape[2])
        # From the first row on: where a row goes, none was that is still to move.
        for some in self._some(len(rows)):
            self.now[some] = old[rows[some]]

    def _seen(self, n_rows: int, n: int) -> Tensor:
        size = n_rows * self._n_heads * n * self._width
        return self._memory[:size].view(n_rows, self._n_heads, n, self._width)

    def _some(self, n_rows: int) -> Iterator[slice]:
        """Rows as they are moved together."""
        each = max(1, self._n_heads * self.now.shape[2] * self._width)
        step = max(1, _AT_ONCE // each)
        return (slice(start, start + step) for start in range(0, n_rows, step))


Pair = tuple[Tensor, Tensor]

# Rows get longer by this many tokens at a time: attention runs over all of a row (its empty part
# hidden), since matrix products would copy a part of a tensor first.
_ROOM = 32


@dataclass(frozen=True)
class Contexts:
    """The requests' contexts in a packed row.

    Attributes:
        own: places of each context's tokens below its trunks, padded on the left with the first.
        bias: minus infinity at those pads; None if there are none.
        trunks: the places of trunks in the packed row, of those that the same contexts go on from
            together.
        under: for each of these, which requests' contexts go on from it.
        ends: place of each context's last token.
    """

    own: Int[Tensor, "request n_own"]
    bias: Float[Tensor, "request n_own"] | None
    trunks: tuple[Int[Tensor, " _"], ...]
    under: Bool[np.ndarray, "trunk request"]
    ends: Int[Tensor, " request"]


def contexts_of(
    packed: Packed, asked: Sequence[Ids], dtype: torch.dtype, device: torch.device
) -> Contexts:
    """Where the contexts of the requests lie in a packed row."""
    segments = packed.segments
    above = [packed.trunks(ids) for ids in asked]
    together: dict[tuple[bool, ...], list[int]] = {}
    for trunk in sorted({trunk for trunks in above for trunk in trunks}):
        places = together.setdefault(tuple(trunk in trunks for trunks in above), [])
        places += range(segments[trunk].start, segments[trunk].start + segments[trunk].n)
    rows = [packed.own(ids) for ids in asked]
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
        trunks=tuple(torch.tensor(places, device=device) for places in together.values()),
        under=np.array(list(together), dtype=bool).reshape(len(together), len(asked)),
        ends=own[:, -1].to(device),
    )


@dataclass
class Kept:
    """Keys and values of contexts at one layer: `[request head n_own d_head]`, and each trunk's."""

    own: Pair
    trunks: list[Pair]


def kept(k: Tensor, v: Tensor, contexts: Contexts) -> Kept:
    """Take the contexts' keys and values out of a packed row's `[head pos d_head]`."""
    own_k, own_v = (x[:, contexts.own].transpose(0, 1).contiguous() for x in (k, v))
    trunks = [(k[:, where], v[:, where]) for where in contexts.trunks]
    return Kept((own_k, own_v), trunks)


@dataclass(frozen=True)
class _Groups:
    """Rows that attend to the same keys, put side by side.

    Attributes:
        ids: what the rows of each group share.
        index: the rows of each group; short groups repeat a row.
        back: where each row's answer stands, counted through `index`.
    """

    ids: Int[Tensor, " group"]
    index: Int[Tensor, "group width"]
    back: Int[Tensor, " row"]


class Rows:
    """The rows being decoded.

    Args:
        contexts: of the requests.
        below: the intact model's keys and values of the contexts, layer by layer.
        firsts: the first layer of each condition whose keys and values are its own, ascending; the
            number of layers if there is none.
        n_new: tokens that a row may write.
    """

    def __init__(
        self, contexts: Contexts, below: Sequence[Kept], firsts: Sequence[int], n_new: int
    ) -> None:
        self.n_requests = len(contexts.own)
        self.n_conditions = len(firsts)
        self.condition = np.repeat(np.arange(self.n_conditions), self.n_requests)
        self.request = np.tile(np.arange(self.n_requests), self.n_conditions)
        self._contexts = contexts
        self._below = below
        # At each layer, how many of the conditions have keys and values of their own.
        self._starts = [int(np.searchsorted(firsts, layer, "right")) for layer in range(len(below))]
        self._live = np.arange(self.n_conditions)
        self._n_own = contexts.own.shape[1]
        self._n_new = n_new
        self._room = min(_ROOM, n_new)
        self._layers = [self._empty(layer) for layer in range(len(below))]
        self._n_written = 0
        self._known: dict[tuple[str, int, int], tuple[Tensor, _Groups]] = {}
        self._bias = self._hidden()

    def fill(self, condition: int, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep the contexts' keys and values under a condition, where they are its own.

        `k`, `v`: `[head pos d_head]`.
        """
        if condition >= self._starts[layer]:
            return
        above = self._layers[layer]
        rows = slice(condition * self.n_requests, (condition + 1) * self.n_requests)
        for into, x in ((above.k, k), (above.v, v)):
            into.now[rows, :, : self._n_own] = x[:, self._contexts.own].transpose(0, 1)
        for where, (trunk_k, trunk_v) in zip(self._contexts.trunks, above.trunks, strict=True):
            trunk_k[condition], trunk_v[condition] = k[:, where], v[:, where]

    def step(self) -> int:
        """A further token of each row follows; how many each wrote before."""
        if self._n_written == self._room:
            more = min(_ROOM, self._n_new - self._room)
            self._room += more
            for layer in self._layers:
                layer.widen(more)
            self._bias = self._hidden()
        self._bias[..., self._n_own + self._n_written] = 0.0
        self._n_written += 1
        return self._n_written - 1

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these of the rows only."""
        index = torch.tensor(places, device=self._contexts.own.device)
        live = np.unique(self.condition[list(places)])
        for layer, n_started in enumerate(self._starts):
            cut = self._n_above(layer)
            n = int(np.searchsorted(places, cut))
            trunks = np.searchsorted(self._live, live[live < n_started])
            self._layers[layer].keep(index[:n], index[n:] - cut, torch.tensor(trunks).to(index))
        self.condition = self.condition[list(places)]
        self.request = self.request[list(places)]
        self._live = live
        self._known.clear()
        self._bias = self._hidden()

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "head row d_head"],
        k: Float[Tensor, "kv_head row d_head"],
        v: Float[Tensor, "kv_head row d_value"],
        score: Scoring,
    ) -> Float[Tensor, "row head d_value"]:
        """Attention of each row's newest token to all that the row has read."""
        above, cut = self._layers[layer], self._n_above(layer)
        share = q.shape[0] // k.shape[0]
        asked = rearrange(q, "(kv share) row d -> row kv share d", share=share)
        above.write(k.transpose(0, 1), v.transpose(0, 1), cut, self._n_own, self._n_written - 1)
        parts = []
        if cut:
            bias = self._bias[:cut]
            parts.append(part(asked[:cut], above.k.now, above.v.now, score, bias=bias))
        if cut < len(asked):
            late = self._bias[:1, ..., self._n_own :]
            found = part(asked[cut:], above.late_k.now, above.late_v.now, score, bias=late)
            rows, groups = self._groups("request", cut)
            pads = self._contexts.bias
            if pads is not None:
                pads = pads[groups.ids, None, None]
            k, v = (_chosen(x, groups.ids) for x in self._below[layer].own)
            parts.append(merged(found, _grouped(asked[rows], groups, k, v, score, pads)))
        out = torch.cat([one.out for one in parts])
        lse = torch.cat([one.lse for one in parts])
        for trunk in range(len(self._contexts.trunks)):
            self._look_at_trunk(trunk, layer, cut, asked, Part(out, lse), score)
        return rearrange(out, "row kv share d -> row (kv share) d").to(q.dtype)

    def _look_at_trunk(
        self, trunk: int, layer: int, cut: int, asked: Tensor, so_far: Part, score: Scoring
    ) -> None:
        for kind in ("condition", "intact"):
            rows, groups = self._groups(kind, cut, trunk)
            if not len(rows):
                continue
            if kind == "condition":
                k, v = (_chosen(x, groups.ids) for x in self._layers[layer].trunks[trunk])
            else:
                k, v = (x[None] for x in self._below[layer].trunks[trunk])
            found = _grouped(asked[rows], groups, k, v, score, None)
            both = merged(Part(so_far.out[rows], so_far.lse[rows]), found)
            so_far.out[rows], so_far.lse[rows] = both.out, both.lse

    def _groups(self, kind: str, cut: int, trunk: int = -1) -> tuple[Tensor, _Groups]:
        """Rows that look at a thing, grouped by whose thing it is.

        `request`: rows below look at their requests' contexts; `condition`: rows above look at
        their conditions' trunk; `intact`: rows below look at the intact model's.
        """
        known = self._known.get((kind, cut, trunk))
        if known is None:
            rows = np.arange(cut) if kind == "condition" else np.arange(cut, len(self.request))
            if trunk >= 0:
                rows = rows[self._contexts.under[trunk][self.request[rows]]]
            keys = {
                "request": self.request,
                "condition": np.searchsorted(self._live, self.condition),
                "intact": np.zeros_like(self.request),
            }[kind][rows]
            device = self._contexts.own.device
            known = torch.tensor(rows, device=device), _grouping(keys, device)
            self._known[kind, cut, trunk] = known
        return known

    def _hidden(self) -> Float[Tensor, "row 1 1 n_all"]:
        """Minus infinity where rows see nothing: pads of their contexts, room that is empty."""
        device, dtype = self._contexts.own.device, self._below[0].own[0].dtype
        bias = torch.zeros(len(self.request), self._n_own + self._room, device=device, dtype=dtype)
        if self._contexts.bias is not None:
            bias[:, : self._n_own] = self._contexts.bias[torch.tensor(self.request, device=device)]
        bias[:, self._n_own + self._n_written :] = float("-inf")
        return bias[:, None, None]

    def _n_above(self, layer: int) -> int:
        """How many live rows have keys and values of their own at a layer."""
        return int(np.searchsorted(self.condition, self._starts[layer]))

    def _empty(self, layer: int) -> "_Layer":
        n = self._starts[layer]
        above = n * self.n_requests
        below = (self.n_conditions - n) * self.n_requests

        def held(x: Tensor, n_rows: int, n_own: int) -> Held:
            """Room for the rows' own contexts, and for what they write."""
            most = n_own + self._n_new
            return Held(x, n_rows, x.shape[1], n_own + self._room, x.shape[3], most=most)

        k, v = self._below[layer].own
        return _Layer(
            k=held(k, above, self._n_own),
            v=held(v, above, self._n_own),
            late_k=held(k, below, 0),
            late_v=held(v, below, 0),
            trunks=[
                (k.new_empty(n, *k.shape), v.new_empty(n, *v.shape))
                for k, v in self._below[layer].trunks
            ],
        )


@dataclass
class _Layer:
    """One layer's keys and values; `k`, `v` of rows above, `late_k`, `late_v` of rows below."""

    k: Held
    v: Held
    late_k: Held
    late_v: Held
    trunks: list[Pair]

    def write(self, k: Tensor, v: Tensor, cut: int, n_own: int, step: int) -> None:
        self.k.now[:, :, n_own + step], self.v.now[:, :, n_own + step] = k[:cut], v[:cut]
        self.late_k.now[:, :, step], self.late_v.now[:, :, step] = k[cut:], v[cut:]

    def widen(self, more: int) -> None:
        # What is empty is zero, since it takes part with a weight of zero.
        for held in (self.k, self.v, self.late_k, self.late_v):
            held.widen(more)

    def keep(self, above: Tensor, below: Tensor, conditions: Tensor) -> None:
        for held in (self.k, self.v):
            held.keep(above)
        for held in (self.late_k, self.late_v):
            held.keep(below)
        if len(conditions) < len(self.trunks[0][0] if self.trunks else conditions):
            self.trunks = [(k[conditions], v[conditions]) for k, v in self.trunks]


def _chosen(x: Tensor, ids: Tensor) -> Tensor:
    """The entries with these ascending ids, not copied if they are all."""
    return x if len(ids) == len(x) else x[ids]


def _grouping(keys: Int[np.ndarray, " row"], device: torch.device) -> _Groups:
    ids, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    column = np.empty(len(keys), dtype=np.int64)
    starts = np.cumsum(counts) - counts
    column[order] = np.arange(len(keys)) - np.repeat(starts, counts)
    width = int(counts.max(initial=0))
    index = np.repeat(order[starts][:, None], width, axis=1) if len(keys) else np.empty((0, 0), int)
    index[group, column] = np.arange(len(keys))
    found = (ids, index, group * width + column)
    return _Groups(*(torch.tensor(x, device=device, dtype=torch.long) for x in found))


def _grouped(
    asked: Float[Tensor, "row kv share d"],
    groups: _Groups,
    k: Float[Tensor, "group kv n d"],
    v: Float[Tensor, "group kv n d_value"],
    score: Scoring,
    bias: Tensor | None,
) -> Part:
    """Attention of rows to what each group of them shares; the answers row by row."""
    together = rearrange(asked[groups.index], "group w kv share d -> group kv (w share) d")
    found = part(together, k, v, score, bias=bias)
    share = asked.shape[2]
    out = rearrange(found.out, "group kv (w share) d -> (group w) kv share d", share=share)
    lse = rearrange(found.lse, "group kv (w share) -> (group w) kv share", share=share)
    return Part(out[groups.back], lse[groups.back])
