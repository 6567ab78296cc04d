"""Rows that are read in pieces give what they give when they are read at once."""

import dataclasses
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import layerroles as lr
from layerroles.engine.fused.prefill import cut_pieces
from layerroles.engine.fused.prefix_packing import pack_row, pack_rows
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.planning.memory import Budget
from tests.support.random_models import random_model
from tests.support.tiers import mark_rest

SHARED = "".join(random.Random(0).choices("abcdefgh ", k=150))
# A long beginning that is shared, a long text alone, and short ones.
TEXTS = [*(SHARED + f" and {n}, then" for n in range(4)), SHARED[::-1] + "!" * 60, "a", "of it"]
PAIRS = [(text, ending) for text in TEXTS for ending in (" more", " and no more")]
ASKED: list[tuple[str, dict[str, Any]]] = [(text, {"max_gen_toks": 6}) for text in TEXTS]


@pytest.mark.parametrize("most", [256, 300, 500])
@pytest.mark.parametrize("n", [1, 6, 40])
def test_a_row_is_cut_where_it_may_be(n: int, most: int) -> None:
    drawn = random.Random(n)
    shared = tuple(drawn.choices(range(50), k=400))
    asked = [(*shared, *drawn.choices(range(50), k=drawn.randrange(1, 90))) for _ in range(n)]
    asked += [tuple(drawn.choices(range(50, 90), k=drawn.randrange(1, 500))) for _ in range(n)]
    packed = pack_row(asked)
    found = cut_pieces(packed, most)
    assert [piece.start for piece in found] == [0, *(piece.stop for piece in found[:-1])]
    assert found[-1].stop == len(packed.tokens)
    cuts = {piece.start for piece in found}
    for segment in packed.segments:
        inside = cuts & set(range(segment.start + 1, segment.start + segment.n))
        assert not inside or segment.sees is None
    # A block is not cut; it may be as large as a block can be.
    assert all(piece.stop - piece.start <= max(most, 256) for piece in found)
    assert len(found) > 1
    assert cut_pieces(packed, len(packed.tokens)) == [slice(0, len(packed.tokens))]


@pytest.mark.parametrize(
    "architecture",
    mark_rest("matrix", ["llama", "gpt2", "qwen3", "neox", "olmo2"], first=["llama", "neox"]),
)
def test_answers_are_the_same(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, donor = random_model(architecture), random_model(architecture, seed=1)
    reference = lr.Reference(["a reference of some words", "and another one, a bit longer"])
    conditions = [
        lr.Condition({}),
        *lr.each_layer(model, lr.Skip()),
        *lr.each_layer(model, lr.Skip(), at="after_first", layers=[1]),
        *lr.each_head(model, lr.Zero(), layers=[1]),
        lr.Condition({lr.Site(0): lr.Noise(reference=reference)}),
        lr.Condition({lr.Site(1): lr.Resample(reference=reference)}),
        lr.Condition({lr.Site(1): lr.Swap(donor)}),
        lr.Condition({lr.Site(0): lr.Skip(), lr.Site(2): lr.Zero()}),
        lr.Condition({lr.Site(1): lr.Skip()}, at="last"),
    ]
    lengths: list[int] = []
    run = Twin.run

    def noted(self: Twin, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        lengths.append(len(tokens))
        return run(self, tokens, *rest)

    monkeypatch.setattr(Twin, "run", noted)
    monkeypatch.setattr(Budget, "row_tokens", lambda *_args, **_options: 4096)

    def answers(executor: Any) -> tuple[Any, ...]:
        engine = lr.Engine(model, executor=executor)
        found = engine.loglikelihood(PAIRS, conditions)
        return found.logprob, found.changed, engine.generate_until(ASKED, conditions)

    at_once = answers("fused")
    assert max(lengths) > 300
    lengths.clear()
    monkeypatch.setattr(Budget, "piece_tokens", lambda _self, _shape, n, _kept=0: min(n, 128))
    monkeypatch.setattr("layerroles.engine.fused.prefill.BLOCK", 128)
    cut = answers("fused")
    assert max(lengths) <= 256
    for one in (at_once, answers("plain")):
        np.testing.assert_allclose(cut[0], one[0], atol=1e-4)
        np.testing.assert_array_equal(cut[1], one[1])
        assert cut[2] == one[2]


def test_what_does_not_fit_is_read_in_pieces() -> None:
    shape = Twin(random_model("llama")).shape
    wide = dataclasses.replace(shape, inner=10 * shape.inner)  # as compared with keys and values
    budget = Budget(2**26)
    n = budget.row_tokens(wide, keys=True)
    assert budget.piece_tokens(wide, n) == n
    assert 256 <= budget.piece_tokens(wide, 2 * n) < 2 * n
    # The more is kept of each token, the less is read at a time.
    assert budget.piece_tokens(wide, 2 * n, kept=2**22) < budget.piece_tokens(wide, 2 * n)
    # Where what is kept between pieces is more than they save, it is read at once.
    many = dataclasses.replace(shape, kv=(100 * shape.inner * shape.n_bytes,))
    assert budget.piece_tokens(many, 2**16) == 2**16


def test_a_budget_that_is_too_small_is_kept_to_by_reading_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model("llama")
    shape = Twin(model).shape
    wide = dataclasses.replace(shape, inner=100 * shape.inner)
    monkeypatch.setattr(Twin, "_measure_shape", lambda _twin: wide)
    monkeypatch.setattr("layerroles.engine.planning.memory.SHORTEST_PIECE", 128)
    monkeypatch.setattr("layerroles.engine.fused.prefill.BLOCK", 128)
    conditions = [lr.Condition({}), *lr.each_layer(model, lr.Skip())]
    pairs = [(TEXTS[0], " more"), (TEXTS[1], " more")]
    n_all = len(TEXTS[0]) + 5
    # So that 0.4 of it holds half of the text.
    small = int(n_all / 2 * wide.inner * wide.n_bytes / 0.4)
    engine = lr.Engine(model, executor="fused", memory=max(2**20, small))
    (group,) = engine.plan(pairs, conditions).groups
    assert group.piece < group.n_tokens
    assert group.n_bytes < lr.Engine(model, memory="1GB").plan(pairs, conditions).n_bytes
    expected = lr.Engine(model, executor="plain").loglikelihood(pairs, conditions).logprob
    found = engine.loglikelihood(pairs, conditions).logprob
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # What is read together does not depend on which conditions are left.
    alone = engine.loglikelihood(pairs, conditions[2:3]).logprob
    np.testing.assert_array_equal(alone[0], found[2])


def test_rows_over_max_tokens_hold_only_sequences_that_add_few_tokens() -> None:
    long = tuple(range(1000))
    asked = [(*long, 5000 + n, *range(10)) for n in range(8)] + [(7000, n) for n in range(5)]
    rows = pack_rows(asked, max_tokens=300)
    assert sorted(ids for row in rows for ids in row.paths) == sorted(asked)
    assert sum(len(row.tokens) for row in rows) < 1200
    assert all(len(row.tokens) < 1300 for row in rows)
    assert all(7000 not in row.tokens for row in rows if len(row.tokens) > 300)  # no strangers
    alike = pack_rows([(*long, *range(2000 + 900 * n, 2900 + 900 * n)) for n in range(3)], 300)
    assert len(alike) == 3
    assert all(one <= two for one, two in pairwise(len(row.tokens) for row in alike))
