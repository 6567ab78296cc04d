"""Attention over parts of what a token sees, and how the parts are put together.

What a token sees is split: its own segment, the trunks above it, what it wrote itself. Attention to
each part is computed where the part's keys and values lie, once for all tokens that share them, and
the parts are merged by the logarithms of their softmax sums, which is exact (as in flash decoding).
"""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from layerroles.compat import flash_attention
from layerroles.engine.fused.packing import Packed, Segment

# Block sizes are rounded up to a multiple of this, so that blocks of like size run together.
_ROUND = 16
# A block without branches that is longer runs by itself, each token seeing those before it.
_LONG = 128
# Attention logits that matrix products hold at once; on a processor, where that is so because
# they are capped, fewer, since no plan counts them.
_MOST_LOGITS, _MOST_CAPPED = 2**24, 2**22
# Up to this many keys, or queries that share them, matmuls with a softmax beat the fused kernel.
_FEW_KEYS, _FEW_QUERIES = 48, 16


@dataclass(frozen=True)
class Scoring:
    """How a model turns queries and keys into attention logits.

    Attributes:
        scale: of the products.
        cap: logits are squashed into this range by tanh (Gemma-2), if at all.
    """

    scale: float
    cap: float | None = None


@dataclass(frozen=True)
class Part:
    """Attention to a part of what the queries see.

    Attributes:
        out: the softmax-weighted values, float32.
        lse: the log-sum-exp of the logits, float32.
    """

    out: Float[Tensor, "*q d_value"]
    lse: Float[Tensor, "*q"]


def part(
    q: Float[Tensor, "group head n_q d_head"],
    k: Float[Tensor, "group head n_k d_head"],
    v: Float[Tensor, "group head n_k d_value"],
    score: Scoring,
    *,
    bias: Float[Tensor, "#group #head #n_q n_k"] | None = None,
    causal: bool = False,
) -> Part:
    """Attention of each group's queries to its keys.

    Args:
        q: queries.
        k: keys, as many heads as queries.
        v: values.
        score: how logits are made.
        bias: added to the logits: 0 where a query sees a key, minus infinity where not.
        causal: query i sees keys 0 to i; needs as many keys as queries.
    """
    many = k.shape[2] > _FEW_KEYS and q.shape[2] > _FEW_QUERIES
    alike = q.shape[3] == v.shape[3]  # the kernel knows no others
    if q.device.type == "cpu" and alike and score.cap is None and (causal or many):
        mask = None if bias is None else bias.expand(q.shape[0], -1, q.shape[2], -1)
        out, lse = flash_attention(q, k, v, causal=causal, mask=mask, scale=score.scale)
        return Part(out.float(), lse.float())
    capped = q.device.type == "cpu" and score.cap is not None
    most = _MOST_CAPPED if capped else _MOST_LOGITS
    n = max(1, most // (q.shape[0] * q.shape[1] * k.shape[2]))
    if causal or n < q.shape[2]:
        pieces = []
        for start in range(0, q.shape[2], n):
            some = bias if bias is None or bias.shape[2] == 1 else bias[:, :, start : start + n]
            if causal:
                rows = torch.arange(start, min(start + n, q.shape[2]), device=q.device)
                later = torch.arange(k.shape[2], device=q.device) > rows[:, None]
                some = q.new_zeros(later.shape).masked_fill_(later, float("-inf"))[None, None]
            pieces.append(_piece(q[:, :, start : start + n], k, v, score, some))
        return Part(
            torch.cat([one.out for one in pieces], 2), torch.cat([one.lse for one in pieces], 2)
        )
    return _piece(q, k, v, score, bias)


def _piece(
    q: Float[Tensor, "group head n_q d_head"],
    k: Float[Tensor, "group head n_k d_head"],
    v: Float[Tensor, "group head n_k d_value"],
    score: Scoring,
    bias: Float[Tensor, "#group #head #n_q n_k"] | None,
) -> Part:
    """Attention by matrix products, of as many queries as their logits leave room for."""
    # In place throughout: the logits are the largest thing here.
    logits = (q @ k.transpose(-1, -2)).float().mul_(score.scale)
    if score.cap is not None:
        logits.div_(score.cap).tanh_().mul_(score.cap)
    if bias is not None:
        logits.add_(bias)
    most = logits.amax(-1, keepdim=True)
    weights = logits.sub_(most).exp_()
    total = weights.sum(-1, keepdim=True)
    # Divided last, as rounding has it best, but where sums over many keys would overflow.
    if v.dtype == torch.float16:
        out = (weights.div_(total).to(v.dtype) @ v).float()
    else:
        out = (weights.to(v.dtype) @ v).float().div_(total)
    return Part(out, most.add_(total.log_())[..., 0])


def merged(one: Part, two: Part) -> Part:
    """Attention to both parts together."""
    lse = torch.logaddexp(one.lse, two.lse)
    out = one.out * (one.lse - lse).exp_()[..., None]
    out += two.out * (two.lse - lse).exp_()[..., None]
    return Part(out, lse)


@dataclass(frozen=True)
class _Blocks:
    """Blocks of like size that run together.

    Attributes:
        places: of their tokens in the packed row; a short block repeats its first token.
        bias: what each token sees.
        rows, columns: of `places` where a token stands, not a repetition.
    """

    places: Int[Tensor, "block n"]
    bias: Float[Tensor, "block 1 n n"]
    rows: Int[Tensor, " real"]
    columns: Int[Tensor, " real"]


class Layout:
    """Who sees whom in a packed row, or in a piece of it; computes attention, layer by layer.

    Args:
        packed: the row.
        dtype: of the queries.
        device: where they lie.
        piece: whose tokens ask; by default all.
    """

    def __init__(
        self, packed: Packed, dtype: torch.dtype, device: torch.device, piece: slice | None = None
    ) -> None:
        piece = piece or slice(0, len(packed.tokens))
        self._start: int = piece.start
        self._end: int = piece.stop
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
                by_size.setdefault(_rounded(segment.n), []).append(segment)
        self._blocks = [_blocks(n, found, dtype, device) for n, found in by_size.items()]

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "head asked d_head"],
        k: Float[Tensor, "kv_head pos d_head"],
        v: Float[Tensor, "kv_head pos d_value"],
        score: Scoring,
    ) -> Float[Tensor, "asked head d_value"]:
        """Attention of the piece's tokens to what they see of the row's."""
        n_heads, n, _ = q.shape
        share = n_heads // k.shape[0]
        out = torch.empty(n_heads, n, v.shape[2], dtype=torch.float32, device=q.device)
        lse = torch.empty(n_heads, n, dtype=torch.float32, device=q.device)
        for segment in self._causal:
            here = slice(max(segment.start, self._start), min(segment.start + segment.n, self._end))
            where = self._asked(here)
            own_q, own_k, own_v = (
                q[None, :, where],
                _wide(k[:, here], share),
                _wide(v[:, here], share),
            )
            found = part(own_q, own_k[None], own_v[None], score, causal=True)
            out[:, where], lse[:, where] = found.out[0], found.lse[0]
            if here.start > segment.start:
                self._look_at(slice(segment.start, here.start), where, q, k, v, score, out, lse)
        for blocks in self._blocks:
            asked = blocks.places - self._start
            own_q = q[:, asked].transpose(0, 1)
            own_k, own_v = (_wide(x[:, blocks.places], share).transpose(0, 1) for x in (k, v))
            found = part(own_q, own_k, own_v, score, bias=blocks.bias)
            places = asked[blocks.rows, blocks.columns]
            out[:, places] = found.out[blocks.rows, :, blocks.columns].transpose(0, 1)
            lse[:, places] = found.lse[blocks.rows, :, blocks.columns].transpose(0, 1)
        for trunk in self._trunks:
            end = trunk.start + trunk.n
            below = slice(max(end, self._start), min(trunk.below, self._end))
            where = self._asked(below)
            self._look_at(slice(trunk.start, end), where, q, k, v, score, out, lse)
        return out.transpose(0, 1).to(q.dtype)

    def _asked(self, where: slice) -> slice:
        """Where places of the row stand among the piece's."""
        return slice(where.start - self._start, where.stop - self._start)

    def _look_at(
        self,
        keys: slice,
        where: slice,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        score: Scoring,
        out: Tensor,
        lse: Tensor,
    ) -> None:
        """Let some queries attend to all of these keys as well, in addition to those so far."""
        share = q.shape[0] // k.shape[0]
        # Concatenate the queries that share a key head, so that its keys are read once.
        asked = rearrange(q[:, where], "(kv share) n d -> 1 kv (share n) d", share=share)
        found = part(asked, k[None, :, keys], v[None, :, keys], score)
        both = merged(
            Part(out[:, where], lse[:, where]),
            Part(
                rearrange(found.out, "1 kv (share n) d -> (kv share) n d", share=share),
                rearrange(found.lse, "1 kv (share n) -> (kv share) n", share=share),
            ),
        )
        out[:, where], lse[:, where] = both.out, both.lse


def _wide(x: Float[Tensor, "kv_head *pos d"], share: int) -> Float[Tensor, "head *pos d"]:
    """Repeat keys or values for each query head that reads them."""
    return repeat(x, "kv ... d -> (kv share) ... d", share=share)


def n_pairs(packed: Packed) -> int:
    """Pairs of a query and a key that attention over a packed row computes."""
    trunks, total = packed.all_trunks, 0
    for index, segment in enumerate(packed.segments):
        if index in trunks:
            total += segment.n * (segment.below - segment.start - segment.n)
        if _runs_alone(segment, is_trunk=index in trunks):
            total += segment.n * (segment.n + 1) // 2
        else:
            total += _rounded(segment.n) ** 2
    return total


def _runs_alone(segment: Segment, *, is_trunk: bool) -> bool:
    """Whether a segment is not run together with blocks of like size."""
    return segment.sees is None and (is_trunk or segment.n > _LONG)


def _rounded(n: int) -> int:
    """The size of the blocks that a block of `n` tokens runs together with."""
    return -n // _ROUND * -_ROUND


def _blocks(n: int, segments: list[Segment], dtype: torch.dtype, device: torch.device) -> _Blocks:
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
    found = (places, bias[:, None], rows, columns)
    return _Blocks(*(tensor.to(device) for tensor in found))
