"""What rows look at while they decode, and which token is the likeliest."""

import random
from string import ascii_lowercase, printable

import pytest
import torch
from transformers.models.gptj import modeling_gptj

import layerroles as lr
from layerroles.engine import greedy_decoding
from layerroles.engine.fused.context_kv_extraction import locate_contexts
from layerroles.engine.fused.executor import Fused
from layerroles.engine.fused.prefix_packing import pack_row
from layerroles.engine.fused.readout import _replace_in_sums, _summarize_logits, choose_next
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.greedy_decoding import choose_greedy, highest_tokens
from layerroles.engine.planning.memory import Budget
from layerroles.engine.requests import collect_answers, encode_scored
from tests.support.families import family_model
from tests.support.random_models import random_model


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


def test_a_trunk_of_one_context_counts_as_its_own_tokens() -> None:
    """Attention to a trunk takes operations of its own, which pay only if contexts share it."""
    shared, one, two = tuple(range(40)), tuple(range(100, 200)), tuple(range(200, 300))
    asked = [shared + one + (1,) * 30, shared + two + (1,) * 30]
    endings = [shared + start + (n,) * 90 for start in (one, two) for n in (2, 3)]
    packed = pack_row([*asked, *endings])
    assert [len(packed.trunks(ids)) for ids in asked] == [2, 2]
    contexts = locate_contexts(packed, asked, torch.float32, torch.device("cpu"))
    assert [len(trunk) for trunk in contexts.trunks] == [40]
    assert contexts.own.shape == (2, 130)
    alone = locate_contexts(packed, asked[:1], torch.float32, torch.device("cpu"))
    assert not alone.trunks and alone.own.shape == (1, 170)
    assert alone.own[0].tolist() == packed.paths[asked[0]].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_likeliest_token_is_the_first_of_the_best(dtype: torch.dtype) -> None:
    n = 2 * greedy_decoding._CHUNK + 5
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
@pytest.mark.parametrize("n_likely", [1, 8])
def test_logits_are_summed_up(dtype: torch.dtype, spread: float, n_likely: int) -> None:
    logits = (spread * torch.randn(6, 500, generator=torch.Generator().manual_seed(1))).to(dtype)
    sums, likely, fine = _summarize_logits(logits, n_likely)
    torch.testing.assert_close(sums.double(), logits.double().logsumexp(-1), atol=1e-5, rtol=1e-6)
    if n_likely == 1:
        assert torch.equal(likely[:, 0], logits.float().argmax(-1))
    assert torch.equal(logits.gather(1, likely).amax(-1), logits.amax(-1))
    assert fine.all()
    logits[2, 3] = float("nan")
    assert _summarize_logits(logits, n_likely)[2].tolist() == [True, True, False, True, True, True]


def test_exact_logits_take_the_place_of_rounded_ones_in_a_sum() -> None:
    exact = 6 * torch.randn(4, 50, generator=torch.Generator().manual_seed(2))
    exact[3, 7] = 60.0  # nearly all of the probability
    mixed = exact.bfloat16().float()
    rows, tokens = torch.tensor([0, 0, 1, 3]), torch.tensor([3, 8, 3, 7])
    sums, rounded = mixed.logsumexp(-1), mixed[rows, tokens]
    found = _replace_in_sums(sums, rows, rounded, exact[rows, tokens])
    mixed[rows, tokens] = exact[rows, tokens]
    torch.testing.assert_close(found, mixed.logsumexp(-1), atol=1e-5, rtol=1e-6)
    assert found[2] == sums[2]


GPTJ = pytest.param(
    "gptj",
    marks=pytest.mark.skipif(
        not hasattr(modeling_gptj, "ALL_ATTENTION_FUNCTIONS"),
        reason="its attention goes through transformers' interface from 5.24 on",
    ),
)


@pytest.mark.parametrize(
    "family", ["gpt2", "llama", "gemma2", "cohere", GPTJ, "granite", "phi", "deepseek_v3"]
)
def test_a_tokens_logit_is_that_of_the_model(family: str) -> None:
    """With the biases, scales and caps that an architecture has."""
    twin = Twin(family_model(family)[1])
    stream = 4 * torch.randn(6, twin.shape.d_model, generator=torch.Generator().manual_seed(3))
    tokens = torch.tensor([1, 4, 9, 1, 30, 7])
    with torch.inference_mode():
        found = twin.token_logits(stream, tokens)
        expected = twin.logits(stream)[torch.arange(6), tokens]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_letters_that_tie_in_bfloat16_do_not_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama", dtype="bfloat16")
    pairs = [(f"question {n}: ", letter) for n in range(40) for letter in ascii_lowercase]
    requests = encode_scored(model, pairs)

    def score(exact: bool) -> torch.Tensor:
        with monkeypatch.context() as patched:
            if not exact:
                patched.setattr(Twin, "rounds_logits", False)
            fused = Fused(Twin(model), {}, Budget(2**28))
            (scores,) = collect_answers(fused.answer([requests], [lr.Condition({})]))
        return torch.tensor([one.logprob for one in scores]).reshape(40, 26)

    def count_ties(scores: torch.Tensor) -> int:
        return sum(len(row.unique()) < len(row) for row in scores)

    rounded, exact = score(exact=False), score(exact=True)
    assert count_ties(rounded) >= 5
    assert count_ties(exact) == 0
    # Differences between letters change by no more than rounding of the two logits.
    apart = [scores[:, :1] - scores for scores in (rounded, exact)]
    assert float((apart[0] - apart[1]).abs().max()) < 2**-7 * 2
    assert (exact < 0).all()


@pytest.mark.parametrize("d_vocab", [40, 1023, 1024, 1025, 5000])
def test_the_highest_of_many_logits_are_found(d_vocab: int) -> None:
    made = torch.Generator().manual_seed(4)
    logits = torch.stack([torch.randperm(d_vocab, generator=made).float() for _ in range(7)])
    found = highest_tokens(logits, 4)
    assert logits.gather(1, found).sort().values.tolist() == [[*range(d_vocab - 4, d_vocab)]] * 7
    logits[2] = float("-inf")  # as of a token that a model forbids
    logits[2, [3, 9]] = 0.0
    assert {3, 9} <= set(highest_tokens(logits, 4)[2].tolist()) <= set(range(d_vocab))
    assert highest_tokens(logits[:, :3], 4).tolist() == [[0, 1, 2]] * 7


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_next_token_is_the_likeliest_in_float32(family: str) -> None:
    model = random_model(family, dtype="bfloat16")
    twin = Twin(model)
    made = torch.Generator().manual_seed(5)
    stream = torch.randn(600, twin.shape.d_model, generator=made).bfloat16()
    head = twin.model.get_output_embeddings().weight
    with torch.inference_mode():
        found = choose_next(twin, stream)
        rounded = choose_greedy(twin.logits(stream))
    exact = stream.double() @ head.double().mT  # caps and scales keep the order
    best = exact.amax(-1)
    assert torch.equal(found.tokens, exact.argmax(-1))
    assert found.finite.all()
    # As the model rounds its logits, some other tokens would be chosen.
    other = rounded.tokens != found.tokens
    assert other.sum() >= 3
    assert (exact[other].gather(1, rounded.tokens[other][:, None])[:, 0] < best[other]).all()
    stream[3, 0] = float("nan")
    with torch.inference_mode():
        assert choose_next(twin, stream).finite.logical_not().nonzero().tolist() == [[3]]


def test_a_continuation_is_greedy_if_it_would_be_written() -> None:
    """In bfloat16 too, where the model's own logits tie."""
    model = random_model("llama", dtype="bfloat16")
    contexts = [f"question {n}:" for n in range(60)]
    engine = lr.Engine(model, executor="fused")
    conditions = [lr.Condition({}), *lr.each_layer(model, lr.Skip())]
    written = engine.generate_until([(text, {"max_gen_toks": 1}) for text in contexts], conditions)
    pairs = [(text, letter) for text in contexts for letter in printable]
    greedy = engine.loglikelihood(pairs, conditions).is_greedy
    for texts, row in zip(written, greedy, strict=True):
        found = [printable[place] for place in row.reshape(60, -1).nonzero()[1]]
        expected = [text for text in texts if text and text in printable]
        assert len(expected) > 10
        assert found == expected
