"""The engine: the reference is checked by hand, the other executors against the reference."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

import layerroles as lr
from layerroles.ablations import Condition
from layerroles.engine import LogLikelihoods, executor_choice, executor_trial
from layerroles.engine.executor_trial import choose_condition, rounding_noise
from layerroles.engine.fused import executor as fused_executor
from layerroles.engine.fused import kv_cache, text_decoding
from layerroles.engine.fused.executor import Fused
from layerroles.engine.fused.partial_attention import AttentionRule
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.greedy_decoding import Decoding, NextTokens, Stops
from layerroles.engine.reference_executor import Plain
from layerroles.engine.requests import (
    Scored,
    Written,
    collect_answers,
    encode_scored,
    encode_written,
)
from tests.support.families import FAMILIES
from tests.support.random_models import (
    ALL_ARCHITECTURES,
    ARCHITECTURES,
    VOCABULARY,
    model_of,
    model_path,
    random_model,
)
from tests.support.scale import Scale
from tests.support.tiers import mark_rest

PREFIX = "Some words that all of the questions begin with. "
PAIRS = [
    (PREFIX + "a b c", " d"),
    (PREFIX + "a b c", " e f g h"),
    (PREFIX + "another, longer question", " yes"),
    (PREFIX + "q", " a much longer continuation than the others"),
    ("no prefix", "!"),
    ("x", "y"),
    ("", "empty context"),
    ("x", "y"),
]
ASKED = [
    (PREFIX + "a b c", {"until": ["z"], "max_gen_toks": 6}),
    (PREFIX + "another, longer question", {"max_gen_toks": 9}),
    ("x", {"until": "q", "max_gen_toks": 4}),
    ("x", {"until": ["a", "b", "c", "d", "e"], "max_gen_toks": 12}),
]


def conditions(model: object) -> list[Condition]:
    reference = lr.Reference(["one text", "and another text"])
    return [
        Condition({}),
        *(
            Condition({lr.Site(n): lr.Skip()}, at=at)
            for n in range(3)
            for at in ("all", "after_first")
        ),
        Condition({lr.Site(1, "attn"): lr.Zero()}),
        Condition({lr.Site(2, "mlp"): lr.Zero()}),
        Condition({lr.Site(1): lr.Mean(reference)}),
        Condition({lr.Site(2, "head", 1): lr.Zero(), lr.Site(1, "head", 3): Scale(2.0)}),
        # A whole block before a part of another, and one whose own part is edited before it.
        Condition({lr.Site(0): Scale(0.5), lr.Site(2, "attn"): lr.Zero()}),
        Condition({lr.Site(1): Scale(0.5), lr.Site(1, "mlp"): lr.Zero()}, at="after_first"),
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_reference_is_right(architecture: str) -> None:
    """By hand: one request, no batch, plain log-softmax under `ablated`."""
    model = random_model(architecture)
    chosen = conditions(model)
    found = lr.Engine(model, executor="plain", batch_size=3).loglikelihood(PAIRS, chosen)
    for row, condition in enumerate(chosen):
        for column, request in enumerate(encode_scored(model, PAIRS)):
            ids = torch.tensor([[*request.context, *request.continuation]])
            n = len(request.continuation)
            with torch.inference_mode(), lr.ablated(model, condition):
                predicted = model(ids)[0, -n - 1 : -1].log_softmax(-1)
            targets = torch.tensor(request.continuation)
            logprob = predicted.gather(1, targets[:, None]).sum()
            assert found.logprob[row, column] == pytest.approx(float(logprob), abs=1e-4)
            assert found.is_greedy[row, column] == (predicted.argmax(-1) == targets).all()
            assert found.n_tokens[column] == n


@cache
def scores_of_the_reference(architecture: str) -> LogLikelihoods:
    """Of each pair under each condition, one at a time."""
    model = random_model(architecture)
    alone = lr.Engine(model, executor="plain", batch_size=1)
    return alone.loglikelihood(PAIRS, conditions(model))


@pytest.mark.parametrize("executor", ["fused", "hooked"])
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_all_executors_score_like_the_reference(architecture: str, executor: str) -> None:
    model = random_model(architecture)
    chosen = conditions(model)
    plain = scores_of_the_reference(architecture)
    found = lr.Engine(model, executor=executor).loglikelihood(PAIRS, chosen)
    assert abs(found.logprob - plain.logprob).max() < 1e-4
    assert (found.is_greedy == plain.is_greedy).all()
    assert (found.changed == plain.changed).all()
    assert not found.changed[0].any()


@pytest.mark.parametrize(
    "architecture", mark_rest("matrix", ALL_ARCHITECTURES, first=["llama", "gpt2", "gemma2"])
)
def test_all_executors_generate_the_same_texts(architecture: str) -> None:
    """All conditions together, shared, batched with a cache, and alone without one."""
    model = random_model(architecture)
    chosen = conditions(model)
    alone = Plain(
        model, lr.ablations.resolve_references(model, chosen), batch_size=1, use_cache=False
    )
    texts = collect_answers(alone.answer([encode_written(model, ASKED)], chosen))
    found = [[one.text for one in texts[place]] for place in range(len(chosen))]
    for name in ("plain", "hooked", "fused"):
        assert lr.Engine(model, executor=name).generate_until(ASKED, chosen) == found


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_the_fastest_executor_is_chosen(architecture: str) -> None:
    model = random_model(architecture)
    engine = lr.Engine(model)
    chosen = conditions(model)
    plain = scores_of_the_reference(architecture)
    assert abs(engine.loglikelihood(PAIRS, chosen).logprob - plain.logprob).max() < 1e-4
    engine.generate_until(ASKED, chosen)
    assert engine.used == {"fused"}


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3_whole"])
def test_a_request_may_outgrow_a_sliding_window(architecture: str) -> None:
    """Of 128 tokens, and of 32 in a model that reads more than text."""
    model = random_model(architecture)
    engine = lr.Engine(model)
    chosen = [Condition({}), Condition({lr.Site(0): lr.Skip()}), Condition({lr.Site(2): lr.Skip()})]
    pairs = [("ab " * 60, "c d"), ("ab " * 60 + "x", "y"), ("x", "y")]
    found = engine.loglikelihood(pairs, chosen)
    assert engine.used == {"fused"}
    plain = lr.Engine(model, executor="plain", batch_size=1).loglikelihood(pairs, chosen)
    assert abs(found.logprob - plain.logprob).max() < 1e-4


def test_a_request_that_outgrows_what_a_layer_sees_is_left_to_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Windows that the architecture does not pass to its attention function, for instance."""
    monkeypatch.setattr(Twin, "max_exact_tokens", 128)
    model = random_model("gemma2")
    engine, chosen = lr.Engine(model), [Condition({}), Condition({lr.Site(0): lr.Skip()})]
    pairs = [("ab " * 60, "c d"), ("ab " * 60 + "x", "y")]
    engine.loglikelihood(pairs, chosen)
    assert engine.used == {"plain"}
    with pytest.raises(lr.InputError, match="183 tokens do not fit into its sliding window"):
        lr.Engine(model, executor="fused").loglikelihood(pairs, chosen)


@pytest.mark.parametrize(
    "family, set_as, longest",
    [
        ("gpt_oss", {}, None),
        ("gemma2", {}, None),
        ("olmoe", {}, 40),  # passes a window, and does not hide keys by it
        ("qwen2_moe", {"use_sliding_window": True, "max_window_layers": 0}, 40),  # the reverse
    ],
)
def test_only_windows_that_the_engine_is_sure_of_are_read_beyond(
    family: str, set_as: dict[str, Any], longest: int | None
) -> None:
    config = FAMILIES[family]()
    changed = {**config.to_dict(), "sliding_window": 40, "layer_types": None, **set_as}
    model = model_of(type(config)(**changed))
    assert Twin(model).max_exact_tokens == longest
    pairs = [("ab " * 30, "c d"), ("ab " * 30 + "x", "y")]
    found = (lr.Engine(model, executor=name).loglikelihood(pairs) for name in ("auto", "plain"))
    one, two = (each.logprob for each in found)
    assert abs(one - two).max() < 1e-4


@pytest.mark.parametrize(
    "passed, masked, configured, longest",
    [
        (8, 8, 8, None),
        (8, 8, None, None),
        (None, None, 8, None),
        (8, None, None, 8),
        (None, 6, None, 6),
        (8, 6, 12, 6),
    ],
)
def test_without_certain_windows_the_smallest_limits_a_text(
    passed: int | None, masked: int | None, configured: int | None, longest: int | None
) -> None:
    class Model(torch.nn.Module):
        """Passes one window to its attention function, and masks by another."""

        config = SimpleNamespace(
            sliding_window=configured, layer_types=None, get_text_config=lambda **_: Model.config
        )

        def set_attn_implementation(self, name: str) -> None:
            self.name = name

    class Probed:
        model = Model()

        def _run_tokens(self, n: int, attend: Callable[..., Tensor]) -> None:
            q = torch.zeros(1, 2, n, 4)
            attend(0, q, q, q, AttentionRule(1.0, window=passed))
            ALL_MASK_ATTENTION_FUNCTIONS[self.model.name](local_size=masked)

    assert Twin.max_exact_tokens.func(Probed()) == longest


def test_a_text_is_cut_before_the_first_of_its_stops() -> None:
    """Of two that one token may bring, too."""
    model = random_model("llama")
    ids = model.tokenizer("one, two; three", add_special_tokens=False)["input_ids"]
    stops = Stops(model)
    assert stops.text(ids, [";", ","]) == ("one", True)
    assert stops.text(ids, ["!"]) == ("one, two; three", False)


def test_hooks_that_belong_to_a_model_are_no_hindrance() -> None:
    model = random_model("opt")
    engine = lr.Engine(model)
    found = engine.loglikelihood(PAIRS, [Condition({lr.Site(1): lr.Skip()})])
    assert engine.used & {"fused", "hooked"}
    plain = lr.Engine(model, executor="plain", batch_size=1)
    expected = plain.loglikelihood(PAIRS, [Condition({lr.Site(1): lr.Skip()})])
    assert abs(found.logprob - expected.logprob).max() < 1e-4


def test_a_plan_keeps_what_it_found_of_the_model() -> None:
    engine = lr.Engine(random_model("llama"))
    engine.plan([("a", "b")])
    twin = engine._executors._twin
    engine.loglikelihood([("a", "b")])
    assert engine._executors._twin is twin
    assert twin is not None


def test_values_may_be_narrower_than_keys() -> None:
    """In contexts that are long enough for another kernel than that of the trial, too."""
    model = random_model("deepseek_v3")
    head = Condition({lr.Site(1, "head", 2): lr.Zero()})
    chosen = [Condition({}), Condition({lr.Site(1): lr.Skip()}), head]
    pairs = [("abcd " * 40 + end, "xyz") for end in "pq"]
    engine = lr.Engine(model)
    found = engine.loglikelihood(pairs, chosen)
    assert engine.used == {"fused"}
    plain = lr.Engine(model, executor="plain", batch_size=1).loglikelihood(pairs, chosen)
    assert abs(found.logprob - plain.logprob).max() < 1e-4

    joined = model.original_model.model.layers[1].self_attn.o_proj

    def without(_module: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        z = args[0].clone()
        z.view(*z.shape[:2], 4, 12)[:, :, 2] = 0.0
        return (z, *args[1:])

    ids = torch.tensor([[10, 11, 12, 13]])
    with torch.inference_mode():
        with lr.ablated(model, head):
            ablated = model(ids)
        handle = joined.register_forward_pre_hook(without)
        by_hand = model(ids)
        handle.remove()
        assert torch.equal(ablated, by_hand)
        assert not torch.equal(ablated, model(ids))


def test_weights_that_are_exchanged_are_seen() -> None:
    model = random_model("llama", seed=3)
    engine, plain = lr.Engine(model), lr.Engine(model, executor="plain")
    before = engine.loglikelihood(PAIRS)
    weight = model.original_model.model.layers[1].mlp.down_proj.weight
    old = weight.data
    try:
        weight.data = old * 3  # as where adapters are merged
        found, expected = engine.loglikelihood(PAIRS), plain.loglikelihood(PAIRS)
        assert engine.used == {"fused"}
        assert abs(found.logprob - expected.logprob).max() < 1e-4
        assert abs(found.logprob - before.logprob).max() > 0.01
    finally:
        weight.data = old


def test_an_outer_condition_and_hooks_of_others_are_obeyed() -> None:
    model = random_model("llama")
    engine, skip = lr.Engine(model), Condition({lr.Site(1): lr.Skip()})
    before = engine.loglikelihood(PAIRS, [Condition({}), skip])
    assert engine.used == {"fused"}
    with lr.ablated(model, skip):
        within = engine.loglikelihood(PAIRS)
        with pytest.raises(lr.InputError, match="there are hooks on it"):
            lr.Engine(model, executor="fused").loglikelihood(PAIRS)
    assert abs(within.logprob[0] - before.logprob[1]).max() < 1e-4
    with model.hooks(fwd_hooks=[("blocks.1.hook_out", lambda value, hook: value * 0)]):
        silent = engine.loglikelihood(PAIRS)
    assert abs(silent.logprob - before.logprob[0]).max() > 0.01
    module = model.original_model.model.layers[1].mlp
    handle = module.register_forward_hook(lambda _module, _args, output: output * 0)
    without = engine.loglikelihood(PAIRS)
    handle.remove()
    mlp = lr.Engine(model).loglikelihood(PAIRS, [Condition({lr.Site(1, "mlp"): lr.Zero()})])
    assert abs(without.logprob - mlp.logprob).max() < 1e-4
    model.run_with_cache(torch.tensor([[5, 6, 7]]))  # the libraries put hooks of their own then
    engine.used.clear()
    assert (engine.loglikelihood(PAIRS).logprob == before.logprob[0]).all()
    assert engine.used == {"fused"}


@dataclass(frozen=True)
class Smeared(lr.Ablation):
    """Takes a write from the token before, which no ablation should, if it is told to."""

    by: int
    name = "smeared"

    def edit(self, write: torch.Tensor, ctx: lr.EditContext) -> torch.Tensor:
        """As it says."""
        return torch.roll(write, self.by, 1) * (0.5 if self.by else 1.0)


def test_an_ablation_is_tried_with_each_of_its_parameters() -> None:
    model = random_model("llama")
    chosen = [Condition({lr.Site(1): Smeared(by)}) for by in (0, 1)]
    found = lr.Engine(model, batch_size=1).loglikelihood(PAIRS, chosen)
    plain = lr.Engine(model, executor="plain", batch_size=1).loglikelihood(PAIRS, chosen)
    assert abs(found.logprob - plain.logprob).max() < 1e-4


def test_a_text_ends_where_it_was_asked_to() -> None:
    model = random_model("llama")
    (whole,) = lr.Engine(model).generate_until([("x", {"max_gen_toks": 12})])[0]
    assert len(whole) > 4
    stop = whole[3]
    (cut,) = lr.Engine(model).generate_until([("x", {"until": stop, "max_gen_toks": 12})])[0]
    assert cut == whole[: whole.index(stop)]


def test_non_finite_logits_are_reported() -> None:
    model = random_model("llama")
    broken = Condition({lr.Site(1): Scale(float("inf"))})
    for name in ("plain", "hooked", "fused"):
        engine = lr.Engine(model, executor=name)
        found = engine.loglikelihood(PAIRS[:2], [Condition({}), broken])
        assert not found.is_greedy[1].any()
        assert [bool(x) for x in (found.logprob[1] != found.logprob[1])] == [True, True]
        assert (found.logprob[0] == found.logprob[0]).all()
        (writing,) = engine.write(encode_written(model, [ASKED[0]]), [broken])[0]
        assert not writing.finite


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (lambda e: e.loglikelihood([("a", "")]), "request 0: the continuation is empty"),
        (lambda e: e.loglikelihood([("a" * 300, "b")]), "more than the 256 of the model's context"),
        (lambda e: e.generate_until([("a", {"max_gen_toks": 256})]), "takes 257 tokens"),
        (lambda e: e.generate_until([("a", {"max_gen_toks": 0})]), "max_gen_toks=0"),
        (lambda e: e.generate_until([("a", {"top_k": 3})]), "unknown option 'top_k'"),
        (lambda e: e.generate_until([("a", {"until": 5})]), "until=5 is not a string, or a list"),
        (lambda e: e.generate_until([("a", {"until": 0})]), "until=0 is not a string, or a list"),
        (lambda e: e.generate_until([("a", {"until": ["b", 5]})]), "until=['b', 5] is not a"),
        (lambda e: e.generate_until([("a\ud800", {})]), "half of a character (a surrogate)"),
        (lambda e: e.loglikelihood([("a", "b\ud800")]), "the continuation holds '\\ud800' at 1"),
        (
            lambda e: e.loglikelihood([("a", "b")], [Condition({lr.Site(9): lr.Skip()})]),
            "layer 9 is out of range",
        ),
    ],
)
def test_invalid_requests_raise_input_error(ask: object, line: str) -> None:
    with pytest.raises(lr.InputError) as caught:
        ask(lr.Engine(random_model("llama")))  # type: ignore[operator]
    assert line in str(caught.value)


def test_requests_and_conditions_may_be_made_as_they_are_read() -> None:
    engine = lr.Engine(random_model("llama"))
    chosen = [Condition({}), Condition({lr.Site(1): lr.Skip()})]
    found = engine.loglikelihood(iter(PAIRS), iter(chosen))
    assert (found.logprob == engine.loglikelihood(PAIRS, chosen).logprob).all()
    texts = engine.generate_until(iter(ASKED), iter(chosen))
    assert texts == engine.generate_until(ASKED, chosen)
    assert str(engine.plan(iter(PAIRS), iter(chosen))) == str(engine.plan(PAIRS, chosen))


def test_context_and_continuation_are_encoded_together() -> None:
    model = random_model("llama")
    (request,) = encode_scored(model, [("ends in a space ", "word")])
    assert model.tokenizer.decode(list(request.continuation)) == " word"


@pytest.mark.parametrize(
    "architecture", mark_rest("matrix", ["gpt2", "llama", "gemma2", "neox"], first=["llama"])
)
def test_in_bfloat16_the_executors_agree_up_to_rounding(architecture: str) -> None:
    model = random_model(architecture, dtype="bfloat16")
    chosen = conditions(model)
    plain = lr.Engine(model, executor="plain", batch_size=1).loglikelihood(PAIRS, chosen)
    again = lr.Engine(model, executor="plain", batch_size=8).loglikelihood(PAIRS, chosen)
    executor = lr.Engine(model, executor="fused").loglikelihood(PAIRS, chosen)
    noise = abs(again.logprob - plain.logprob) / plain.n_tokens
    found = abs(executor.logprob - plain.logprob) / plain.n_tokens
    assert found.mean() < 2 * noise.mean() + 0.01
    texts = [
        [text for row in lr.Engine(model, executor=executor).generate_until(ASKED, chosen)
         for text in row]
        for executor in ("plain", "fused")
    ]  # fmt: skip
    same = sum(one == two for one, two in zip(*texts, strict=True))
    # Rounding turns some choices between near-equals; an error would turn nearly all.
    assert same >= 0.75 * len(texts[0])


def test_in_bfloat16_an_executor_that_is_wrong_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Fused.answer

    def wrong(self: Fused, *asked: Any) -> Iterator[tuple[int, int, list[Any]]]:
        for which, place, scores in right(self, *asked):
            yield which, place, [replace(one, logprob=one.logprob - one.n_tokens) for one in scores]

    monkeypatch.setattr(Fused, "answer", wrong)
    model = random_model("llama", dtype="bfloat16")
    engine = lr.Engine(model)
    engine.loglikelihood(PAIRS, lr.each_layer(model, lr.Skip()))
    assert engine.used == {"hooked"}


@pytest.mark.parametrize("rank", [1, VOCABULARY - 1])
def test_in_bfloat16_texts_may_part_where_rounding_decides_and_nowhere_else(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second choice is as good as its first for a model of random weights, its last is not."""
    right = Decoding.add

    def other(self: Decoding, chosen: NextTokens) -> bool:
        return right(self, replace(chosen, tokens=torch.full_like(chosen.tokens, token)))

    model = random_model("llama", dtype="bfloat16")
    ((tried,), skips) = (
        executor_trial._trial_requests(encode_written(model, ASKED[:1])),
        lr.each_layer(model, lr.Skip()),
    )
    with torch.inference_mode(), lr.ablated(model, skips[1]):
        order = model(torch.tensor([tried.context]))[0, -1].argsort(descending=True)
    token = int(order[rank])
    engine = lr.Engine(model)
    monkeypatch.setattr(text_decoding, "Decoding", type("Other", (Decoding,), {"add": other}))
    engine.generate_until(ASKED[:1], skips)
    assert engine.used == ({"fused"} if rank == 1 else {"hooked"})


def test_which_condition_is_tried() -> None:
    """In half precision in the middle: without its first layers a model hangs on the last bit."""
    skips = [Condition({lr.Site(n): lr.Skip()}) for n in (3, 0, 9, 6, 1)]
    assert choose_condition(skips, torch.bfloat16) == skips[0]
    assert (
        choose_condition(skips, torch.float32) == skips[1]
    )  # nothing below its output is computed
    zeros = [Condition({lr.Site(n, "mlp"): lr.Zero()}) for n in (3, 0, 9, 6, 1)]
    assert choose_condition(zeros, torch.float32) == zeros[4]
    assert choose_condition(zeros[1:2], torch.float32) == zeros[1]


def test_the_last_bit_moves_a_half_precision_only() -> None:
    # Of one text, or of a short one, float32 may hide it.
    asked = [Scored((4, 5, 6, first), tuple(range(8, 24))) for first in range(7, 15)]
    skip = Condition({lr.Site(1): lr.Skip()})
    for dtype, least, most in (("bfloat16", 1e-4, 0.1), ("float32", 1e-9, 1e-5)):
        plain = Plain(random_model("llama", dtype=dtype), {})
        ((_, _, scores),) = plain.answer([asked], [skip])
        assert least <= rounding_noise(plain, asked, skip, scores) <= most


def test_room_is_made_as_texts_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    chosen = conditions(model)
    expected = lr.Engine(model, executor="plain").generate_until(ASKED, chosen)
    monkeypatch.setattr(kv_cache, "ROOM", 5)
    assert lr.Engine(model, executor="fused").generate_until(ASKED, chosen) == expected


def test_nothing_asked_is_nothing_answered() -> None:
    engine = lr.Engine(random_model("llama"))
    assert engine.loglikelihood([], [Condition({})]).logprob.shape == (1, 0)
    assert engine.loglikelihood(PAIRS, []).logprob.shape == (0, len(PAIRS))
    assert engine.generate_until([], [Condition({})]) == [[]]
    assert engine.generate_until(ASKED, []) == []


def test_a_model_that_no_other_executor_can_run_is_left_to_the_reference() -> None:
    """GPT-Neo: attention of its own, and blocks that cannot be started from a recorded stream."""
    model = random_model("neo")
    engine = lr.Engine(model)
    chosen = [Condition({}), Condition({lr.Site(1): lr.Skip()})]
    found = engine.loglikelihood(PAIRS, chosen)
    assert engine.used == {"plain"}
    assert engine.generate_until(ASKED[2:], chosen)[0][0]
    plain = lr.Engine(model, executor="plain", batch_size=1).loglikelihood(PAIRS, chosen)
    assert abs(found.logprob - plain.logprob).max() < 1e-4
    with pytest.raises(lr.InputError, match="does not go through transformers' interface"):
        lr.Engine(model, executor="fused").loglikelihood(PAIRS, chosen)


@pytest.mark.parametrize("place", ["Twin", "make_plan"])
def test_a_mistake_in_an_executor_is_raised(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """It is no sign that the model does not fit, which would end in a slow run and a warning."""
    model = random_model("llama")
    module = executor_choice if place == "Twin" else fused_executor
    monkeypatch.setattr(module, place, None)  # the executor's own code fails as it calls it
    for name in ("auto", "fused"):
        with pytest.raises(TypeError, match="not callable"):
            lr.Engine(model, executor=name).loglikelihood(PAIRS)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rowwise(lr.Ablation):
    """Fails where tokens are handed over one a row, as `fused` does."""

    error: type[Exception]
    name = "rowwise"

    def edit(self, write: torch.Tensor, ctx: lr.EditContext) -> torch.Tensor:
        """Half the write."""
        if write.shape[0] > 1 and write.shape[1] == 1:
            raise self.error("one token a row")
        return write / 2


@pytest.mark.parametrize("error", [IndexError, RuntimeError, TypeError, NotImplementedError])
def test_an_ablation_that_an_executor_breaks_is_left_to_another(error: type[Exception]) -> None:
    model, chosen = random_model("llama"), [Condition({lr.Site(1): Rowwise(error)})]
    engine = lr.Engine(model)
    found = engine.loglikelihood(PAIRS[:5], chosen)
    assert engine.used == {"hooked"}
    plain = lr.Engine(model, executor="plain", batch_size=1).loglikelihood(PAIRS[:5], chosen)
    assert abs(found.logprob - plain.logprob).max() < 1e-4


def test_does_not_fit_recognizes_unsupported_operations_and_no_bugs() -> None:
    fits_not = [
        lr.InputError("refused"),
        NotImplementedError("no such kernel"),
        RuntimeError("\"erfinv_cpu\" not implemented for 'Half'"),
        RuntimeError("linalg.inv: Low precision dtypes not supported. Got Half"),
        TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
            "float64. Please use float32 instead."
        ),
    ]
    for error in fits_not:
        assert executor_trial.does_not_fit(raised_in("layerroles.engine.fused.executor", error))
    mistakes = [
        TypeError("unsupported operand type(s) for +"),
        RuntimeError("shapes differ"),
        AssertionError(),
    ]
    for error in (*mistakes, torch.OutOfMemoryError("CUDA out of memory")):
        assert not executor_trial.does_not_fit(raised_in("layerroles.engine.fused.executor", error))
    for error in mistakes:
        assert executor_trial.does_not_fit(raised_in("transformers.models.llama", error))


def raised_in(module: str, error: Exception) -> Exception:
    """The error with the traceback of a function of this module."""
    namespace = {"__name__": module}
    exec("def fail(error):\n    raise error.with_traceback(None)", namespace)
    with pytest.raises(type(error)) as caught:
        namespace["fail"](error)  # type: ignore[operator]
    return caught.value


def test_what_is_tried_on_one_request_is_tried_again_on_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[int] = []

    def noting(*given: Any) -> None:
        tried.append(len(given[2]))

    monkeypatch.setattr(executor_choice, "find_disagreement", noting)
    engine = lr.Engine(random_model("llama"))
    for asked in (PAIRS[:1], PAIRS[1:2], PAIRS[:3], PAIRS[1:4], PAIRS[:1]):
        engine.loglikelihood(asked)
    assert tried == [1, 3]


def test_what_is_tried_on_several_requests_is_not_tried_on_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[tuple[str, int]] = []

    def noting(_: object, __: object, asked: Sequence[Any], *rest: object) -> None:
        tried.append((type(asked[0]).__name__, len(asked)))

    monkeypatch.setattr(executor_choice, "find_disagreement", noting)
    engine = lr.Engine(random_model("llama"))
    for n in (3, 1, 3):
        engine.generate_until(ASKED[:n])
    assert tried == [("Written", 3)]
    # What is scored is tried for itself.
    for n in (3, 1):
        engine.loglikelihood(PAIRS[:n])
    assert tried[1:] == [("Scored", 3)] and engine.used == {"fused"}


@pytest.mark.parametrize(
    ("refused", "asked", "answers"),
    [(1, (1, 3), "plain"), (1, (3,), "fused"), (3, (3,), "fused"), (3, (1, 3), "fused")],
)
def test_executor_refused_on_a_single_request_stays_refused(
    monkeypatch: pytest.MonkeyPatch, refused: int, asked: Sequence[int], answers: str
) -> None:
    """One request, after others; an executor refused on several requests is tried on one."""

    def differs(_: object, __: object, given: Sequence[Any], *rest: object) -> str | None:
        return "it differs" if len(given) == refused else None

    monkeypatch.setattr(executor_choice, "find_disagreement", differs)
    engine = lr.Engine(random_model("llama"))
    for n in asked:
        engine.loglikelihood(PAIRS[:n])
    engine.used.clear()
    engine.loglikelihood(PAIRS[:1])
    assert engine.used == {answers}


def passed(_: object, args: tuple[torch.Tensor, ...], output: object) -> torch.Tensor:
    """What entered a block, instead of what leaves it."""
    return args[0]


def test_layers_that_attend_to_keys_of_others_are_read_from_those_on() -> None:
    model = random_model("gemma4")
    original = AutoModelForCausalLM.from_pretrained(model_path("gemma4")).eval()
    engine = lr.Engine(model)
    asked = [Condition({}), *lr.each_layer(model, lr.Skip())]
    found = engine.loglikelihood(PAIRS, asked)
    assert engine.used == {"fused"}
    for place, block in enumerate([None, *original.model.layers]):
        handle = None if block is None else block.register_forward_hook(passed)
        for which, request in enumerate(encode_scored(model, PAIRS)):
            ids, n = torch.tensor([[*request.context, *request.continuation]]), len(request.context)
            with torch.inference_mode():
                logprobs = original(ids).logits[0, n - 1 : -1].log_softmax(-1)
            expected = logprobs.gather(1, ids[0, n:, None]).sum()
            assert abs(found.logprob[place, which] - float(expected)) < 1e-4
        if handle is not None:
            handle.remove()


def test_written_requests_that_fit_alone_fit_together() -> None:
    model = random_model("neo")  # its masks end with its context
    asked = [Written(tuple(range(3, 53)) * 5, (), 6), Written((5,) * 10, (), 60)]
    (texts,) = lr.Engine(model, executor="plain").write(asked, [Condition({})])
    alone = lr.Engine(model, executor="plain", batch_size=1)
    assert texts == alone.write(asked, [Condition({})])[0]


@pytest.mark.parametrize("executor", ["plain", "hooked", "fused"])
def test_a_continuation_may_end_behind_the_models_context(executor: str) -> None:
    """Its last token is scored, and not read."""
    engine = lr.Engine(random_model("llama"), executor=executor)
    found = engine.loglikelihood([("a" * 254, "bcd")])  # 256 tokens are read
    assert found.n_tokens.tolist() == [3]
    assert -100 < found.logprob[0, 0] < 0
    with pytest.raises(lr.InputError, match="takes 257 tokens, more than the 256"):
        engine.loglikelihood([("a" * 254, "bcde")])
    assert len(encode_scored(engine.model, [("a" * 254, "bcd")], cut=256)[0].context) == 254
    assert len(encode_scored(engine.model, [("a" * 254, "bcde")], cut=256)[0].context) == 253
    with pytest.raises(lr.InputError, match="takes 257 tokens, more than the 256"):
        encode_scored(engine.model, [("a" * 260, "bcde")], cut=257)


@pytest.mark.parametrize("executor", ["plain", "hooked", "fused"])
def test_a_text_ends_with_a_special_token_that_was_asked_for(executor: str) -> None:
    model = lr.load(model_path("llama"))  # its tokenizer is changed
    engine = lr.Engine(model, executor=executor)
    freely = Written((5, 6, 7), (), 12)
    ((whole,),) = engine.write([freely], [Condition({})])
    token = whole.ids[1]
    assert token != whole.ids[0]
    known = lr.models.prepared(model).tokenizer
    name = known.convert_ids_to_tokens(token)
    known.add_special_tokens({"additional_special_tokens": [name]})  # it is not spelled
    ((text, other),) = engine.write(
        [replace(freely, until=until) for until in (("?!", name), ("?!",))], [Condition({})]
    )
    assert text.ended
    assert (text.ids, text.text) == (whole.ids[:2], whole.text[:1])
    assert other.ids == whole.ids


@pytest.mark.parametrize("executor", ["plain", "hooked", "fused"])
def test_finished_rows_neither_overflow_the_context_nor_count_as_changed(executor: str) -> None:
    """It neither runs out of the model's context nor counts as changed."""
    model = random_model("gpt2")
    engine = lr.Engine(model, executor=executor)
    full = Written(tuple(range(3, 53)) * 5, (), 6)
    texts = engine.write([full, *(Written((5,) * 10, (), 60) for _ in range(4))], [Condition({})])
    alone = lr.Engine(model, executor="plain", batch_size=1)
    assert texts[0][0] == alone.write([full], [Condition({})])[0][0]
    spared = Condition({lr.Site(1): lr.Skip()}, at="after_first")
    one, *others = engine.write([Written((1,), (), 1), *([Written((5, 6), (), 9)] * 9)], [spared])[
        0
    ]
    assert not one.changed
    assert all(other.changed for other in others)


class Burst(lr.Ablation):
    """Infinite where the token is 50."""

    name = "burst"

    def edit(self, write: torch.Tensor, ctx: lr.EditContext) -> torch.Tensor:
        """Infinity there."""
        assert ctx.tokens is not None
        here = ctx.tokens[:, -write.shape[1] :] == 50
        return torch.where(here[..., None], torch.inf, write)


@pytest.mark.parametrize("executor", ["plain", "hooked", "fused"])
def test_one_request_that_is_not_finite_leaves_the_others_alone(executor: str) -> None:
    engine = lr.Engine(random_model("llama"), executor=executor)
    condition = Condition({lr.Site(0): Burst()})
    asked = [Scored((1, 7, 8), (9,)), Scored((1, 7, 8, 50), (9,)), Scored((1, 7, 60), (9,))]
    (scores,) = engine.score(asked, [condition])
    assert [score.finite for score in scores] == [True, False, True]
    contexts = [request.context for request in asked]
    (texts,) = engine.write([Written(ids, (), 4) for ids in contexts], [condition])
    assert texts[1].n_tokens == 1
    assert not texts[1].finite
    alone = lr.Engine(random_model("llama"), executor="plain", batch_size=1)
    (expected,) = alone.write([Written(contexts[0], (), 4)], [condition])
    assert texts[0] == expected[0]
