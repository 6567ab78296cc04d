"""Ablations on every kind of block: what they compute, and that they leave nothing behind."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from torch import Tensor

import layerroles as lr
from layerroles.ablations import ABLATIONS, ablated
from layerroles.ablations.write_statistics import collect, extract_write
from layerroles.engine.executor_trial import condition_kind
from layerroles.models import hook_ids, prepared
from layerroles.sites import size_of
from tests.support.random_models import ARCHITECTURES, random_model
from tests.support.scale import Scale

TOKENS = torch.tensor([[5, 9, 40, 7, 22, 13, 60, 8]])
HEADS = [lr.Site(1, "head", head) for head in range(4)]


def logits(architecture: str, condition: lr.Condition, dtype: str = "float32") -> Tensor:
    model = random_model(architecture, dtype)
    with torch.inference_mode(), lr.ablated(model, condition):
        return model(TOKENS)


@pytest.fixture(autouse=True)
def no_hook_is_left() -> Iterator[None]:
    yield
    for architecture in ARCHITECTURES:
        model = random_model(architecture)
        assert not [name for name, hook in model.hook_dict.items() if hook.has_hooks()]
        assert not hook_ids(model) - prepared(model).initial_hooks


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_skip_equals_zero_equals_zero_of_both_sublayers(architecture: str, layer: int) -> None:
    skipped = logits(architecture, lr.Condition({lr.Site(layer): lr.Skip()}))
    zeroed = logits(architecture, lr.Condition({lr.Site(layer): lr.Zero()}))
    parts = {lr.Site(layer, "attn"): lr.Zero(), lr.Site(layer, "mlp"): lr.Zero()}
    assert torch.equal(skipped, zeroed)
    torch.testing.assert_close(logits(architecture, lr.Condition(parts)), skipped)
    assert (skipped - logits(architecture, lr.Condition({}))).abs().max() > 1e-3


@dataclass(frozen=True, eq=False)
class Steered(lr.Ablation):
    """Adds a vector."""

    vector: torch.Tensor
    name = "steered"

    def edit(self, write: torch.Tensor, ctx: lr.EditContext) -> torch.Tensor:
        """Adds it."""
        return write + self.vector[: write.shape[-1]]


class Times(lr.Ablation):
    """No dataclass."""

    name = "times"

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def edit(self, write: torch.Tensor, ctx: lr.EditContext) -> torch.Tensor:
        """Multiplies."""
        return self.factor * write


def test_conditions_with_different_parameter_values_are_different() -> None:
    """The `repr` of a long tensor shows only its ends, with few digits."""
    ones = [torch.zeros(2048).index_fill(0, torch.tensor(n), 1.0) for n in (5, 9)]
    steered = [lr.Condition({lr.Site(1): Steered(one)}) for one in (*ones, ones[0].clone())]
    assert steered[0] != steered[1]
    assert steered[0].hash == steered[2].hash
    twice, again, thrice = (lr.Condition({lr.Site(1): Times(by)}) for by in (2.0, 2.0, 3.0))
    assert twice == again
    assert twice != thrice
    assert condition_kind(steered[0]) == condition_kind(steered[2])  # tried once
    assert condition_kind(steered[0]) != condition_kind(steered[1])
    lr.Condition({lr.Site(1): Steered(torch.zeros(3, device="meta"))})  # has no values to tell by
    odd = Times({(1, 2): lr.Site(0), "a": 1})  # type: ignore[arg-type]
    assert lr.Condition({lr.Site(1): odd}) == lr.Condition({lr.Site(1): odd})
    pairs, engine = [("a b c", " d")], lr.Engine(random_model("llama"))
    one, two, _ = engine.loglikelihood(pairs, steered).logprob[:, 0]
    assert abs(one - two) > 0.01


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_skip_equals_a_hook_that_returns_the_blocks_input(architecture: str) -> None:
    model = random_model(architecture)
    seen: dict[str, Tensor] = {}

    def enter(value: Tensor, hook: object) -> None:
        seen["input"] = value

    def leave(value: Tensor, hook: object) -> Tensor:
        return seen["input"]

    hooks = [("blocks.1.hook_in", enter), ("blocks.1.hook_out", leave)]
    with torch.inference_mode():
        by_hand = model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    assert torch.equal(by_hand, logits(architecture, lr.Condition({lr.Site(1): lr.Skip()})))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "site",
    [
        lr.Site(1),
        lr.Site(1, "attn"),
        lr.Site(1, "mlp"),
        lr.Site(1, "head", 2),
        lr.Site(1, "kv_group", 1),
        lr.Site(1, "stream"),
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_identity_edit_is_bit_exact_and_changes_nothing(
    architecture: str, site: lr.Site, dtype: str
) -> None:
    if (architecture, dtype) == ("olmo2", "bfloat16"):
        # TransformerLens 4.3 multiplies float32 with bfloat16 there.
        with pytest.raises(lr.InputError, match=r"does not run as torch\.bfloat16"):
            random_model(architecture, dtype)
        return
    model = random_model(architecture, dtype)
    with torch.inference_mode():
        intact = model(TOKENS)
        with lr.ablated(model, lr.Condition({site: Scale(1.0)})) as run:
            same = model(TOKENS)
        with lr.ablated(model, lr.Condition({site: lr.Noise(0.0)})) as quiet:
            silent = model(TOKENS)
        with lr.ablated(model, lr.Condition({site: Scale(0.5)})) as other:
            different = model(TOKENS)
    assert torch.equal(intact, same)
    assert torch.equal(intact, silent)
    assert not run.changed.any()
    assert not quiet.changed.any()
    assert other.changed.all()
    assert not torch.equal(intact, different)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_head_edit_leaves_its_siblings_alone(architecture: str) -> None:
    """Also of the heads with which it shares keys and values."""
    model = random_model(architecture)
    name = lr.Site(1, "head", 2).hook_name
    with torch.inference_mode():
        _, before = model.run_with_cache(TOKENS, names_filter=[name])
        with lr.ablated(model, lr.Condition({lr.Site(1, "head", 2): lr.Zero()})):
            _, after = model.run_with_cache(TOKENS, names_filter=[name])
    n_heads = model.cfg.n_heads
    old, new = (cache[name].reshape(1, 8, n_heads, -1) for cache in (before, after))
    others = [head for head in range(n_heads) if head != 2]
    assert torch.equal(old[:, :, others], new[:, :, others])
    assert not new[:, :, 2].any()
    assert old[:, :, 2].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_group_is_its_heads(architecture: str) -> None:
    model = random_model(architecture)
    size = size_of(model.cfg)
    share = size.n_heads // size.n_kv_heads
    group = lr.Condition({lr.Site(1, "kv_group", 1): Scale(-0.5)})
    heads = {lr.Site(1, "head", head): Scale(-0.5) for head in range(share, 2 * share)}
    assert share == (1 if architecture in ("gpt2", "neox") else 2)
    assert torch.equal(logits(architecture, group), logits(architecture, lr.Condition(heads)))
    assert not torch.equal(logits(architecture, group), logits(architecture, lr.Condition({})))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_stream_itself_is_replaced(architecture: str) -> None:
    """`Zero` erases what is upstream, the embedding with it."""
    model = random_model(architecture)
    with torch.inference_mode():
        by_hand = model.run_with_hooks(
            TOKENS, fwd_hooks=[("blocks.1.hook_out", lambda value, hook: torch.zeros_like(value))]
        )
        halved = model.run_with_hooks(
            TOKENS, fwd_hooks=[("blocks.1.hook_out", lambda value, hook: 0.5 * value)]
        )
    for edit, expected in ((lr.Zero(), by_hand), (Scale(0.5), halved)):
        found = logits(architecture, lr.Condition({lr.Site(1, "stream"): edit}))
        assert torch.equal(found, expected)


def test_noise_has_the_scale_of_the_write_and_comes_from_the_tokens_alone() -> None:
    model = random_model("llama")
    reference = lr.Reference(["abc", "hello there", "one more text"])
    site = lr.Site(1, "attn")
    found = collect(model, reference, [site])[site]
    condition = lr.Condition({site: lr.Noise(2.0, reference)})

    def added(tokens: Tensor, *, mask: Tensor | None = None) -> Tensor:
        options = {} if mask is None else {"attention_mask": mask}
        with torch.inference_mode():
            _, before = model.run_with_cache(tokens, names_filter=[site.hook_name], **options)
            with lr.ablated(model, condition):
                _, after = model.run_with_cache(tokens, names_filter=[site.hook_name], **options)
        return after[site.hook_name] - before[site.hook_name]

    alone = added(TOKENS)
    # Beside another row, behind pads, and as the beginning of a longer text: the same numbers.
    beside = added(torch.cat([TOKENS.flip(1), TOKENS]))[1:]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), TOKENS], dim=1)
    behind = added(padded, mask=(torch.arange(11) >= 3).long()[None])[:, 3:]
    longer = added(torch.cat([TOKENS, TOKENS], dim=1))[:, :8]
    for other in (beside, behind, longer):
        torch.testing.assert_close(alone, other, atol=1e-5, rtol=1e-4)
    normal = alone[0].double() / (2 * torch.stack([found.first_std, *[found.rest_std] * 7]))
    assert 0.8 < float(normal[:, found.rest_std > 1e-3].std()) < 1.2
    assert not torch.equal(alone[0, 1], alone[0, 2])


@pytest.mark.parametrize("ablation", [lr.Skip(), Scale(0.3)], ids=["skip", "scale"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_after_first_spares_the_first_token(architecture: str, ablation: lr.Ablation) -> None:
    model = random_model(architecture)
    name = "blocks.0.hook_out"
    condition = lr.Condition({lr.Site(0): ablation}, at="after_first")
    with torch.inference_mode():
        _, intact = model.run_with_cache(TOKENS, names_filter=[name])
        with lr.ablated(model, condition):
            _, spared = model.run_with_cache(TOKENS, names_filter=[name])
    assert torch.equal(intact[name][:, 0], spared[name][:, 0])
    assert (intact[name][:, 1:] != spared[name][:, 1:]).any(-1).all()


def test_after_first_means_the_first_real_token() -> None:
    """Of a row that is padded, too."""
    model = random_model("llama")
    condition = lr.Condition({lr.Site(0): lr.Skip()}, at="after_first")
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), TOKENS], dim=1)
    mask = (torch.arange(padded.shape[1]) >= 3).long()[None]
    with torch.inference_mode(), lr.ablated(model, condition):
        alone = model(TOKENS)
        beside = model(padded, attention_mask=mask)
    torch.testing.assert_close(alone, beside[:, 3:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("at", ["all", "after_first"])
@pytest.mark.parametrize(
    ("site", "edit"),
    [
        (lr.Site(0), Scale(-0.5)),
        (lr.Site(1), Scale(-0.5)),
        (lr.Site(2, "mlp"), lr.Noise(2.0)),
        (lr.Site(1, "head", 0), Scale(-0.5)),
        (lr.Site(1, "kv_group", 1), lr.Noise(2.0)),
        (lr.Site(0, "stream"), Scale(-0.5)),
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cached_generation_equals_uncached(
    architecture: str, site: lr.Site, edit: lr.Ablation, at: str
) -> None:
    model = random_model(architecture)
    condition = lr.Condition({site: edit}, at=at)
    options = {"max_new_tokens": 6, "do_sample": False, "stop_at_eos": False, "verbose": False}
    with torch.inference_mode(), lr.ablated(model, condition):
        cached = model.generate(TOKENS, use_past_kv_cache=True, **options)
        whole = model.generate(TOKENS, use_past_kv_cache=False, **options)
    assert cached.tolist() == whole.tolist()


@pytest.mark.parametrize("at", ["all", "prompt", "generated", "after_first"])
def test_a_state_space_models_generation_equals_uncached(at: str) -> None:
    """Its cache does not say how many tokens it has read."""
    model, text = random_model("mamba"), "abcdef"
    condition = lr.Condition({lr.Site(1): lr.Skip()}, at=at)
    ids = torch.tensor([lr.models.encode(model, text)])
    options = {"max_new_tokens": 5, "do_sample": False, "stop_at_eos": False, "verbose": False}
    with torch.inference_mode(), lr.ablated(model, condition):
        cached, whole, again = (
            model.generate(ids, use_past_kv_cache=uses_cache, **options).tolist()
            for uses_cache in (True, False, True)
        )
    assert cached == whole == again


def test_mean_equals_a_mean_taken_at_once_and_keeps_the_first_token_apart() -> None:
    model = random_model("llama")
    texts = ["abc", "hello there", "x = 12", "a rather longer text than the others"]
    site = lr.Site(1)
    writes: list[Tensor] = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([lr.models.encode(model, text)])
            names = ["blocks.1.hook_in", "blocks.1.hook_out"]
            _, cache = model.run_with_cache(ids, names_filter=names)
            writes.append((cache[names[1]] - cache[names[0]])[0].double())
    first = torch.stack([write[0] for write in writes]).mean(0)
    rest = torch.cat([write[1:] for write in writes]).mean(0)
    for batch_size in (1, 3):
        found = collect(model, lr.Reference(texts), [site], batch_size=batch_size)[site]
        torch.testing.assert_close(found.first, first, atol=2e-6, rtol=0)
        torch.testing.assert_close(found.rest, rest, atol=2e-6, rtol=0)
        spread = torch.cat([write[1:] for write in writes]).std(0, correction=0)
        torch.testing.assert_close(found.rest_std, spread, atol=2e-6, rtol=0)
        assert (found.n_first, found.n_rest) == (4, sum(map(len, writes)) - 4)


def test_mean_writes_the_mean() -> None:
    model = random_model("llama")
    reference = lr.Reference(["abc", "hello there"])
    for site in (lr.Site(1), lr.Site(1, "attn"), lr.Site(1, "head", 3)):
        means = collect(model, reference, [site])[site]
        name = site.hook_name
        with torch.inference_mode(), lr.ablated(model, lr.Condition({site: lr.Mean(reference)})):
            _, cache = model.run_with_cache(TOKENS, names_filter=[name, "blocks.1.hook_in"])
        entry = cache["blocks.1.hook_in"] if site.part == "block" else None
        write = extract_write(site, cache[name], entry, model)[0].double()
        torch.testing.assert_close(write[0], means.first, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(write[1:], means.rest.expand_as(write[1:]), atol=1e-5, rtol=1e-5)


def test_hooks_are_gone_after_an_exception() -> None:
    model = random_model("llama")
    with pytest.raises(ZeroDivisionError), lr.ablated(model, lr.Condition({lr.Site(1): lr.Skip()})):
        model(TOKENS)
        raise ZeroDivisionError


def test_a_hook_that_does_not_fire_is_an_error() -> None:
    model = random_model("llama")
    condition = lr.Condition({lr.Site(1): lr.Skip()})
    with pytest.raises(RuntimeError, match="fired 0 times in 1 passes"), ablated(model, condition):
        # As if the architecture ran past its hook.
        model.get_hook_point("blocks.1.hook_out").remove_hooks("fwd")
        model(TOKENS)


def test_contexts_nest() -> None:
    model = random_model("llama")
    both = lr.Condition({lr.Site(0): lr.Skip(), lr.Site(2): lr.Skip()})
    with torch.inference_mode():
        with (
            lr.ablated(model, lr.Condition({lr.Site(0): lr.Skip()})),
            lr.ablated(model, lr.Condition({lr.Site(2): lr.Skip()})),
        ):
            nested = model(TOKENS)
        with lr.ablated(model, both):
            assert torch.equal(model(TOKENS), nested)


def test_edit_receives_positions_and_tokens() -> None:
    seen: list[tuple[list[int], list[int]]] = []
    numbers: list[float] = []

    @lr.ablation("test-look")
    @dataclass(frozen=True)
    class Look(lr.Ablation):
        """Record positions and tokens."""

        def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
            assert ctx.tokens is not None
            seen.append((ctx.positions[0].tolist(), ctx.tokens[0].tolist()))
            draw = torch.rand(1, generator=ctx.generator(0, write.shape[1] - 1))
            numbers.append(float(draw))
            return write

    model = random_model("llama")
    with torch.inference_mode(), lr.ablated(model, lr.Condition({lr.Site(1): Look()})):
        options = {"max_new_tokens": 3, "do_sample": False, "stop_at_eos": False}
        made = model.generate(TOKENS, verbose=False, **options)[0].tolist()
        cached, drawn = seen.copy(), numbers.copy()
        seen.clear()
        numbers.clear()
        model.generate(TOKENS, use_past_kv_cache=False, verbose=False, **options)
    assert [positions for positions, _ in cached] == [list(range(8)), [8], [9]]
    assert [tokens for _, tokens in cached] == [made[:8], made[:9], made[:10]]
    assert [tokens for _, tokens in seen] == [made[:8], made[:9], made[:10]]
    assert drawn == numbers  # seeded by the row's tokens, whether or not they are cached


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: lr.Condition({lr.Site(0, "head", 1): lr.Skip()}), "heads cannot be skipped"),
        (lambda: lr.Condition({lr.Site(0, "stream"): lr.Skip()}), "the stream cannot be skipped"),
        (lambda: lr.Condition({lr.Site(0, "kv_group", 1): lr.Skip()}), "cannot be skipped"),
        (lambda: lr.Noise(-1.0), "scale=-1.0"),
        (lambda: lr.Noise(float("nan")), "scale=nan"),
        (lambda: lr.pairs(random_model("llama"), lr.Skip(), layers=[1]), "takes two layers"),
        (
            lambda: lr.cumulative(random_model("llama"), lr.Skip(), order=[1, 1]),
            "name each layer once",
        ),
        (lambda: lr.random_heads(random_model("llama"), lr.Zero(), n=13), "there are 12 heads"),
        (
            lambda: lr.random_heads(random_model("llama"), lr.Zero(), n=1, layers=[0, 99]),
            "layer 99 is out of range",
        ),
        (lambda: lr.random_heads(random_model("llama"), lr.Skip(), n=1), "cannot be skipped"),
        (lambda: lr.random_heads(random_model("llama"), lr.Zero()), "drawn by n=, or like="),
        (
            lambda: lr.random_heads(random_model("llama"), lr.Zero(), n=1, like=HEADS[:1]),
            "drawn by n=, or like=",
        ),
        (
            lambda: lr.random_heads(random_model("llama"), lr.Zero(), like=HEADS[:3]),
            "layer 1 has 1 heads beside the 3 chosen",
        ),
        (
            lambda: lr.random_heads(random_model("llama"), lr.Zero(), like=[lr.Site(1)]),
            "such as L3.H7, and L1 is none",
        ),
        (lambda: lr.Condition({}, at="after_first"), "the empty condition is called 'intact'"),
        (lambda: lr.Condition({lr.Site(0): lr.Skip()}, name="intact"), "'intact' is the name"),
        (lambda: lr.each_layer(random_model("llama"), lr.Skip(), layers=[3]), "layers 0 to 2"),
        (lambda: lr.each_layer(random_model("llama"), lr.Zero(), part="head"), "use each_head"),
        (lambda: lr.each_head(random_model("llama"), lr.Skip()), "heads cannot be skipped"),
        (lambda: lr.each_span(random_model("llama"), lr.Skip(), width=4), "width=4"),
        (lambda: lr.Reference([]), "at least one prompt"),
        (lambda: lr.Reference("text"), "not one string"),
        (lambda: lr.Reference(pd.DataFrame({"text": ["a"]})), "not a DataFrame: give one column"),
        (lambda: lr.Reference({"text": ["a"]}), "not a dict: give one column"),
        (lambda: lr.Reference(["text"], limit=0), "limit >= 1"),
        (lambda: ABLATIONS["skp"], "did you mean 'skip'?"),
    ],
)
def test_invalid_arguments_raise_input_error(make: object, line: str) -> None:
    with pytest.raises(lr.InputError) as caught:
        make()  # type: ignore[operator]
    assert line in str(caught.value)


def test_a_name_is_given_once() -> None:
    with pytest.raises(lr.InputError, match="'skip' is already registered"):

        @lr.ablation("skip")
        @dataclass(frozen=True)
        class Other(lr.Ablation):
            """Another."""

            def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
                return write


def test_edit_that_changes_the_shape_raises() -> None:
    @lr.ablation("test-shape")
    @dataclass(frozen=True)
    class Shape(lr.Ablation):
        """Lose a position."""

        def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
            return write[:, 1:]

    with pytest.raises(lr.InputError, match="an edit keeps the shape"):
        logits("llama", lr.Condition({lr.Site(0): Shape()}))


def test_grids_name_their_conditions() -> None:
    model = random_model("llama")
    assert [c.name for c in lr.each_layer(model, lr.Skip())] == ["skip L0", "skip L1", "skip L2"]
    assert lr.each_layer(model, lr.Zero(), part="mlp", layers=[1])[0].name == "zero L1.mlp"
    assert len(lr.each_head(model, lr.Zero())) == 12
    spans = lr.each_span(model, lr.Skip(), width=2, at="after_first")
    assert [c.name for c in spans] == ["skip L0:2 after_first", "skip L1:3 after_first"]
    assert [c.name for c in lr.each_span(model, lr.Skip(), width=1, stride=2)] == [
        "skip L0:1",
        "skip L2:3",
    ]
    groups = lr.each_kv_group(model, lr.Zero(), layers=[2])
    assert [c.name for c in groups] == ["zero L2.KV0", "zero L2.KV1"]
    assert [c.name for c in lr.pairs(model, lr.Skip())] == [
        "skip L0,L1",
        "skip L0,L2",
        "skip L1,L2",
    ]
    grown = lr.cumulative(model, lr.Skip(), order="top-down")
    assert [(c.name, [site.layer for site in c]) for c in grown] == [
        ("skip 1 top-down", [2]),
        ("skip 2 top-down", [1, 2]),
    ]
    mine = lr.cumulative(model, lr.Zero(), order=[1, 0], part="mlp", at="after_first")
    assert [(c.name, [str(site) for site in c]) for c in mine] == [
        ("zero 1.mlp of 1,0 after_first", ["L1.mlp"]),
        ("zero 2.mlp of 1,0 after_first", ["L0.mlp", "L1.mlp"]),
    ]
    drawn = lr.random_heads(model, lr.Zero(), n=5, seed=1)
    assert (drawn.name, len(drawn.edits)) == ("zero 5 random heads, seed 1", 5)
    assert drawn == lr.random_heads(model, lr.Zero(), n=5, seed=1)
    assert drawn != lr.random_heads(model, lr.Zero(), n=5, seed=2)
    few = lr.random_heads(model, Scale(0.25), n=4, layers=[2, 2])
    assert few.name == "test-scale[factor=0.25] 4 random heads of L2, seed 0"
    assert len(few.edits) == 4
    chosen = [HEADS[0], HEADS[2], lr.Site(2, "head", 3)]
    others = lr.random_heads(model, lr.Zero(), like=chosen, seed=3)
    assert others.name == "zero 3 other heads, seed 3"
    assert [site.layer for site in others] == [1, 1, 2]
    assert not set(others.edits) & set(chosen)
    assert lr.Condition({lr.Site(1): lr.Noise(0.5)}).name == "noise[scale=0.5] L1"


def test_a_condition_is_known_by_its_content() -> None:
    one = lr.Condition({lr.Site(0): Scale(0.5), lr.Site(1): lr.Skip()})
    same = lr.Condition({lr.Site(1): lr.Skip(), lr.Site(0): Scale(0.5)}, name="other name")
    assert one == same
    assert one != lr.Condition({lr.Site(0): Scale(0.6), lr.Site(1): lr.Skip()})
    assert one != lr.Condition({lr.Site(0): Scale(0.5), lr.Site(1): lr.Skip()}, at="after_first")
