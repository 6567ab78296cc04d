"""Compute attention to parts of the keys that a token sees, and merge the results.

The keys that a token sees are those of its own segment, of the trunks above it, and of the tokens
that its row has generated. Attention to each part is computed in one operation for all tokens that
share the part's keys and values. The results are merged by the logarithms of their softmax sums,
which is exact (as in flash decoding).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from layerroles.compat import flash_attention, multiplies_to_float32
from layerroles.engine.fused.packing import PackedRow, Segment

_HALF = (torch.bfloat16, torch.float16)
# Block sizes are rounded up to a multiple of this, so that blocks of like size run together.
_ROUND = 16
# A block without branches that is longer runs by itself, each token seeing those before it.
_LONG = 128
# The most attention logits that matrix products hold at once; fewer for capped logits on a CPU,
# which no memory plan counts.
_MOST_LOGITS, _MOST_CAPPED = 2**24, 2**22
# Up to this many keys, or queries that share them, matmuls with a softmax beat the fused kernel;
# in 16 bits, whose logits are formed in float32, not for several queries of few groups and heads.
_FEW_KEYS, _FEW_QUERIES, _FEW_HEADS = 48, 16, 48
# How many numbers of 16-bit keys are converted to float32 at a time: on CPUs so few that they stay
# in the cache.
_CONVERTED_ON_CPU, _CONVERTED = 2**20, 2**24


# The positions in the text of queries and of keys, `[group n]`; one group stands for all.
Positions = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AttentionRule:
    """How a layer attends.

    Attributes:
        factor: factor by which the products of queries and keys become logits.
        cap: the logits become `cap * tanh(logits / cap)` (Gemma-2); None leaves them unchanged.
        window: how many of the latest positions a query sees, its own included; None for all.
        sinks: for each head, the logit of one more key, which has no value (gpt-oss).
    """

    factor: float
    cap: float | None = None
    window: int | None = None
    sinks: Float[Tensor, " head"] | None = None

    def for_texts_of(self, longest: int) -> "AttentionRule":
        """Return the rule for texts of at most `longest` tokens, which may fit into the window."""
        if self.window is None or longest > self.window:
            return self
        return replace(self, window=None)


@dataclass(frozen=True)
class PartialAttention:
    """Attention to a part of the keys that queries see, to be merged with the other parts.

    Attributes:
        out: the softmax-weighted values, float32.
        lse: the log-sum-exp of the logits, float32.
    """

    out: Float[Tensor, "*q d_value"]
    lse: Float[Tensor, "*q"]


def attend_partially(
    q: Float[Tensor, "group head n_q d_head"],
    k: Float[Tensor, "group head n_k d_head"],
    v: Float[Tensor, "group head n_k d_value"],
    rule: AttentionRule,
    *,
    bias: Float[Tensor, "#group #head #n_q n_k"] | None = None,
    causal: bool = False,
    positions: Positions | None = None,
) -> PartialAttention:
    """Compute the attention of each group's queries to its keys, without sinks (see `finish`).

    A query that sees no key gets an output of 0 with a weight of 0 in `merge`.

    Args:
        q: queries.
        k: keys, as many heads as queries.
        v: values.
        rule: how the layer attends.
        bias: added to the logits: 0 where a query sees a key, minus infinity where not; None if all
            keys are seen. Not combined with `causal`.
        causal: query i sees keys 0 to i; needs as many keys as queries.
        positions: the positions of queries and keys; needed if the rule has a window, unless
            `causal`.
    """
    are_many = k.shape[2] > _FEW_KEYS and q.shape[2] > _FEW_QUERIES
    if q.dtype in _HALF and q.shape[2] > 1:
        are_many |= q.shape[0] * q.shape[1] <= _FEW_HEADS
    # The kernel knows no others.
    fits = q.shape[3] == v.shape[3] and rule.cap is None and rule.window is None
    if q.device.type == "cpu" and fits and (causal or are_many):
        mask = None if bias is None else bias.expand(q.shape[0], -1, q.shape[2], -1)
        out, lse = flash_attention(q, k, v, causal=causal, mask=mask, scale=rule.factor)
        return PartialAttention(out.float(), lse.float())
    if causal:
        places = torch.arange(k.shape[2], device=q.device)[None]
        positions = places, places
    capped_on_cpu = q.device.type == "cpu" and rule.cap is not None
    max_logits = _MOST_CAPPED if capped_on_cpu else _MOST_LOGITS
    n = max(1, max_logits // (q.shape[0] * q.shape[1] * k.shape[2]))
    chunks = []
    for start in range(0, q.shape[2], n):
        chunk, keys = slice(start, start + n), slice(None)
        if causal:
            first = 0 if rule.window is None else max(0, start - rule.window + 1)
            keys = slice(first, start + n)
        chunk_bias = bias
        if bias is not None and bias.shape[2] > 1:
            chunk_bias = bias[:, :, chunk]
        if rule.window is not None or causal:
            assert positions is not None
            age = _ages(positions[0][:, chunk], positions[1][:, keys])
            hidden = age < 0 if causal else torch.zeros_like(age, dtype=torch.bool)
            if rule.window is not None:
                hidden |= age >= rule.window
            hides = torch.zeros_like(hidden, dtype=q.dtype).masked_fill_(hidden, float("-inf"))
            chunk_bias = hides if chunk_bias is None else chunk_bias + hides
        chunks.append(
            _attend_by_matmul(q[:, :, chunk], k[:, :, keys], v[:, :, keys], rule, chunk_bias)
        )
    if len(chunks) == 1:
        return chunks[0]
    return PartialAttention(
        torch.cat([chunk.out for chunk in chunks], 2),
        torch.cat([chunk.lse for chunk in chunks], 2),
    )


def _ages(
    queries: Int[Tensor, "#group n_q"], keys: Int[Tensor, "#group n_k"]
) -> Int[Tensor, "group 1 n_q n_k"]:
    """Return how many positions each key lies before each query."""
    return (queries[:, :, None] - keys[:, None])[:, None]


def _attend_by_matmul(
    q: Float[Tensor, "group head n_q d_head"],
    k: Float[Tensor, "group head n_k d_head"],
    v: Float[Tensor, "group head n_k d_value"],
    rule: AttentionRule,
    bias: Float[Tensor, "#group #head #n_q n_k"] | None,
) -> PartialAttention:
    """Compute attention by matrix products; the logits of all queries are held at once."""
    # In place throughout: the logits are the largest thing here.
    logits = _multiply_in_float32(q, k).mul_(rule.factor)
    if rule.cap is not None:
        logits.div_(rule.cap).tanh_().mul_(rule.cap)
    if bias is not None:
        logits.add_(bias)
    highest = logits.amax(-1, keepdim=True)
    if rule.window is not None:  # minus infinity if all keys are hidden
        highest.clamp_(min=torch.finfo(highest.dtype).min)
    weights = logits.sub_(highest).exp_()
    total = weights.sum(-1, keepdim=True)
    if rule.window is not None:  # 0 if all keys are hidden, else at least 1
        total.clamp_(min=1)
    # Divided last, where rounding errs least; first in float16, where long sums would overflow.
    if v.dtype == torch.float16:
        out = (weights.div_(total).to(v.dtype) @ v).float()
    else:
        out = (weights.to(v.dtype) @ v).float().div_(total)
    return PartialAttention(out, highest.add_(total.log_())[..., 0])


def _multiply_in_float32(
    q: Float[Tensor, "group head n_q d_head"], k: Float[Tensor, "group head n_k d_head"]
) -> Float[Tensor, "group head n_q n_k"]:
    """Return the products of queries and keys in float32, without rounding to 16 bits first."""
    if q.dtype not in _HALF:
        return (q @ k.transpose(-1, -2)).float()
    shape = (*q.shape[:3], k.shape[2])
    q, k = q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)
    if multiplies_to_float32(q.device):
        return torch.bmm(q, k, out_dtype=torch.float32).view(shape)
    # Without such a product, the keys are converted.
    n = max(1, (_CONVERTED_ON_CPU if q.device.type == "cpu" else _CONVERTED) // k[0].numel())
    q = q.float()
    if n >= len(k):
        return torch.bmm(q, k.float()).view(shape)
    # Into one buffer: new memory would cost more than the products.
    buffer = torch.empty_like(k[:n], dtype=torch.float32)
    logits = q.new_empty(len(q), q.shape[1], k.shape[2])
    for start in range(0, len(k), n):
        chunk = slice(start, min(start + n, len(k)))
        keys = buffer[: chunk.stop - start].copy_(k[chunk])
        torch.bmm(q[chunk], keys, out=logits[chunk])
    return logits.view(shape)


def merge(one: PartialAttention, two: PartialAttention) -> PartialAttention:
    """Merge the attention to two sets of keys into the attention to both together."""
    lse = torch.logaddexp(one.lse, two.lse)
    out = one.out * (one.lse - lse).exp_()[..., None]
    out += two.out * (two.lse - lse).exp_()[..., None]
    return PartialAttention(out, lse)


def finish(
    attention: PartialAttention, sinks: Float[Tensor, "..."] | None, dtype: torch.dtype
) -> Float[Tensor, "*q d_value"]:
    """Return the output of attention to all keys; `sinks` take a share of the weights.

    `sinks` are the logits of one more key for each query, broadcast.
    """
    out = attention.out
    if sinks is not None:
        out *= torch.sigmoid(attention.lse - sinks.float())[..., None]
    return out.to(dtype)


@dataclass(frozen=True)
class _Blocks:
    """Blocks whose attention is computed together, padded to one size.

    Attributes:
        places: index in the packed row of each block's tokens; pads repeat the first token.
        positions: position of each of these tokens in the sequences that it belongs to.
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
        """Return the attention output of the piece's tokens over the row's tokens that they see."""
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
        """Merge the attention of some queries to all of these keys into `out` and `lse`, in place.

        `keys` is a range of the row, `queries` a range of the piece.
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
    """Count the pairs of a query and a key that attention computes over a packed row, per layer."""
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
    """Whether a segment's attention is computed alone (causal), not in a batch of blocks."""
    return segment.sees is None and (is_trunk or segment.n > _LONG)


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
        sees[row, :, 0] = True  # repetitions see something, so that nothing is NaN
        own = torch.ones(segment.n, segment.n, dtype=torch.bool).tril()
        if segment.sees is not None:
            own = torch.from_numpy(segment.sees)
        sees[row, : segment.n, : segment.n] = own
    bias = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, float("-inf"))
    rows, columns = real.nonzero(as_tuple=True)
    tensors = (places, torch.from_numpy(positions)[places], bias[:, None], rows, columns)
    return _Blocks(*(tensor.to(device) for tensor in tensors))
