"""Conditions that act at some positions only: what is read, what is written, the evidence."""

import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import layerroles as lr
from layerroles.ablations import At
from layerroles.engine import encode_scored, encode_written
from layerroles.engine.reference_executor import Plain
from layerroles.engine.requests import collect_answers
from layerroles.models.loading import encode
from layerroles.sites import ATS
from tests.support.hugging_face_edits import edited
from tests.support.random_models import random_model
from tests.support.scale import Scale

EXECUTORS = ("plain", "hooked", "fused")
BEGUN = "some words that all begin with, "
TEXTS = [
    *(BEGUN + rest for rest in ("ab", "abc", "abcd", "b")),
    "a text of its own",
    "x",
    "another one",
]
# Of each text, some characters behind its beginning.
SPANS = [[(len(text) // 2, len(text) // 2 + 1)] for text in TEXTS]
PAIRS = list(zip(TEXTS, ["efg", "hi", "j", "dklm", "no", "pq", "r"], strict=True))
# The same context with other continuations, one of which begins as another context does.
PAIRS += [(BEGUN + "ab", "cdx"), (BEGUN + "ab", "cdy")]
PAIR_SPANS = [*SPANS, SPANS[0], SPANS[0]]
ASKED = [(text, {"max_gen_toks": 6}) for text in TEXTS]
REFERENCE = lr.Reference(["one text", "another text that is longer", "a third"])


def every_other(ctx: lr.EditContext) -> Tensor:
    return (ctx.positions % 2 == 1) & ~ctx.is_last


def mask(at: At, n: int, n_prompt: int, evidence: tuple[int, ...]) -> list[bool]:
    """Where a condition acts on a sequence, as its words say."""
    return {
        "all": [True] * n,
        "after_first": [p > 0 for p in range(n)],
        "prompt": [p < n_prompt for p in range(n)],
        "generated": [p >= n_prompt for p in range(n)],
        "last": [p == n_prompt - 1 for p in range(n)],
        "evidence": [p in evidence for p in range(n)],
        "every_other": [p % 2 == 1 and p != n_prompt - 1 for p in range(n)],
    }[at if isinstance(at, str) else "every_other"]


def logits(
    architecture: str,
    part: str,
    edit: Callable[[Tensor], Tensor],
    ids: list[int],
    where: list[bool],
) -> Tensor:
    """Those of a Hugging Face model on one sequence, the part edited there: `[pos d_vocab]`."""

    def some(write: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (write.ndim - 2))
        return torch.where(torch.tensor(where).reshape(shape), edit(write), write)

    with edited(architecture, part, some) as model, torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


# A Latin square first: each executor meets each position, each position each part.
WAYS = [
    pytest.param(architecture, part, at, executor, marks=() if first else pytest.mark.matrix)
    for (a, architecture), (p, part), (n, at), (e, executor) in product(
        enumerate(("llama", "gpt2")),
        enumerate(("block", "attn", "head")),
        enumerate((*ATS, every_other)),
        enumerate(EXECUTORS),
    )
    for first in [(p + n + e) % 3 == 0 and (n + e) % 2 == a]
]


@pytest.mark.parametrize(("architecture", "part", "at", "executor"), WAYS)
def test_where_it_acts(architecture: str, part: str, at: At, executor: str) -> None:
    model = random_model(architecture)
    site = lr.Site(1, part, 2 if part == "head" else None)  # type: ignore[arg-type]  # a part
    condition = lr.Condition({site: Scale(-2.0)}, at=at)
    engine = lr.Engine(model, executor=executor)  # type: ignore[arg-type]  # a string to the checker
    by_hand = partial(logits, architecture, part, lambda write: -2 * write)

    found = engine.loglikelihood(PAIRS, [condition], evidence=PAIR_SPANS)
    for index, (context, continuation) in enumerate(PAIRS):
        n, ids = len(encode(model, context)), encode(model, context + continuation)
        # Characters are tokens in these models.
        evidence = tuple(p for p in range(n) if any(a <= p < b for a, b in PAIR_SPANS[index]))
        acts = mask(at, len(ids) - 1, n, evidence)
        scores = by_hand(ids[:-1], acts)[n - 1 :].log_softmax(-1)
        expected = scores.gather(1, torch.tensor(ids[n:])[:, None]).sum()
        assert abs(found.logprob[0, index] - float(expected)) < 1e-4
        assert bool(found.changed[0, index]) == any(acts)

    texts = engine.write(encode_written(model, ASKED, SPANS), [condition])[0]
    for index, text in enumerate(TEXTS):
        ids = encode(model, text)
        n, evidence = len(ids), tuple(range(SPANS[index][0][0], SPANS[index][0][1]))
        while len(ids) < n + texts[index].n_tokens:
            acts = mask(at, len(ids), n, evidence)
            ids.append(int(by_hand(ids, acts)[-1].argmax()))
        assert model.tokenizer.decode(ids[n:], skip_special_tokens=True) == texts[index].text
        assert texts[index].changed == any(mask(at, len(ids) - 1, n, evidence))


ABLATIONS = {
    "skip": (lr.Skip(), "block"),
    "zero": (lr.Zero(), "mlp"),
    "mean": (lr.Mean(REFERENCE), "block"),
    "mean per position": (lr.Mean(REFERENCE, per_position=True), "attn"),
    "resample": (lr.Resample(REFERENCE), "block"),
    "resample head": (lr.Resample(REFERENCE, seed=1), "head"),
    "noise": (lr.Noise(2.0, REFERENCE), "kv_group"),
    "scale": (Scale(-2.0), "stream"),
    "swap": (None, "block"),
}


# Each ablation meets every other position first, in one of the models.
KINDS = [
    pytest.param(architecture, name, at, marks=() if (k + n) % 6 == 2 * a else pytest.mark.matrix)
    for (a, architecture), (k, name), (n, at) in product(
        enumerate(("llama", "gemma2", "neox")),
        enumerate(ABLATIONS),
        enumerate((*ATS, every_other)),
    )
]


@pytest.mark.parametrize(("architecture", "name", "at"), KINDS)
def test_neither_batch_nor_cache_nor_executor_matters(architecture: str, name: str, at: At) -> None:
    model = random_model(architecture)
    edit, part = ABLATIONS[name]
    edit = edit or lr.Swap(random_model(architecture, seed=1))
    if edit.in_place and at != "all":
        with pytest.raises(lr.InputError, match="acts at all positions"):
            lr.Condition({lr.Site(1, part): edit}, at=at)  # type: ignore[arg-type]
        return
    number = {"head": 3, "kv_group": 1}.get(part)
    condition = lr.Condition({lr.Site(1, part, number): edit}, at=at)  # type: ignore[arg-type]
    requests, asked = encode_scored(model, PAIRS, PAIR_SPANS), encode_written(model, ASKED, SPANS)
    references = lr.ablations.resolve_references(model, [condition])
    ways: dict[str, Callable[..., Iterator[tuple[int, int, list[Any]]]]] = {
        f"batches of {size}, cache {cached}": Plain(
            model, references, batch_size=size, use_cache=cached
        ).answer
        for size in (1, 7)
        for cached in (False, True)
    }
    for executor in ("hooked", "fused"):
        ways[executor] = lr.Engine(model, executor=executor).answer_each
    found = {
        way: [
            answers
            for given in (requests, asked)
            for answers in collect_answers(answer([given], [condition]))
        ]
        for way, answer in ways.items()
    }
    expected, texts = found["batches of 1, cache False"]
    for way, (scores, writings) in found.items():
        for one, two in zip(scores, expected, strict=True):
            assert abs(one.logprob - two.logprob) < 1e-4, way
            assert one.changed == two.changed, way
        assert writings == texts, way


def later(n: int) -> Callable[[lr.EditContext], Tensor]:
    def after(ctx: lr.EditContext) -> Tensor:
        return ctx.positions >= n

    return after


@dataclass(frozen=True)
class Before:
    n: int

    def __call__(self, ctx: lr.EditContext) -> Tensor:
        return ctx.positions < self.n


LIMIT = 4


def by_a_global(ctx: lr.EditContext) -> Tensor:
    return torch.stack([row < LIMIT for row in ctx.positions])


def conditions_of(*ats: At) -> list[lr.Condition]:
    return [lr.Condition({lr.Site(1): lr.Zero()}, at=at) for at in ats]


def test_functions_are_told_apart_by_what_they_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_default(ctx: lr.EditContext, *, n: int = 3) -> Tensor:
        return ctx.positions < n

    different = conditions_of(
        "all", later(1), later(2), Before(1), Before(2), with_default, by_a_global,
        lambda ctx: ctx.positions > 1, lambda ctx: ctx.positions > 2,
    )  # fmt: skip
    assert len({condition.hash for condition in different}) == len(different)
    assert conditions_of(later(2))[0].hash == conditions_of(later(2))[0].hash
    assert conditions_of(Before(2))[0] == conditions_of(Before(2))[0]
    assert [one.name for one in different[1:6]] == [
        *("zero L1 after", "zero L1 after", "zero L1 Before", "zero L1 Before"),
        "zero L1 with_default",
    ]
    lambdas = [one.name for one in different[-2:]]
    assert len(set(lambdas)) == 2
    assert all(re.fullmatch(r"zero L1 lambda-[0-9a-f]{6}", name) for name in lambdas)
    before = conditions_of(by_a_global)[0].hash
    monkeypatch.setattr("tests.unit.ablations.test_positions.LIMIT", 5)
    assert conditions_of(by_a_global)[0].hash != before
    (span,) = lr.each_span(random_model("llama"), lr.Skip(), width=3, at=by_a_global)
    assert span.name == "skip L0:3 by_a_global"


def test_a_function_is_the_same_in_another_process() -> None:
    code = (
        "import layerroles as lr\n"
        "from tests.unit.ablations.test_positions import Before, by_a_global\n"
        "for at in (Before(2), by_a_global):\n"
        "    print(lr.Condition({lr.Site(1): lr.Zero()}, at=at).hash)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [one.hash for one in conditions_of(Before(2), by_a_global)]


def test_a_condition_that_would_do_something_else_there_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    condition = lr.Condition({lr.Site(1): lr.Skip()}, at=by_a_global)
    sent = pickle.dumps(condition)
    assert pickle.loads(sent).hash == condition.hash
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", 5)
    with pytest.raises(lr.InputError, match="is another one here than where it was made"):
        pickle.loads(sent)


def test_a_condition_cannot_be_changed() -> None:
    condition = lr.Condition({lr.Site(1): lr.Skip()})
    with pytest.raises(AttributeError, match="make a new one to set 'name'"):
        condition.name = "another"


def test_mistakes_are_told() -> None:
    class Thing:
        def __call__(self, ctx: lr.EditContext) -> Tensor:
            return ctx.real

    def prompt(ctx: lr.EditContext) -> Tensor:
        return ctx.real

    for at, line in (
        (Thing(), "nobody can tell"),
        (partial(every_other), "nobody can tell"),
        (prompt, "is taken for at='prompt'"),
    ):
        with pytest.raises(lr.InputError, match=line):
            conditions_of(at)  # type: ignore[arg-type]  # wrong on purpose
    model = random_model("llama")
    tokens = torch.tensor([[5, 9, 40]])
    for answer, line in ((True, "returned True"), (tokens, r"returned torch.int64 \(1, 3\)")):
        (condition,) = conditions_of(lambda ctx, answer=answer: answer)
        with pytest.raises(lr.InputError, match=line), lr.ablated(model, condition):
            model(tokens)
    (condition,) = conditions_of("evidence")
    with pytest.raises(lr.InputError, match="not known where"), lr.ablated(model, condition):
        model(tokens)
    with pytest.raises(lr.InputError, match="does not say where its evidence is"):
        lr.Engine(model).loglikelihood([("ab", "c")], [condition])
    with pytest.raises(lr.InputError, match="evidence of 2 requests is given for 1"):
        lr.Engine(model).loglikelihood([("ab", "c")], [condition], evidence=[[(0, 1)]] * 2)
    with pytest.raises(lr.InputError, match="a token or more"):
        lr.Prompt(())
    with pytest.raises(lr.InputError, match="of a prompt of 2 tokens"):
        lr.Prompt((5, 9), evidence=(2,))
    prompts = [lr.Prompt((9, 40), evidence=(1,))]
    with (
        pytest.raises(lr.InputError, match="row 0 begins with tokens"),
        lr.ablated(model, condition, prompts=prompts),
    ):
        model(tokens)
    with (
        pytest.raises(lr.InputError, match="1 prompts are given for 2 rows"),
        lr.ablated(model, condition, prompts=prompts),
    ):
        model(torch.tensor([[9, 40, 7], [9, 40, 8]]))


def test_where_a_model_is_called_by_hand() -> None:
    """Without prompts, what a cache goes on with is generated; with them, they decide."""
    model = random_model("llama")
    tokens, n = torch.tensor([[5, 9, 40, 7, 22, 13]]), 4
    for at in ("prompt", "generated", "last"):
        (condition,) = conditions_of(at)  # type: ignore[arg-type]  # a string
        acts = mask(at, 6, n, ())  # type: ignore[arg-type]  # a string
        expected = logits("llama", "block", torch.zeros_like, tokens[0].tolist(), acts)
        with torch.inference_mode():
            with lr.ablated(model, condition):
                _, cache = model(tokens[:, :n], return_type="logits_and_cache", use_cache=True)
                cached = model(tokens[:, n:], past_key_values=cache, use_cache=True)
            with lr.ablated(model, condition, prompts=[lr.Prompt(tuple(tokens[0, :n].tolist()))]):
                whole = model(tokens)
        torch.testing.assert_close(whole[0], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(cached[0], expected[n:], atol=1e-4, rtol=1e-4)
