"""Keys and values of the rows that are decoded together, and attention from their newest tokens.

A row is a pair of a condition and a request. Rows are ordered by condition, and conditions by the
first layer at which the keys and values of contexts differ from the intact model's. At earlier
layers, a condition's rows are called "below": they use the intact model's keys and values, which
are stored once. From that layer on, its rows are called "above": they use keys and values of the
contexts that are stored for the condition. Those of generated tokens are stored for each row. A
trunk is a prefix that several contexts share (see `prefix_packing`); its keys and values are stored
once for all of these contexts.

Rows get longer with every token, and rows are removed as texts end. Their memory is allocated once:
allocating new tensors for every change would leave gaps that take half as much memory again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from layerroles.engine.fused.context_kv_extraction import ContextCache, Contexts, KeysValues
from layerroles.engine.fused.kv_buffer import KVBuffer
from layerroles.engine.fused.partial_attention import (
    AttentionRule,
    PartialAttention,
    Positions,
    attend_partially,
    finish,
    merge,
)

# Rows are widened by this many tokens at a time. Attention runs over whole rows, with the unused
# part masked, since matrix products would first copy a part of a tensor.
ROOM = 32


class RowCache:
    """Keys and values of the rows that are being decoded.

    Args:
        contexts: where the requests' contexts lie in the packed row.
        below: the intact model's keys and values of the contexts, layer by layer.
        first_layers: for each condition, the first layer at which the contexts' keys and values
            differ from the intact model's, ascending; the number of layers if none does.
        n_new: the most tokens that a row may generate.

    Attributes:
        condition, request: index of each live row's condition and request; rows are live until
            `keep` removes them.
    """

    def __init__(
        self,
        contexts: Contexts,
        below: Sequence[ContextCache],
        first_layers: Sequence[int],
        n_new: int,
    ) -> None:
        self.n_requests = len(contexts.own)
        self.n_conditions = len(first_layers)
        self.condition = np.repeat(np.arange(self.n_conditions), self.n_requests)
        self.request = np.tile(np.arange(self.n_requests), self.n_conditions)
        self._contexts = contexts
        self._below = below
        # At each layer, the number of conditions with their own keys and values of contexts.
        self._n_conditions_above = [
            int(np.searchsorted(first_layers, layer, "right")) for layer in range(len(below))
        ]
        self._live_conditions = np.arange(self.n_conditions)
        self._n_own = contexts.own.shape[1]
        self._n_new = n_new
        self._room = min(ROOM, n_new)
        self._layers = [self._make_layer(layer) for layer in range(len(below))]
        self._n_written = 0
        self._known_groups: dict[tuple[str, int, int], tuple[Tensor, _KeyGroups]] = {}
        self._update_places()

    def fill(self, condition: int, layer: int, k: Tensor, v: Tensor) -> None:
        """Store the contexts' keys and values of a layer under a condition.

        Does nothing at layers where the condition uses the intact model's keys and values.
        `condition` is an index; `k` and `v` are the packed row's, `[head pos d_head]`.
        """
        if condition >= self._n_conditions_above[layer]:
            return
        cache = self._layers[layer]
        rows = slice(condition * self.n_requests, (condition + 1) * self.n_requests)
        for buffer, x in ((cache.k, k), (cache.v, v)):
            buffer.rows[rows, :, : self._n_own] = x[:, self._contexts.own].transpose(0, 1)
        for places, (trunk_k, trunk_v) in zip(self._contexts.trunks, cache.trunks, strict=True):
            trunk_k[condition], trunk_v[condition] = k[:, places], v[:, places]

    def step(self) -> int:
        """Make room for each row's newest token.

        Returns the number of tokens that each row generated before this one.
        """
        if self._n_written == self._room:
            more = min(ROOM, self._n_new - self._room)
            self._room += more
            for layer in self._layers:
                layer.widen(more)
            self._update_places()
        self._bias[..., self._n_own + self._n_written] = 0.0
        self._n_written += 1
        self._newest += 1
        return self._n_written - 1

    def keep(self, places: Sequence[int]) -> None:
        """Keep only the live rows at these ascending indices (`places`)."""
        index = torch.tensor(places, device=self._contexts.own.device)
        live = np.unique(self.condition[list(places)])
        for layer, n_conditions in enumerate(self._n_conditions_above):
            n_above = self._n_above(layer)
            n = int(np.searchsorted(places, n_above))
            conditions = np.searchsorted(self._live_conditions, live[live < n_conditions])
            self._layers[layer].keep(
                index[:n], index[n:] - n_above, torch.tensor(conditions).to(index)
            )
        self.condition = self.condition[list(places)]
        self.request = self.request[list(places)]
        self._live_conditions = live
        self._known_groups.clear()
        self._update_places()

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "head row d_head"],
        k: Float[Tensor, "kv_head row d_head"],
        v: Float[Tensor, "kv_head row d_value"],
        rule: AttentionRule,
    ) -> Float[Tensor, "row head d_value"]:
        """Store `k` and `v` of each row's newest token; return the token's attention output.

        The token attends to the row's context and to all tokens generated so far.
        """
        cache, n_above = self._layers[layer], self._n_above(layer)
        share = q.shape[0] // k.shape[0]
        rule = rule.for_texts_of(self._contexts.longest + self._n_written)
        asked = rearrange(q, "(kv share) row d -> row kv share d", share=share)
        cache.write(k.transpose(0, 1), v.transpose(0, 1), n_above, self._n_own, self._n_written - 1)
        parts = []
        if n_above:
            positions = self._newest[:n_above], self._positions[:n_above]
            k, v, bias = cache.k.rows, cache.v.rows, self._bias[:n_above]
            parts.append(
                attend_partially(asked[:n_above], k, v, rule, bias=bias, positions=positions)
            )
        if n_above < len(asked):
            # All rows have equally many generated tokens, so the first row's bias fits all.
            generated = slice(self._n_own, None)
            positions = self._newest[:1], self._positions[:1, generated]
            k, v, bias = cache.written_k.rows, cache.written_v.rows, self._bias[:1, ..., generated]
            written = attend_partially(asked[n_above:], k, v, rule, bias=bias, positions=positions)
            rows, groups = self._groups("request", n_above)
            pads = self._contexts.bias
            if pads is not None:
                pads = pads[groups.ids, None, None]
            context_positions = None
            if rule.window is not None:
                row_of_group = rows[groups.index[:, 0]]
                of_keys = self._positions[row_of_group, : self._n_own]
                context_positions = self._newest[row_of_group], of_keys
            k, v = (_select(x, groups.ids) for x in self._below[layer].own)
            context = _attend_in_groups(asked[rows], groups, k, v, rule, pads, context_positions)
            parts.append(merge(written, context))
        out = torch.cat([part.out for part in parts])
        lse = torch.cat([part.lse for part in parts])
        for trunk in range(len(self._contexts.trunks)):
            for rows, part in self._trunk_parts(trunk, layer, n_above, asked, rule):
                both = merge(PartialAttention(out[rows], lse[rows]), part)
                out[rows], lse[rows] = both.out, both.lse
        sinks = None if rule.sinks is None else rule.sinks.view(-1, share)
        out = finish(PartialAttention(out, lse), sinks, q.dtype)
        return rearrange(out, "row kv share d -> row (kv share) d")

    def _trunk_parts(
        self, trunk: int, layer: int, n_above: int, asked: Tensor, rule: AttentionRule
    ) -> Iterator[tuple[Tensor, PartialAttention]]:
        """Yield pairs of row indices and these rows' attention to a trunk.

        The first pair is for the rows above, the second for those below (see the module's
        docstring). Rows whose contexts do not contain the trunk are left out, and so is a pair
        without rows. `asked` holds the queries of all rows; the first `n_above` rows are above.
        """
        places, seen = self._contexts.trunks[trunk], slice(None)
        if rule.window is not None:  # leave out keys that no row sees
            first_seen = self._contexts.shortest + self._n_written - rule.window
            seen = slice(max(0, first_seen - self._contexts.trunk_starts[trunk]), None)
            if seen.start >= len(places):
                return
        for kind in ("condition", "intact"):
            rows, groups = self._groups(kind, n_above, trunk)
            if not len(rows):
                continue
            if kind == "condition":
                k, v = (_select(x, groups.ids) for x in self._layers[layer].trunks[trunk])
            else:
                k, v = (x[None] for x in self._below[layer].trunks[trunk])
            positions = None
            if rule.window is not None:
                newest = self._newest[rows, 0][groups.index]
                newest = repeat(newest, "group w -> group (w share)", share=asked.shape[2])
                positions = newest, self._contexts.positions[places[seen]][None]
            k, v = k[:, :, seen], v[:, :, seen]
            yield rows, _attend_in_groups(asked[rows], groups, k, v, rule, None, positions)

    def _groups(self, kind: str, n_above: int, trunk: int = -1) -> "tuple[Tensor, _KeyGroups]":
        """Group rows by the keys that they share; returns the rows' indices, and the groups.

        Args:
            kind: `"request"` (rows below, grouped by request), `"condition"` (rows above, grouped
                by condition) or `"intact"` (rows below, in one group).
            n_above: the number of rows above.
            trunk: only rows whose contexts contain this trunk are grouped; -1 takes all rows.
        """
        known = self._known_groups.get((kind, n_above, trunk))
        if known is None:
            above = np.arange(n_above)
            rows = above if kind == "condition" else np.arange(n_above, len(self.request))
            if trunk >= 0:
                rows = rows[self._contexts.on_trunk[trunk][self.request[rows]]]
            keys = {
                "request": self.request,
                "condition": np.searchsorted(self._live_conditions, self.condition),
                "intact": np.zeros_like(self.request),
            }[kind][rows]
            device = self._contexts.own.device
            known = torch.tensor(rows, device=device), _group_by_key(keys, device)
            self._known_groups[kind, n_above, trunk] = known
        return known

    def _update_places(self) -> None:
        """Compute the attention bias and the token positions of the live rows.

        `_bias` is minus infinity at pads and at unused room, else 0. `_positions` has the position
        in the text of each key of a row, `_newest` that of the row's newest token.
        """
        contexts, dtype = self._contexts, self._below[0].own[0].dtype
        device = contexts.own.device
        request = torch.tensor(self.request, device=device)
        bias = torch.zeros(len(request), self._n_own + self._room, device=device, dtype=dtype)
        if contexts.bias is not None:
            bias[:, : self._n_own] = contexts.bias[request]
        bias[:, self._n_own + self._n_written :] = float("-inf")
        self._bias = bias[:, None, None]
        ends = contexts.positions[contexts.ends[request]]
        self._newest = (ends + self._n_written)[:, None]
        written = ends[:, None] + 1 + torch.arange(self._room, device=device)
        self._positions = torch.cat([contexts.positions[contexts.own[request]], written], 1)

    def _n_above(self, layer: int) -> int:
        """Return the number of live rows that are above at a layer; these are the first rows.

        Their conditions have their own keys and values of contexts. All later rows are below and
        use the intact model's.
        """
        return int(np.searchsorted(self.condition, self._n_conditions_above[layer]))

    def _make_layer(self, layer: int) -> "_LayerCache":
        n_conditions = self._n_conditions_above[layer]
        n_above = n_conditions * self.n_requests
        n_below = (self.n_conditions - n_conditions) * self.n_requests

        def make_buffer(x: Tensor, n_rows: int, n_own: int) -> KVBuffer:
            """Return a buffer for `n_own` context tokens of each row, and for generated tokens."""
            most = n_own + self._n_new
            return KVBuffer(x, n_rows, x.shape[1], n_own + self._room, x.shape[3], most=most)

        k, v = self._below[layer].own
        return _LayerCache(
            k=make_buffer(k, n_above, self._n_own),
            v=make_buffer(v, n_above, self._n_own),
            written_k=make_buffer(k, n_below, 0),
            written_v=make_buffer(v, n_below, 0),
            trunks=[
                (k.new_empty(n_conditions, *k.shape), v.new_empty(n_conditions, *v.shape))
                for k, v in self._below[layer].trunks
            ],
        )


@dataclass
class _LayerCache:
    """Keys and values of live rows at one layer.

    Attributes:
        k, v: for rows above: keys and values of their contexts and generated tokens.
        written_k, written_v: for rows below: keys and values of their generated tokens.
        trunks: for the conditions above: keys and values of each trunk,
            `[condition head pos d_head]`.
    """

    k: KVBuffer
    v: KVBuffer
    written_k: KVBuffer
    written_v: KVBuffer
    trunks: list[KeysValues]

    def write(self, k: Tensor, v: Tensor, n_above: int, n_own: int, step: int) -> None:
        self.k.rows[:, :, n_own + step] = k[:n_above]
        self.v.rows[:, :, n_own + step] = v[:n_above]
        self.written_k.rows[:, :, step] = k[n_above:]
        self.written_v.rows[:, :, step] = v[n_above:]

    def widen(self, more: int) -> None:
        # Unused positions are zeros, since attention multiplies them by weights of zero.
        for buffer in (self.k, self.v, self.written_k, self.written_v):
            buffer.widen(more)

    def keep(self, above: Tensor, below: Tensor, conditions: Tensor) -> None:
        for buffer in (self.k, self.v):
            buffer.keep(above)
        for buffer in (self.written_k, self.written_v):
            buffer.keep(below)
        if len(conditions) < len(self.trunks[0][0] if self.trunks else conditions):
            self.trunks = [(k[conditions], v[conditions]) for k, v in self.trunks]


@dataclass(frozen=True)
class _KeyGroups:
    """Rows in groups; the rows of a group attend to the same keys.

    Attributes:
        ids: for each group, whose keys its rows share, ascending: the index of a request, or of a
            condition among those that still have rows, or 0 for the intact model's trunk.
        index: the indices of each group's rows; short groups are padded by repeating a row.
        back: each row's index in the flattened `index`.
    """

    ids: Int[Tensor, " group"]
    index: Int[Tensor, "group width"]
    back: Int[Tensor, " row"]


def _group_by_key(keys: Int[np.ndarray, " row"], device: torch.device) -> _KeyGroups:
    ids, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    column = np.empty(len(keys), dtype=np.int64)
    starts = np.cumsum(counts) - counts
    column[order] = np.arange(len(keys)) - np.repeat(starts, counts)
    width = int(counts.max(initial=0))
    index = np.repeat(order[starts][:, None], width, axis=1) if len(keys) else np.empty((0, 0), int)
    index[group, column] = np.arange(len(keys))
    arrays = (ids, index, group * width + column)
    return _KeyGroups(*(torch.tensor(x, device=device, dtype=torch.long) for x in arrays))


def _select(x: Tensor, ids: Tensor) -> Tensor:
    """Return the entries at these ascending indices; `x` itself if all entries are selected."""
    return x if len(ids) == len(x) else x[ids]


def _attend_in_groups(
    asked: Float[Tensor, "row kv share d"],
    groups: _KeyGroups,
    k: Float[Tensor, "group kv n d"],
    v: Float[Tensor, "group kv n d_value"],
    rule: AttentionRule,
    bias: Tensor | None,
    positions: Positions | None,
) -> PartialAttention:
    """Return the attention of each row to the keys that its group shares, in order of the rows."""
    together = rearrange(asked[groups.index], "group w kv share d -> group kv (w share) d")
    part = attend_partially(together, k, v, rule, bias=bias, positions=positions)
    share = asked.shape[2]
    out = rearrange(part.out, "group kv (w share) d -> (group w) kv share d", share=share)
    lse = rearrange(part.lse, "group kv (w share) -> (group w) kv share", share=share)
    return PartialAttention(out[groups.back], lse[groups.back])
