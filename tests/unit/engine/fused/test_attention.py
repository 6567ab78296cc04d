"""Attention to a part is a softmax over its keys, whichever way it is computed."""

import pytest
import torch

from layerroles.engine.fused import attention
from layerroles.engine.fused.attention import LogitScale, PartialAttention, attend_partially

SCALE = LogitScale(0.3)
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
    """By the fused kernel or by products, of all queries at once, of some, of one."""
    monkeypatch.setattr(attention, "_MOST_LOGITS", most)
    held = []
    piece = attention._attend_by_matmul

    def noting(q: torch.Tensor, k: torch.Tensor, *others: object) -> PartialAttention:
        held.append(q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2])
        return piece(q, k, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "_attend_by_matmul", noting)
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
