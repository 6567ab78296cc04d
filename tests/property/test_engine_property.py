"""Answers do not depend on the order of requests, the conditions or the memory budget."""

import string
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import layerroles as lr
from layerroles.ablations import At, Condition, resolve_references
from layerroles.engine.fused.executor import Fused
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.planning.memory import Budget
from layerroles.engine.reference_executor import Plain
from layerroles.engine.requests import collect_answers, encode_scored, encode_written
from tests.support.block_sizes import blocks_as_they_are, small_blocks
from tests.support.random_models import random_model
from tests.support.scale import Scale

Size = Callable[[], AbstractContextManager[object]]

# None begins as a question does: a donor's write would equal it up to rounding.
REFERENCE = lr.Reference(["Some text", "Another text"])

texts = st.text(alphabet=string.ascii_lowercase + " ", max_size=12)
starts = st.sampled_from(["", "s", "shared beginning of some tokens ", "shared beginning " * 6])
contexts = st.builds(str.__add__, starts, st.text(alphabet="ab ", max_size=20))
parts = st.builds(lr.Site, st.integers(0, 2), st.sampled_from(["block", "attn", "mlp"]))
sites = st.one_of(
    parts,
    st.builds(lr.Site, st.integers(0, 2), st.just("head"), st.integers(0, 3)),
    st.builds(lr.Site, st.integers(0, 2), st.just("kv_group"), st.integers(0, 1)),
    st.builds(lr.Site, st.integers(0, 2), st.just("stream")),
)
ablations = st.sampled_from(
    [
        lr.Zero(),
        lr.Mean(REFERENCE),
        lr.Mean(REFERENCE, per_position=True),
        lr.Noise(0.5, REFERENCE),
        lr.Resample(REFERENCE),
        Scale(0.5),
    ]
)
swaps = st.deferred(lambda: st.just(lr.Swap(random_model("llama", seed=1))))
edits = st.one_of(
    st.tuples(sites, ablations),
    st.tuples(parts, st.just(lr.Skip()) | swaps),
)


@pytest.fixture(autouse=True, scope="module")
def donor() -> None:
    """Made here: at collection every worker would make it, and strategies may not."""
    random_model("llama", seed=1)


@cache
def twin() -> Twin:
    return Twin(random_model("llama"))


def odd(ctx: lr.EditContext) -> Tensor:
    return ctx.positions % 2 == 1


def condition(edits: list[tuple[lr.Site, lr.Ablation]], at: At) -> Condition:
    """Modules of a donor act at all positions only."""
    everywhere = any(edit.in_place for _, edit in edits)
    return Condition(dict(edits), at="all" if everywhere else at)


conditions = st.builds(
    condition,
    st.lists(edits, min_size=1, max_size=3),
    st.sampled_from(["all", "after_first", "prompt", "generated", "last", odd]),
)
many_conditions = st.lists(conditions, min_size=1, max_size=4).flatmap(
    lambda found: st.permutations([Condition({}), *found])
)
# Of blocks: what short requests share becomes a trunk of small ones only.
sizes = st.sampled_from([blocks_as_they_are, small_blocks])
budgets = st.sampled_from([2**20, 2**22, 2**28]).map(Budget)
relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(
    st.lists(st.tuples(contexts, texts), min_size=1, max_size=8), many_conditions, budgets, sizes
)
def test_log_likelihoods(
    pairs: list[tuple[str, str]], conditions: list[Condition], budget: Budget, size: Size
) -> None:
    # A continuation that is all blanks melts into a context that is; "x" alone is one token.
    model = random_model("llama")
    requests = encode_scored(model, [(context, text + "x") for context, text in pairs])
    references = resolve_references(model, conditions)
    plain = Plain(model, references, batch_size=3)
    expected = collect_answers(plain.answer([requests], conditions))
    with size():
        fused = Fused(twin(), references, budget)
        found = collect_answers(fused.answer([requests], conditions))
    for scores, theirs in zip(found, expected, strict=True):
        for one, two in zip(scores, theirs, strict=True):
            assert abs(one.logprob - two.logprob) < 1e-4
            assert replace(one, logprob=0.0) == replace(two, logprob=0.0)


@relaxed
@given(
    st.lists(st.tuples(contexts, st.integers(1, 9)), min_size=1, max_size=6),
    st.lists(st.sampled_from("abc"), max_size=1),
    many_conditions,
    budgets,
    sizes,
)
def test_texts(
    asked: list[tuple[str, int]],
    until: list[str],
    conditions: list[Condition],
    budget: Budget,
    size: Size,
) -> None:
    model = random_model("llama")
    requests = encode_written(
        model, [(text, {"until": until, "max_gen_toks": most}) for text, most in asked]
    )
    references = resolve_references(model, conditions)
    plain = Plain(model, references, batch_size=1, use_cache=False)
    expected = collect_answers(plain.answer([requests], conditions))
    with size():
        fused = Fused(twin(), references, budget)
        assert collect_answers(fused.answer([requests], conditions)) == expected


@relaxed
@given(
    st.lists(st.tuples(contexts, texts), min_size=1, max_size=5),
    st.lists(st.tuples(contexts, st.integers(1, 6)), min_size=1, max_size=4),
    many_conditions,
    budgets,
    sizes,
)
@pytest.mark.matrix
def test_both_verbs_at_once(
    pairs: list[tuple[str, str]],
    asked: list[tuple[str, int]],
    conditions: list[Condition],
    budget: Budget,
    size: Size,
) -> None:
    model = random_model("llama")
    scores = encode_scored(model, [(context, text + "x") for context, text in pairs])
    texts = encode_written(model, [(text, {"max_gen_toks": most}) for text, most in asked])
    # A context that is scored and gone on from is read once.
    texts += encode_written(model, [(pairs[0][0], {"max_gen_toks": 3})])
    references = resolve_references(model, conditions)
    plain = Plain(model, references, batch_size=1, use_cache=False)
    expected = [collect_answers(plain.answer([each], conditions)) for each in (scores, texts)]
    found: tuple[dict, dict] = ({}, {})
    with size():
        for which, place, answers in Fused(twin(), references, budget).answer(
            [scores, texts], conditions
        ):
            assert place not in found[which]  # each list once under each condition
            found[which][place] = answers
    assert found[1] == dict(enumerate(expected[1]))
    assert sorted(found[0]) == list(range(len(conditions)))
    for place, each in enumerate(expected[0]):
        for one, two in zip(each, found[0][place], strict=True):
            assert abs(one.logprob - two.logprob) < 1e-4
            assert replace(one, logprob=0.0) == replace(two, logprob=0.0)
