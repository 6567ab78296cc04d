"""Attention to a part is a softmax over its keys, whichever way it is computed."""

import pytest
import torch

from layerroles.engine.fused import partial_attention
from layerroles.engine.fused.partial_attention import (
    AttentionRule,
    PartialAttention,
    attend_partially,
)
from layerroles.private_apis import flash_attention

SCALE = AttentionRule(0.3)
N_GROUPS, N_HEADS, D_HEAD = 5, 2, 8
# By rounding of what is read and of the weights: 8 bits, or 24.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def softmax(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor
) -> PartialAttention:
    logits = SCALE.factor * (q.double() @ k.double().mT) + bias.double()
    return PartialAttention((logits.softmax(-1) @ v.double()).float(), logits.logsumexp(-1).float())


@pytest.mark.parametrize("most", [2**24, 2 * N_GROUPS * N_HEADS * 20, 50])
@pytest.mark.parametrize("biased", ["not", "alike", "each"])
@pytest.mark.parametrize("n_keys", [20, 100])
@pytest.mark.parametrize("n_queries", [3, 40])
@pytest.mark.parametrize("dtype", CLOSE)
def test_it_is_a_softmax(
    dtype: torch.dtype,
    n_queries: int,
    n_keys: int,
    biased: str,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the fused kernel or by products, of all queries and keys at once, of some, of one."""
    monkeypatch.setattr(partial_attention, "MOST_LOGITS", most)
    monkeypatch.setattr(partial_attention, "CONVERTED_ON_CPU", most)
    monkeypatch.setattr(partial_attention, "FEW_HEADS", 0)
    held = []
    piece = partial_attention._attend_by_matmul

    def noting(q: torch.Tensor, k: torch.Tensor, *others: object) -> PartialAttention:
        held.append(q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2])
        return piece(q, k, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(partial_attention, "_attend_by_matmul", noting)
    made = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(N_GROUPS, N_HEADS, n, D_HEAD, generator=made).to(dtype)
        for n in (n_queries, n_keys, n_keys)
    )
    bias = torch.zeros(1 if biased == "alike" else N_GROUPS, 1, n_queries, n_keys, dtype=dtype)
    if biased != "not":
        hidden = torch.rand(bias.shape, generator=made) < 0.3
        hidden[..., 0] = False
        bias.masked_fill_(hidden, float("-inf"))
    found = attend_partially(q, k, v, SCALE, bias=None if biased == "not" else bias)
    wanted = softmax(q, k, v, bias)
    torch.testing.assert_close(found.out, wanted.out, atol=CLOSE[dtype], rtol=CLOSE[dtype])
    torch.testing.assert_close(found.lse, wanted.lse, atol=CLOSE[dtype], rtol=CLOSE[dtype])
    # A query's logits are not parted.
    assert all(n <= max(most, N_GROUPS * N_HEADS * n_keys) for n in held)
    assert bool(held) == (n_queries <= 16 or n_keys <= 48)


# Groups, heads, queries and keys: of blocks, of trunks, of decoded rows, of their contexts.
SHAPES = {
    "blocks": (30, 9, 16, 16),
    "larger blocks": (12, 9, 48, 48),
    "a long block": (2, 9, 128, 128),
    "a trunk, few queries": (1, 3, 12, 600),
    "a trunk, many queries": (1, 3, 300, 400),
    "trunks of conditions": (20, 3, 24, 300),
    "rows": (300, 3, 3, 96),
    "long rows": (60, 3, 3, 400),
    "rows of one head each": (100, 12, 1, 96),
    "generated tokens": (300, 3, 3, 32),
    "contexts": (20, 3, 15, 96),
}


def error(
    found: PartialAttention,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    factor: float,
    bias: torch.Tensor | None,
) -> tuple[float, float]:
    """How far attention is from that in float64: relative error of outputs, of log-sum-exps."""
    logits = factor * (q.double() @ k.double().mT) + (0 if bias is None else bias.double())
    out = logits.softmax(-1) @ v.double()
    return (
        float((found.out - out).norm() / out.norm()),
        float((found.lse - logits.logsumexp(-1)).square().mean().sqrt()),
    )


@pytest.mark.parametrize("scale", [1, 3, 10])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_that_of_the_fused_kernel(dtype: torch.dtype, shape: str, scale: int) -> None:
    made = torch.Generator().manual_seed(1)
    n_groups, n_heads, n_queries, n_keys = SHAPES[shape]
    q, k, v = (
        torch.randn(n_groups, n_heads, n, 64, generator=made).to(dtype)
        for n in (n_queries, n_keys, n_keys)
    )
    bias = torch.zeros(n_groups, 1, n_queries, n_keys, dtype=dtype)
    bias[..., : n_keys // 8] = float("-inf")
    factor = AttentionRule(scale / 8)
    found = attend_partially(q, k, v, factor, bias=bias)
    kernel = PartialAttention(
        *(x.float() for x in flash_attention(q, k, v, causal=False, mask=bias, scale=scale / 8))
    )
    ours, theirs = (error(one, q, k, v, scale / 8, bias) for one in (found, kernel))
    assert ours[0] <= 1.5 * theirs[0] and ours[1] <= 1.5 * theirs[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_float16_does_not_overflow(shape: str) -> None:
    """At logits whose products are beyond what float16 holds (65504)."""
    made = torch.Generator().manual_seed(2)
    n_groups, n_heads, n_queries, n_keys = SHAPES[shape]
    q, k, v = (
        (60 * torch.randn(n_groups, n_heads, n, 64, generator=made)).half()
        for n in (n_queries, n_keys, n_keys)
    )
    assert float((q.float() @ k.float().mT).abs().max()) > 65504
    for factor in (1 / 8, 100 / 8):
        found = attend_partially(q, k, v, AttentionRule(factor))
        assert found.out.isfinite().all() and found.lse.isfinite().all()
        out, lse = error(found, q, k, v, factor, None)
        assert out < 2e-3 and lse < 1e-5 * float(found.lse.abs().max())


def test_a_device_with_products_in_float32_converts_no_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As CUDA since torch 2.8, played by the CPU."""
    calls = []

    def bmm(one: torch.Tensor, two: torch.Tensor, *, out_dtype: torch.dtype) -> torch.Tensor:
        calls.append((one.dtype, two.dtype, out_dtype))
        return multiply(one.to(out_dtype), two.to(out_dtype))

    made, multiply = torch.Generator().manual_seed(3), torch.bmm
    q, k = (torch.randn(5, 2, n, 8, generator=made).bfloat16() for n in (3, 7))
    expected = partial_attention._multiply_in_float32(q, k)
    monkeypatch.setattr(partial_attention, "multiplies_to_float32", lambda _device: True)
    monkeypatch.setattr(torch, "bmm", bmm)
    assert torch.equal(partial_attention._multiply_in_float32(q, k), expected)
    assert calls == [(torch.bfloat16, torch.bfloat16, torch.float32)]


@pytest.mark.parametrize("most", [2**24, 7 * N_HEADS * 40])
@pytest.mark.parametrize("window", [1, 7, 40])
def test_a_window_hides_what_lies_before_it(
    window: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that a query cannot see have no weight; all queries at once, and seven."""
    monkeypatch.setattr(partial_attention, "MOST_LOGITS", most)
    rule, n = AttentionRule(0.3, window=window), 40
    made = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, N_HEADS, n, D_HEAD, generator=made) for _ in range(3))
    places = torch.arange(n)[None]
    age = places[0, :, None] - places[0]
    bias = torch.zeros(n, n).masked_fill((age < 0) | (age >= window), float("-inf"))
    wanted = softmax(q, k, v, bias)
    whole = attend_partially(q, k, v, rule, causal=True)
    later = slice(20, None)
    own = torch.zeros(20, 20).masked_fill(age[later, later] < 0, float("-inf"))[None, None]
    parts = [
        attend_partially(
            q[:, :, later],
            k[:, :, keys],
            v[:, :, keys],
            rule,
            bias=bias,
            positions=(places[:, later], places[:, keys]),
        )
        for keys, bias in ((later, own), (slice(20), None))
    ]
    for found, rows in ((whole, slice(None)), (partial_attention.merge(*parts), later)):
        torch.testing.assert_close(found.out, wanted.out[:, :, rows])
        torch.testing.assert_close(found.lse, wanted.lse[:, :, rows])


def test_a_sink_is_one_more_key_without_a_value() -> None:
    made = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, N_HEADS, n, D_HEAD, generator=made) for n in (3, 9, 9))
    sinks = torch.tensor([[[0.5], [-2.0]]])
    part = attend_partially(q, k, v, SCALE)
    found = partial_attention.finish(part, sinks, torch.float32)
    logits = torch.cat([SCALE.factor * q @ k.mT, sinks[..., None].expand(1, N_HEADS, 3, 1)], -1)
    torch.testing.assert_close(found, logits.softmax(-1)[..., :-1] @ v)
