"""What is collected over a reference, and the ablations that are made of it."""

import gc
import shutil
import weakref
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import layerroles as lr
from layerroles.ablations import SiteReference
from layerroles.ablations.write_statistics import collect
from layerroles.models.loading import encode
from tests.support.hugging_face_edits import TEXTS as KNOWN
from tests.support.hugging_face_edits import edited, writes
from tests.support.random_models import model_path, random_model, tokenizer

TEXTS = ["abc", "hello there", "x = 12", "some more of it"]
KINDS = ("positions", "donors")


def one_shot(part: str) -> list[Tensor]:
    """What layer 1 writes on each text, one text at a time, `[pos ...]` in float64."""
    model, found = random_model("llama"), []
    with edited("llama", part, lambda write: found.append(write[0].double()) or write) as hf:
        for text in TEXTS:
            with torch.inference_mode():
                hf(torch.tensor([encode(model, text)]))
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("part", ["block", "attn", "mlp", "stream"])
def test_means_and_donors_are_those_of_one_text_at_a_time(part: str, batch_size: int) -> None:
    model, site = random_model("llama"), lr.Site(1, part)  # type: ignore[arg-type]  # a part
    found = collect(model, lr.Reference(TEXTS), [site], KINDS, batch_size=batch_size)[site]
    seen = one_shot(part)
    first, rest = torch.stack([each[0] for each in seen]), torch.cat([each[1:] for each in seen])
    close = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(found.first, first.mean(0), **close)
    torch.testing.assert_close(found.rest, rest.mean(0), **close)
    torch.testing.assert_close(found.rest_std, rest.std(0, correction=0), **close)
    assert (found.n_first, found.n_rest) == (len(first), len(rest))
    assert found.positions is not None
    assert len(found.positions) == max(map(len, seen))
    for position, mean in enumerate(found.positions):
        there = torch.stack([each[position] for each in seen if len(each) > position])
        torch.testing.assert_close(mean, there.mean(0), **close)
    assert found.donors is not None
    for ids, start in zip(found.donors.ids, found.donors.starts, strict=True):
        (text,) = (n for n, text in enumerate(TEXTS) if tuple(encode(model, text)) == ids)
        writes = found.donors.writes[start : start + len(ids)].double()
        # Single writes are rounded in another batch.
        torch.testing.assert_close(writes, seen[text], atol=2e-5, rtol=2e-5)
        assert found.donors.starts[0] == 0
    assert len(found.donors.rest) == len(rest)


def test_means_are_pooled_unless_they_are_asked_for_by_position() -> None:
    site, reference = lr.Site(1, "attn"), lr.Reference(KNOWN)
    seen = writes("llama", "attn")
    ids = encode(random_model("llama"), "a text that is longer than those")
    means = [
        torch.stack([each[position] for each in seen if len(each) > position]).mean(0)
        for position in range(max(map(len, seen)))
    ]
    pooled = torch.cat([each[1:] for each in seen]).mean(0)
    table = torch.stack([*means, *[pooled] * (len(ids) - len(means))])
    with edited("llama", "attn", lambda write: table[None].to(write)) as hf, torch.inference_mode():
        expected = hf(torch.tensor([ids])).logits
    condition = lr.Condition({site: lr.Mean(reference, per_position=True)})
    with lr.ablated(random_model("llama"), condition), torch.inference_mode():
        found = random_model("llama")(torch.tensor([ids]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert condition.hash != lr.Condition({site: lr.Mean(reference)}).hash


def test_a_donor_is_another_prompt() -> None:
    for texts in (["one"], ["one", "one"]):
        with pytest.raises(lr.InputError, match="a donor is another prompt"):
            lr.Resample(lr.Reference(texts))
    # A prompt of one token has nothing to give to others.
    one_token = lr.Condition({lr.Site(1): lr.Resample(lr.Reference(["x", "longer"]))})
    with pytest.raises(lr.InputError, match="each of two tokens or more"):
        lr.Engine(random_model("llama")).loglikelihood([("a", "b")], [one_token])
    # Of two prompts each is the other's donor: the stream of the last layer decides over all.
    model, pair = random_model("llama"), ["abc", "xyz"]
    condition = lr.Condition({lr.Site(2, "stream"): lr.Resample(lr.Reference(pair))})
    with torch.inference_mode():
        own = [model(torch.tensor([encode(model, text)])) for text in pair]
        with lr.ablated(model, condition):
            exchanged = [model(torch.tensor([encode(model, text)])) for text in pair]
    torch.testing.assert_close(exchanged[0], own[1])
    torch.testing.assert_close(exchanged[1], own[0])


@lr.ablation("test-without-main-direction")
@dataclass(frozen=True)
class WithoutMainDirection(lr.Ablation):
    """Take the direction in which the reference's writes vary most out of the write."""

    reference: lr.Reference
    tag: str = ""
    fits_made: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"donors"})

    def fit(self, reference: SiteReference, site: lr.Site) -> Tensor:
        self.fits_made.append(str(site))
        assert reference.donors is not None
        off = reference.donors.writes.double() - reference.donors.writes.double().mean(0)
        return torch.linalg.svd(off, full_matrices=False).Vh[0]

    def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
        direction = ctx.fitted.to(write)
        return write - (write @ direction)[..., None] * direction


@lr.ablation("test-holds-a-model")
@dataclass(frozen=True)
class HoldsModel(lr.Ablation):
    reference: lr.Reference
    donor: TransformerBridge

    def fit(self, reference: SiteReference, site: lr.Site) -> TransformerBridge:
        return self.donor

    def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
        return write / 2


def test_what_an_ablation_learned_keeps_no_model_alive() -> None:
    model = lr.load(model_path("llama"))
    alive = weakref.ref(model)
    condition = lr.Condition({lr.Site(1): HoldsModel(lr.Reference(KNOWN), model)})
    with lr.ablated(model, condition):
        model(torch.tensor([[5, 6, 7]]))
    del model, condition
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("at", ["all", "prompt", "generated", "last"])
@pytest.mark.parametrize("part", ["block", "mlp", "head"])
def test_an_ablation_of_ones_own_learns_from_its_reference(part: str, at: str) -> None:
    model = random_model("llama")
    site = lr.Site(1, part, 2 if part == "head" else None)  # type: ignore[arg-type]  # a part
    edit = WithoutMainDirection(lr.Reference(KNOWN), tag=at)
    condition = lr.Condition({site: edit}, at=at)  # type: ignore[arg-type]  # a string
    engines = [lr.Engine(model, executor=name) for name in ("plain", "hooked", "fused")]  # type: ignore[arg-type]
    pairs = [("abc", "def"), ("other words", "xyz")]
    asked = [(text, {"max_gen_toks": 6}) for text, _ in pairs]
    found = [one.loglikelihood(pairs, [condition]).logprob for one in engines]
    texts = [one.generate_until(asked, [condition]) for one in engines]
    assert edit.fits_made == [str(site)]  # once, whoever asks
    assert all(abs(each - found[0]).max() < 1e-4 for each in found)
    assert all(each == texts[0] for each in texts)

    seen = torch.cat(writes("llama", part))
    direction = torch.linalg.svd(seen - seen.mean(0), full_matrices=False).Vh[0]
    for index, (context, continuation) in enumerate(pairs):
        n, ids = len(encode(model, context)), encode(model, context + continuation)
        acts = {
            "all": lambda p, n: True,
            "prompt": lambda p, n: p < n,
            "generated": lambda p, n: p >= n,
            "last": lambda p, n: p == n - 1,
        }[at]
        where = torch.tensor([acts(p, n) for p in range(len(ids) - 1)])[None, :, None]

        def without(write: Tensor, where: Tensor = where) -> Tensor:
            own = direction.to(write)
            return torch.where(where, write - (write @ own)[..., None] * own, write)

        with edited("llama", part, without) as hf, torch.inference_mode():
            scores = hf(torch.tensor([ids[:-1]])).logits[0, n - 1 :].log_softmax(-1)
        expected = float(scores.gather(1, torch.tensor(ids[n:])[:, None]).sum())
        assert found[0][0, index] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("executor", ["plain", "hooked", "fused"])
def test_reading_whole_prompts_requires_the_whole_prompt_attribute(executor: str) -> None:
    @lr.ablation(f"test-looks-at-prompts-{executor}")
    @dataclass(frozen=True)
    class Looks(lr.Ablation):
        def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
            return write * len(ctx.prompts[0].ids)

    def first_half(ctx: lr.EditContext) -> Tensor:
        halves = torch.tensor([[len(prompt.ids) // 2] for prompt in ctx.prompts])
        return ctx.positions < halves

    model = random_model("llama")
    engine = lr.Engine(model, executor=executor)  # type: ignore[arg-type]  # a string
    begun = "a beginning that is shared, "
    pairs = [(begun + "a", "bc"), (begun + "and longer", "x")]
    for condition in (
        lr.Condition({lr.Site(1): Looks()}),
        lr.Condition({lr.Site(1): lr.Zero()}, at=first_half),
    ):
        with pytest.raises(lr.InputError, match="whole_prompt = True"):
            engine.loglikelihood(pairs, [condition])
    first_half.whole_prompt = True  # type: ignore[attr-defined]  # a function has attributes
    declared = lr.Condition({lr.Site(1): lr.Zero()}, at=first_half)
    found = engine.loglikelihood(pairs, [declared]).logprob[0]
    for index, (context, continuation) in enumerate(pairs):
        n, ids = len(encode(model, context)), encode(model, context + continuation)
        where = (torch.arange(len(ids) - 1) < n // 2)[None, :, None]
        zero = partial(torch.where, where, 0.0)
        with edited("llama", "block", zero) as hf, torch.inference_mode():
            scores = hf(torch.tensor([ids[:-1]])).logits[0, n - 1 :].log_softmax(-1)
        expected = float(scores.gather(1, torch.tensor(ids[n:])[:, None]).sum())
        assert found[index] == pytest.approx(expected, abs=1e-4)


@lr.ablation("test-not-frozen")
@dataclass
class Thawed(lr.Ablation):
    factor: float = 1.0

    def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
        return write


@lr.ablation("test-holds-a-list")
@dataclass(frozen=True)
class Listed(lr.Ablation):
    factors: list[float] = field(default_factory=list)

    def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
        return write


@lr.ablation("test-needs-what-is-not-known")
@dataclass(frozen=True)
class Needy(lr.Ablation):
    reference: lr.Reference

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"donor"})

    def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
        return write


def test_invalid_custom_ablations_raise_input_error() -> None:
    for edit in (Thawed(), Listed([1.0])):
        with pytest.raises(lr.InputError, match=r"dataclass\(frozen=True\)"):
            lr.Condition({lr.Site(1): edit})
    condition = lr.Condition({lr.Site(1): Needy(lr.Reference(KNOWN))})
    with pytest.raises(lr.InputError, match="needs 'donor' of its reference: known are positions"):
        lr.Engine(random_model("llama")).loglikelihood([("a", "b")], [condition])


def test_a_prompt_longer_than_the_context_window_is_refused() -> None:
    """The tokens beyond it would all be read at one position, and go into the means."""
    model = random_model("gpt2")
    condition = lr.Condition({lr.Site(1, "mlp"): lr.Mean(lr.Reference(["a" * 300]))})
    with (
        pytest.raises(lr.InputError, match=r"has 300 tokens, and model .* reads 256: use shorter"),
        lr.ablated(model, condition),
    ):
        pass


@pytest.mark.parametrize("edit", [lr.Mean, lr.Resample])
def test_an_ablation_without_its_reference_is_refused(edit: type[lr.Mean | lr.Resample]) -> None:
    made = object.__new__(edit)  # as by edit(None) where argument types are not checked
    object.__setattr__(made, "reference", None)
    with pytest.raises(lr.InputError, match=r"needs a reference, use Reference\(texts_or_task\)"):
        made.__post_init__()


@pytest.mark.parametrize("executor", ["plain", "hooked", "fused"])
def test_a_pad_token_without_an_embedding_is_never_read(executor: str, tmp_path: Path) -> None:
    shutil.copytree(model_path("llama"), tmp_path / "model")
    spelling = tokenizer()
    spelling.add_special_tokens({"pad_token": "[PAD]"})
    spelling.save_pretrained(tmp_path / "model")
    model = lr.load(tmp_path / "model", dtype="float32")
    assert model.tokenizer.pad_token_id >= model.W_E.shape[0]
    mean = lr.Condition({lr.Site(1): lr.Mean(lr.Reference(["The sky", "Snow is white."]))})
    asked = [("abc", "de"), ("hello there", "x")]
    found, expected = (
        lr.Engine(each, executor=executor).loglikelihood(asked, [mean]).logprob  # type: ignore[arg-type]  # a string to the checker
        for each in (model, random_model("llama"))
    )
    assert torch.equal(torch.tensor(found), torch.tensor(expected))
