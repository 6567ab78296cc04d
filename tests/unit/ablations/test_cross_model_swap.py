"""A donor's layers in a host: against Hugging Face models that were put together by hand."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import layerroles as lr
from layerroles.sites import Part
from tests.support.families import family_model
from tests.support.hugging_face_edits import exchange_layers
from tests.support.random_models import (
    ALL_ARCHITECTURES,
    CONFIGS,
    make_random,
    model_path,
    random_model,
    tokenizer,
)
from tests.support.tiers import mark_rest

TOKENS = torch.tensor([[5, 9, 40, 7, 22, 13, 60, 8]])


def swapped(architecture: str, layers: Iterable[int], part: str = "block") -> lr.Condition:
    donor = random_model(architecture, seed=1)
    return lr.Condition({lr.Site(layer, part): lr.Swap(donor) for layer in layers})


@pytest.mark.parametrize(
    ("layers", "part"), [([1], "block"), ([0, 1, 2], "block"), ([1], "attn"), ([0, 2], "mlp")]
)
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_a_swap_equals_weights_that_were_exchanged(
    architecture: str, layers: list[int], part: str
) -> None:
    model = random_model(architecture)
    before = {name: tensor.clone() for name, tensor in model.original_model.state_dict().items()}
    condition = swapped(architecture, layers, part)
    if architecture == "phi" and part != "block":  # one norm for both sublayers
        with pytest.raises(lr.InputError, match="share their norm"), lr.ablated(model, condition):
            pass
        return
    with torch.inference_mode():
        expected = exchange_layers(architecture, layers, part)(TOKENS).logits
        intact = model(TOKENS)
        with lr.ablated(model, condition) as run:
            found = model(TOKENS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - intact).abs().max() > 1e-2
    assert run.changed.all()
    after = model.original_model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("architecture", "buffer"),
    [("gemma4", "layer_scalar"), ("deepseek_v3", "e_score_correction_bias")],
)
def test_saved_buffers_of_the_donor_come_with_its_weights(
    tmp_path: Path, architecture: str, buffer: str
) -> None:
    """They decide what a block computes, though they are no parameters."""
    truth = make_random(CONFIGS[architecture]).eval()
    model = random_model(architecture)
    for path, tensor in truth.named_buffers():
        if path.endswith(f"1.{buffer}") or (".1.mlp" in path and path.endswith(buffer)):
            tensor.copy_(torch.linspace(2.0, 3.0, tensor.numel()).reshape(tensor.shape))
    truth.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    donor = lr.load(tmp_path, dtype="float32")
    condition, itself = (lr.Condition({lr.Site(1): lr.Swap(one)}) for one in (donor, model))
    assert condition.hash != itself.hash
    with torch.inference_mode():
        intact, expected = model(TOKENS), truth(TOKENS).logits
        with lr.ablated(model, condition) as run:
            found = model(TOKENS)
        assert torch.equal(model(TOKENS), intact)
    assert run.changed.all()
    assert (expected - intact).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    asked = [("abc", "de"), ("hello there", "x")]
    found, reference = (
        lr.Engine(model, executor=executor).loglikelihood(asked, [condition]).logprob
        for executor in ("auto", "plain")
    )
    torch.testing.assert_close(torch.tensor(found), torch.tensor(reference), atol=1e-4, rtol=0)


@pytest.mark.parametrize("part", ["block", "mlp"])
def test_a_model_swapped_with_itself_is_the_same_bit_for_bit(part: str) -> None:
    model = random_model("llama")
    condition = lr.Condition({lr.Site(layer, part): lr.Swap(model) for layer in range(3)})
    with torch.inference_mode():
        intact = model(TOKENS)
        with lr.ablated(model, condition) as run:
            assert torch.equal(model(TOKENS), intact)
    assert not run.changed.any()


@pytest.mark.parametrize("executor", ["plain", "hooked", "fused", "auto"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_the_engine_generates_with_the_donors_keys_and_values(
    architecture: str, executor: str, tmp_path: Path
) -> None:
    exchange_layers(architecture, [0, 2]).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    exchanged, model = lr.load(tmp_path, dtype="float32"), random_model(architecture)
    asked = [(text, {"max_gen_toks": 8}) for text in ("abc", "hello there", "abcd")]
    pairs = [("abc", "de"), ("hello there", "x"), ("abc", "fgh")]
    engine = lr.Engine(model, executor=executor)  # type: ignore[arg-type]  # a string to the checker
    conditions = [lr.Condition({}), swapped(architecture, [0, 2])]
    alone = lr.Engine(exchanged, executor="plain")
    texts = engine.generate_until(asked, conditions)
    assert texts[1] == alone.generate_until(asked)[0]
    assert texts[0] != texts[1]
    found, expected = engine.loglikelihood(pairs, conditions), alone.loglikelihood(pairs)
    torch.testing.assert_close(
        torch.tensor(found.logprob[1]), torch.tensor(expected.logprob[0]), atol=1e-4, rtol=0
    )
    assert found.changed.tolist() == [[False] * 3, [True] * 3]
    assert engine.used == {executor if executor != "auto" else "fused"}


def test_the_host_has_its_weights_back_after_an_error() -> None:
    model = random_model("llama")
    with torch.inference_mode():
        intact = model(TOKENS)
    with pytest.raises(ZeroDivisionError), lr.ablated(model, swapped("llama", [1])):
        raise ZeroDivisionError
    with torch.inference_mode():
        assert torch.equal(model(TOKENS), intact)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"intermediate_size": 64}, "intermediate_size is 64 there and 48 here"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2 there and 3 here"),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 4 there"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_parameters"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps is 0.001"),
        ({"attention_bias": True}, "attention_bias is True"),
    ],
)
def test_a_donor_of_another_shape_is_refused(
    changed: dict[str, object], line: str, tmp_path: Path
) -> None:
    config = LlamaConfig(**CONFIGS["llama"].to_diff_dict() | changed)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    donor = lr.load(tmp_path, dtype="float32")
    condition = lr.Condition({lr.Site(1): lr.Swap(donor)})
    with pytest.raises(lr.InputError, match="cannot be a donor") as caught:
        lr.Engine(random_model("llama")).loglikelihood([("a", "b")], [condition])
    assert line in str(caught.value)


def test_invalid_swaps_raise_and_hashes_depend_on_block_weights(tmp_path: Path) -> None:
    donor = random_model("llama", seed=1)
    for site in (lr.Site(0, "head", 1), lr.Site(0, "kv_group", 0), lr.Site(0, "stream")):
        with pytest.raises(lr.InputError, match="cannot be swapped"):
            lr.Condition({site: lr.Swap(donor)})
    with pytest.raises(lr.InputError, match="acts at all positions"):
        lr.Condition({lr.Site(0): lr.Swap(donor)}, at="after_first")
    one, two = (lr.Condition({lr.Site(0): lr.Swap(random_model("llama", seed=n))}) for n in (0, 1))
    assert one != two  # identified by the donor's weights, not by their path
    shutil.copytree(model_path("llama"), tmp_path / "elsewhere")
    same = lr.load(tmp_path / "elsewhere", dtype="float32")
    assert one.hash == lr.Condition({lr.Site(0): lr.Swap(same)}).hash
    with torch.no_grad():
        next(same.original_model.parameters()).add_(1.0)  # the embedding: not of a block
        assert one.hash == lr.Condition({lr.Site(0): lr.Swap(same)}).hash
        next(same.blocks[2].parameters()).add_(1.0)
    assert one.hash != lr.Condition({lr.Site(0): lr.Swap(same)}).hash


@lr.ablation("elsewhere")
@dataclass(frozen=True)
class Elsewhere(lr.Swap):
    """A swap that does not declare which tensors it replaces."""

    def donated(self, model: object, site: lr.Site) -> None:
        return None


@lr.ablation("some_elsewhere")
@dataclass(frozen=True)
class SomeElsewhere(lr.Swap):
    """A swap that declares its tensors in the first layer only."""

    def donated(self, model: Any, site: lr.Site) -> dict[str, torch.Tensor] | None:
        return super().donated(model, site) if site.layer == 0 else None


def test_swap_with_undeclared_tensors_is_not_fused() -> None:
    model = random_model("llama")
    declared, undeclared = (
        lr.Condition({lr.Site(1): edit(random_model("llama", seed=1))})
        for edit in (lr.Swap, Elsewhere)
    )
    with pytest.raises(lr.InputError, match="there is no plan"):
        lr.Engine(model).plan([("a", "b")], [undeclared])
    assert lr.Engine(model).plan([("a", "b")], [declared]).groups
    engine = lr.Engine(model)
    one, two = engine.loglikelihood([("a", "b")], [declared, undeclared]).logprob
    assert abs(one[0] - two[0]) < 1e-4
    assert engine.used == {"fused", "hooked"}


@pytest.mark.parametrize("executor", ["plain", "hooked", "fused"])
def test_a_sublayers_donor_goes_before_its_blocks(executor: str) -> None:
    model = random_model("llama")
    one, two = (lr.Swap(random_model("llama", seed=seed)) for seed in (1, 2))
    block, attention = lr.Site(1), lr.Site(1, "attn")
    conditions = [
        lr.Condition({attention: two}),
        lr.Condition({block: one, attention: two}),
        lr.Condition({block: one}),
        lr.Condition({block: one, lr.Site(1, "head", 2): lr.Zero()}),
    ]
    asked = [(text, {"max_gen_toks": 6}) for text in ("abc", "hello there")]
    engine = lr.Engine(model, executor=executor)  # type: ignore[arg-type]  # a string to the checker
    reference = lr.Engine(model, executor="plain", batch_size=1)
    found, expected = (
        e.loglikelihood([("abc", "de"), ("hello there", "x")], conditions)
        for e in (engine, reference)
    )
    torch.testing.assert_close(
        torch.tensor(found.logprob), torch.tensor(expected.logprob), atol=1e-4, rtol=0
    )
    assert len(set(map(tuple, found.logprob))) == 4
    assert engine.generate_until(asked, conditions) == reference.generate_until(asked, conditions)


def test_layers_that_cannot_be_fused_are_left_to_another_executor() -> None:
    model = random_model("llama")
    conditions = [
        lr.Condition({lr.Site(layer): SomeElsewhere(random_model("llama", seed=1))})
        for layer in (0, 2)
    ]
    engine = lr.Engine(model)
    found = engine.loglikelihood([("abc", "de")], conditions).logprob
    expected = lr.Engine(model, executor="plain").loglikelihood([("abc", "de")], conditions).logprob
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-4, rtol=0)
    assert engine.used == {"fused", "hooked"}


@pytest.mark.parametrize(
    "architecture",
    mark_rest("matrix", ALL_ARCHITECTURES, first=["llama", "gpt2", "gemma2", "mixtral"]),
)
def test_rows_under_several_donors_and_edits_are_answered_together(architecture: str) -> None:
    model, other = random_model(architecture), random_model(architecture, seed=2)
    conditions = [
        lr.Condition({}),
        swapped(architecture, [0]),
        swapped(architecture, [1, 2]),
        lr.Condition({lr.Site(layer): lr.Swap(other) for layer in (1, 2)}),
        lr.Condition({lr.Site(1): lr.Skip()}),
        swapped(architecture, range(model.cfg.n_layers)),
        lr.Condition({lr.Site(1): lr.Skip(), **swapped(architecture, [2]).edits}),
    ]
    if architecture != "phi":  # one norm for both sublayers
        conditions += [swapped(architecture, [1], part) for part in ("attn", "mlp")]
    pairs = [("abc", "de"), ("abc", "fgh"), ("hello there", "x")]
    asked = [(text, {"max_gen_toks": 6}) for text in ("abc", "hello there", "abcd")]
    plain, engine = lr.Engine(model, executor="plain"), lr.Engine(model)
    found, expected = (one.loglikelihood(pairs, conditions) for one in (engine, plain))
    torch.testing.assert_close(
        torch.tensor(found.logprob), torch.tensor(expected.logprob), atol=1e-4, rtol=0
    )
    assert (found.changed == expected.changed).all()
    assert engine.generate_until(asked, conditions) == plain.generate_until(asked, conditions)
    # The weights of experts meet the tokens that were sent to them.
    experts = architecture in ("mixtral", "qwen3_moe")
    assert engine.used == ({"fused", "hooked"} if experts else {"fused"})


def test_a_swap_stands_beside_other_ablations() -> None:
    model, donor = random_model("llama"), random_model("llama", seed=1)
    both = lr.Condition({lr.Site(0, "mlp"): lr.Swap(donor), lr.Site(2): lr.Skip()})
    with torch.inference_mode():
        with lr.ablated(model, both) as run:
            found = model(TOKENS)
        with (
            lr.ablated(model, lr.Condition({lr.Site(2): lr.Skip()})),
            lr.ablated(model, lr.Condition({lr.Site(0, "mlp"): lr.Swap(donor)})),
        ):
            assert torch.equal(model(TOKENS), found)
    assert run.changed.all()


@pytest.mark.parametrize(
    ("family", "part", "reason"),
    [
        ("mamba", "mixer", "the layer has one part, swap"),
        ("granite_moe_hybrid_dense", "mlp", "the MLP is not one module"),
    ],
)
def test_a_part_that_cannot_be_swapped_is_refused_with_its_reason(
    family: str, part: Part, reason: str
) -> None:
    model, donor = family_model(family)[1], family_model(family)[1]
    swap = lr.Condition({lr.Site(0, part): lr.Swap(donor)})
    with pytest.raises(lr.InputError, match=reason), lr.ablated(model, swap):
        pass


@pytest.mark.parametrize("family", ["jamba", "qwen3_5"])
def test_the_mixer_of_a_hybrid_is_the_donors(family: str) -> None:
    tokens = torch.tensor([[5, 9, 40, 7, 22, 13]])
    (host, model), (given, donor) = family_model(family), family_model(family, seed=1)
    block, other = host.model.layers[0], given.model.layers[0]
    mixer = "mamba" if family == "jamba" else "linear_attn"
    for name in ("input_layernorm", mixer):
        block.get_submodule(name).load_state_dict(other.get_submodule(name).state_dict())
    swap = lr.Condition({lr.Site(0, "mixer"): lr.Swap(donor)})
    with torch.inference_mode():
        expected = host(tokens, use_cache=False).logits
        intact = model(tokens, use_cache=False)
        with lr.ablated(model, swap):
            logits = model(tokens, use_cache=False)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert (logits - intact).abs().max() > 1e-3
