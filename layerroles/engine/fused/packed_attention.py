"""Compute the attention of a packed row's tokens, segment by segment.

A packed row consists of trunks (shared prefixes) and, below them, blocks: the other tokens of one
or several sequences (see `prefix_packing`). Blocks of similar size are computed together, each with
a mask of the tokens that each token sees (attends to). Attention to a trunk is computed once for
all tokens below it. The results are merged by `partial_attention.merge`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from layerroles.engine.fused.partial_attention import (
    AttentionRule,
    PartialAttention,
    attend_partially,
    finish,
    merge,
)
from layerroles.engine.fused.prefix_packing import PackedRow, Segment

# Block sizes are rounded up to a multiple of this, so that blocks of similar size run together.
_ROUND = 16
# A block of a single sequence that is longer than this runs alone, with causal attention.
LONG = 128


@dataclass(frozen=True)
class _Blocks:
    """Blocks whose attention is computed together, padded to one size.

    Attributes:
        places: index in the packed row of each block's tokens; pads repeat the first token.
        positions: position of each of these tokens in its sequences.
        bias: 0 where a token of a block (row) sees another (column), else minus infinity.
        rows, columns: indices into `places` of the tokens that are not pads.
    """

    places: Int[Tensor, "block n"]
    positions: Int[Tensor, "block n"]
    bias: Float[Tensor, "block 1 n n"]
    rows: Int[Tensor, " real"]
    columns: Int[Tensor, " real"]


class AttentionLayout:
    """Computes the attention of a packed row, or of a piece of it, layer by layer.

    Args:
        packed: the row.
        dtype: dtype of the queries.
        device: device of the queries.
        piece: the range of tokens whose attention is computed; by default the whole row.
    """

    def __init__(
        self,
        packed: PackedRow,
        dtype: torch.dtype,
        device: torch.device,
        piece: slice | None = None,
    ) -> None:
        piece = piece or slice(0, len(packed.tokens))
        self._start: int = piece.start
        self._end: int = piece.stop
        self._positions = np.array(packed.positions)
        self._longest = 1 + max(packed.positions)
        self._causal: list[Segment] = []
        self._trunks: list[Segment] = []
        by_size: dict[int, list[Segment]] = {}
        trunks = packed.all_trunks
        for index, segment in enumerate(packed.segments):
            end = segment.start + segment.n
            if index in trunks and end < self._end and segment.below > self._start:
                self._trunks.append(segment)
            if end <= self._start or segment.start >= self._end:
                continue
            if _runs_alone(segment, is_trunk=index in trunks):
                self._causal.append(segment)
            else:
                by_size.setdefault(_round_up(segment.n), []).append(segment)
        self._blocks = [
            _build_blocks(n, segments, self._positions, dtype, device)
            for n, segments in by_size.items()
        ]

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "head asked d_head"],
        k: Float[Tensor, "kv_head pos d_head"],
        v: Float[Tensor, "kv_head pos d_value"],
        rule: AttentionRule,
    ) -> Float[Tensor, "asked head d_value"]:
        """Return the output of attention from the piece's tokens to all tokens that they see."""
        n_heads, n, _ = q.shape
        share, rule = n_heads // k.shape[0], rule.for_texts_of(self._longest)
        out = torch.empty(n_heads, n, v.shape[2], dtype=torch.float32, device=q.device)
        lse = torch.empty(n_heads, n, dtype=torch.float32, device=q.device)
        for segment in self._causal:
            inside = slice(
                max(segment.start, self._start), min(segment.start + segment.n, self._end)
            )
            queries = self._in_piece(inside)
            own_k, own_v = (_repeat_heads(x[:, inside], share)[None] for x in (k, v))
            part = attend_partially(q[None, :, queries], own_k, own_v, rule, causal=True)
            out[:, queries], lse[:, queries] = part.out[0], part.lse[0]
            if inside.start > segment.start:
                before = slice(segment.start, inside.start)
                self._add_attention(before, queries, q, k, v, rule, out, lse)
        for blocks in self._blocks:
            asked = blocks.places - self._start
            own_q = q[:, asked].transpose(0, 1)
            own_k, own_v = (
                _repeat_heads(x[:, blocks.places], share).transpose(0, 1) for x in (k, v)
            )
            positions = blocks.positions, blocks.positions
            part = attend_partially(
                own_q, own_k, own_v, rule, bias=blocks.bias, positions=positions
            )
            places = asked[blocks.rows, blocks.columns]
            out[:, places] = part.out[blocks.rows, :, blocks.columns].transpose(0, 1)
            lse[:, places] = part.lse[blocks.rows, :, blocks.columns].transpose(0, 1)
        for trunk in self._trunks:
            end = trunk.start + trunk.n
            below = slice(max(end, self._start), min(trunk.below, self._end))
            queries = self._in_piece(below)
            self._add_attention(slice(trunk.start, end), queries, q, k, v, rule, out, lse)
        sinks = None if rule.sinks is None else rule.sinks[:, None]
        return finish(PartialAttention(out, lse), sinks, q.dtype).transpose(0, 1)

    def _in_piece(self, places: slice) -> slice:
        """Convert a range of the row to a range of the piece."""
        return slice(places.start - self._start, places.stop - self._start)

    def _add_attention(
        self,
        keys: slice,
        queries: slice,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rule: AttentionRule,
        out: Tensor,
        lse: Tensor,
    ) -> None:
        """Merge the attention of some queries to some keys into `out` and `lse`, in place.

        `keys` is a range of the row, `queries` a range of the piece. All queries see all keys,
        except for keys outside of their windows.
        """
        share = q.shape[0] // k.shape[0]
        # Concatenate the queries that share a key head, so that its keys are read once.
        asked = rearrange(q[:, queries], "(kv share) n d -> 1 kv (share n) d", share=share)
        positions = None
        if rule.window is not None:
            of_queries = self._positions[self._start :][queries]
            first_seen = int(of_queries.min()) - rule.window + 1
            n_unseen = max(0, first_seen - int(self._positions[keys.start]))
            keys = slice(keys.start + n_unseen, keys.stop)
            if keys.start >= keys.stop:
                return
            at_queries, at_keys = (
                torch.tensor(x, device=q.device) for x in (of_queries, self._positions[keys])
            )
            positions = repeat(at_queries, "n -> 1 (share n)", share=share), at_keys[None]
        part = attend_partially(
            asked, k[None, :, keys], v[None, :, keys], rule, positions=positions
        )
        both = merge(
            PartialAttention(out[:, queries], lse[:, queries]),
            PartialAttention(
                rearrange(part.out, "1 kv (share n) d -> (kv share) n d", share=share),
                rearrange(part.lse, "1 kv (share n) -> (kv share) n", share=share),
            ),
        )
        out[:, queries], lse[:, queries] = both.out, both.lse


def _repeat_heads(x: Float[Tensor, "kv_head *pos d"], share: int) -> Float[Tensor, "head *pos d"]:
    """Repeat keys or values for each query head that reads them."""
    return repeat(x, "kv ... d -> (kv share) ... d", share=share)


def count_pairs(packed: PackedRow) -> int:
    """Count the (query, key) pairs that one layer's attention computes over a packed row."""
    trunks, total = packed.all_trunks, 0
    for index, segment in enumerate(packed.segments):
        if index in trunks:
            total += segment.n * (segment.below - segment.start - segment.n)
        if _runs_alone(segment, is_trunk=index in trunks):
            total += segment.n * (segment.n + 1) // 2
        else:
            total += _round_up(segment.n) ** 2
    return total


def _runs_alone(segment: Segment, *, is_trunk: bool) -> bool:
    """Return whether a segment's attention is computed alone (causal), not in a batch of blocks."""
    return segment.sees is None and (is_trunk or segment.n > LONG)


def _round_up(n: int) -> int:
    """Return the size to which a block of `n` tokens is padded."""
    return -n // _ROUND * -_ROUND


def _build_blocks(
    n: int,
    segments: list[Segment],
    positions: Int[np.ndarray, " pos"],
    dtype: torch.dtype,
    device: torch.device,
) -> _Blocks:
    places = torch.empty(len(segments), n, dtype=torch.long)
    sees = torch.zeros(len(segments), n, n, dtype=torch.bool)
    real = torch.zeros(len(segments), n, dtype=torch.bool)
    for row, segment in enumerate(segments):
        places[row] = segment.start
        places[row, : segment.n] += torch.arange(segment.n)
        real[row, : segment.n] = True
        sees[row, :, 0] = True  # so that pads see a token, and nothing is NaN
        own = torch.ones(segment.n, segment.n, dtype=torch.bool).tril()
        if segment.sees is not None:
            own = torch.from_numpy(segment.sees)
        sees[row, : segment.n, : segment.n] = own
    bias = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, float("-inf"))
    rows, columns = real.nonzero(as_tuple=True)
    tensors = (places, torch.from_numpy(positions)[places], bias[:, None], rows, columns)
    return _Blocks(*(tensor.to(device) for tensor in tensors))
