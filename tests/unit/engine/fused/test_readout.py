"""What rows look at while they decode, and which token is the likeliest."""

import random

import pytest
import torch

from layerroles.engine import decode
from layerroles.engine.decode import choose_greedy
from layerroles.engine.fused.kv_cache import locate_contexts
from layerroles.engine.fused.packing import pack_row
from layerroles.engine.fused.readout import _sum_logits


@pytest.mark.parametrize("seed", range(5))
def test_contexts_see_their_trunks_and_their_own(seed: int) -> None:
    drawn = random.Random(seed)

    def some(n: int) -> tuple[int, ...]:
        return tuple(drawn.choices(range(50), k=n))

    # Three beginnings; at 100 tokens some turn off that are only scored, and part the trunks.
    starts = [some(drawn.randrange(200, 300)) for _ in range(3)]
    asked = [start + some(drawn.randrange(20, 60)) for start in starts for _ in range(6)]
    others = [start[:100] + some(90) for start in starts for _ in range(6)]
    packed = pack_row([*asked, *others])
    contexts = locate_contexts(packed, asked, torch.float32, torch.device("cpu"))
    for index, ids in enumerate(asked):
        own = contexts.own[index]
        if contexts.bias is not None:
            own = own[contexts.bias[index] == 0]
        trunks = zip(contexts.trunks, contexts.on_trunk[:, index], strict=True)
        seen = torch.cat([own, *(trunk for trunk, goes_on in trunks if goes_on)])
        assert sorted(seen.tolist()) == sorted(packed.paths[ids].tolist())
        assert contexts.ends[index] == packed.paths[ids][-1]
    # What the same contexts go on from is looked at as one.
    assert len({tuple(row) for row in contexts.on_trunk.tolist()}) == len(contexts.trunks) == 3
    assert {len(packed.trunks(ids)) for ids in asked} == {2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_likeliest_token_is_the_first_of_the_best(dtype: torch.dtype) -> None:
    n = 2 * decode._CHUNK + 5
    logits = torch.randn(n, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[:, [7, 30]] = 9.0
    logits[3, 4], logits[n - 1, 4], logits[5, 6] = float("nan"), float("inf"), float("-inf")
    found = choose_greedy(logits)
    fine = [row for row in range(n) if row not in (3, n - 1)]
    assert set(found.tokens[fine].tolist()) == {7}
    assert found.tokens[n - 1] == 4
    assert [row for row in range(n) if not found.finite[row]] == [3, 5, n - 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_logits_are_summed_up(dtype: torch.dtype, spread: float) -> None:
    logits = (spread * torch.randn(6, 500, generator=torch.Generator().manual_seed(1))).to(dtype)
    sums, best, fine = _sum_logits(logits)
    torch.testing.assert_close(sums.double(), logits.double().logsumexp(-1), atol=1e-5, rtol=1e-6)
    assert torch.equal(best, logits.float().argmax(-1))
    assert fine.all()
    logits[2, 3] = float("nan")
    assert _sum_logits(logits)[2].tolist() == [True, True, False, True, True, True]
