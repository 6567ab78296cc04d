"""Compute attention to parts of the keys that a token sees, and merge the results.

A token sees (attends to) the keys of its own segment (a part of a packed row, see
`prefix_packing`), of the trunks above it (segments that hold shared prefixes), and of the tokens
that its row has generated. Attention to each part is computed in one operation for all tokens that
share the part's keys and values. The results are merged by the logarithms of their softmax sums,
which is exact (as in flash decoding).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerroles.private_apis import flash_attention, multiplies_to_float32

_HALF = (torch.bfloat16, torch.float16)
# The most attention logits that matrix products hold at once; fewer if the logits are capped on a
# CPU, since the memory plan does not count these.
MOST_LOGITS, _MOST_CAPPED = 2**24, 2**22
# With at most this many keys, or this many queries that share them, matrix products with a softmax
# are faster than the CPU's fused kernel. Not so in 16 bits (where the logits are formed in float32)
# for several queries, if groups times heads are at most `FEW_HEADS`.
_FEW_KEYS, _FEW_QUERIES, FEW_HEADS = 48, 16, 48
# How many numbers of 16-bit keys are converted to float32 at a time: on CPUs so few that they stay
# in the cache.
CONVERTED_ON_CPU, _CONVERTED = 2**20, 2**24


# Positions in the text: of the queries and of the keys, `[group n]` each; if there is a single
# group, it stands for all.
Positions = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AttentionRule:
    """The parameters of a layer's attention.

    Attributes:
        factor: factor by which the products of queries and keys become logits.
        cap: the logits become `cap * tanh(logits / cap)` (Gemma-2); None leaves them unchanged.
        window: how many of the latest positions a query sees, its own included; None for all.
        sinks: for each head, the logit of an additional key without a value (gpt-oss), or None.
    """

    factor: float
    cap: float | None = None
    window: int | None = None
    sinks: Float[Tensor, " head"] | None = None

    def for_texts_of(self, longest: int) -> "AttentionRule":
        """Return the rule for texts of up to `longest` tokens; without a window if they fit it."""
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
    """Compute the attention of queries to some of their keys, a part of the attention to all.

    `merge` combines the parts, and `finish` adds attention sinks. A group is a set of queries that
    attend to the same keys. A query whose keys are all outside of the window gets an output of 0,
    which has a weight of 0 in `merge`. Without a window, each query has to see a key.

    Args:
        q: queries.
        k: keys, with as many heads as the queries.
        v: values.
        rule: the parameters of the layer's attention; its sinks are not used here.
        bias: added to the logits: 0 where a query sees a key, minus infinity where not; None if all
            keys are seen. Not combined with `causal`.
        causal: query i sees keys 0 to i; needs as many keys as queries.
        positions: the positions of queries and keys; needed if the rule has a window; not used if
            `causal`.
    """
    are_many = k.shape[2] > _FEW_KEYS and q.shape[2] > _FEW_QUERIES
    if q.dtype in _HALF and q.shape[2] > 1:
        are_many |= q.shape[0] * q.shape[1] <= FEW_HEADS
    # The fused kernel supports no other cases.
    fits = q.shape[3] == v.shape[3] and rule.cap is None and rule.window is None
    if q.device.type == "cpu" and fits and (causal or are_many):
        mask = None if bias is None else bias.expand(q.shape[0], -1, q.shape[2], -1)
        out, lse = flash_attention(q, k, v, causal=causal, mask=mask, scale=rule.factor)
        return PartialAttention(out.float(), lse.float())
    if causal:
        places = torch.arange(k.shape[2], device=q.device)[None]
        positions = places, places
    capped_on_cpu = q.device.type == "cpu" and rule.cap is not None
    max_logits = _MOST_CAPPED if capped_on_cpu else MOST_LOGITS
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
        if positions is not None and (causal or rule.window is not None):
            ages = _ages(positions[0][:, chunk], positions[1][:, keys])
            hidden = ages >= (rule.window or k.shape[2])
            if causal:
                hidden |= ages < 0
            hiding = torch.zeros_like(hidden, dtype=q.dtype).masked_fill_(hidden, float("-inf"))
            chunk_bias = hiding if chunk_bias is None else chunk_bias + hiding
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
    # Operations are in place, since the logits are the largest tensor here.
    logits = _multiply_in_float32(q, k).mul_(rule.factor)
    if rule.cap is not None:
        logits.div_(rule.cap).tanh_().mul_(rule.cap)
    if bias is not None:
        logits.add_(bias)
    highest = logits.amax(-1, keepdim=True)
    if rule.window is not None:  # it is minus infinity where all keys are hidden
        highest.clamp_(min=torch.finfo(highest.dtype).min)
    weights = logits.sub_(highest).exp_()
    total = weights.sum(-1, keepdim=True)
    if rule.window is not None:  # it is 0 where all keys are hidden, else at least 1
        total.clamp_(min=1)
    # Dividing last has the smallest rounding error; in float16, long sums would then overflow.
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
    n = max(1, (CONVERTED_ON_CPU if q.device.type == "cpu" else _CONVERTED) // k[0].numel())
    q = q.float()
    if n >= len(k):
        return torch.bmm(q, k.float()).view(shape)
    # One buffer is reused: allocating memory for each chunk would take longer than the products.
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
    """Return the output of attention to all keys, in `dtype`.

    `sinks` holds the logit of one more key (an attention sink), broadcast over queries. It takes a
    share of each query's weights and adds no value. None if the layer has no sinks.
    """
    out = attention.out
    if sinks is not None:
        out = out * torch.sigmoid(attention.lse - sinks.float())[..., None]
    return out.to(dtype)
