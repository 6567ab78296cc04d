"""Conditions are distinguished and independent of each other; so are texts in one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import Phi3Config

import layerroles as lr
from layerroles.ablations import Condition
from layerroles.engine.fused.transformers_twin import WHOLE_LENGTH
from tests.support.random_models import CONFIGS, model_of, model_path, random_model

PAIRS = [("some text", " and more"), ("other words", " follow"), ("some text", " end")]
ASKED = [("some text", {"max_gen_toks": 6}), ("ab", {"max_gen_toks": 6})]
EXECUTORS = ("auto", "fused", "hooked")
BEGINNING = "Some words that all of the questions begin with. "


def assert_like_the_reference(
    model: TransformerBridge,
    chosen: Sequence[Condition],
    *,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    asked: Sequence[tuple[str, dict[str, Any]]] = ASKED,
    executor: Any = "auto",
) -> set[str]:
    """What answered."""
    plain = lr.Engine(model, executor="plain", batch_size=1)
    engine = lr.Engine(model, executor=executor)
    found, expected = (each.loglikelihood(pairs, chosen) for each in (engine, plain))
    assert abs(found.logprob - expected.logprob).max() < 1e-4
    texts = [each.generate_until(asked, chosen) for each in (engine, plain)]
    assert texts[0] == texts[1]
    return set(engine.used)


@dataclass(frozen=True)
class Mapped(lr.Ablation):
    """Writes what a map makes of the write."""

    map: nn.Module
    name = "mapped"

    def edit(self, write: torch.Tensor, ctx: lr.EditContext) -> torch.Tensor:
        """As it says."""
        found: torch.Tensor = self.map(write)
        return found


def linear(by: float) -> nn.Linear:
    """A map that multiplies."""
    found = nn.Linear(32, 32, bias=False).requires_grad_(False)
    found.weight.copy_(torch.eye(32) * by)
    return found


@pytest.mark.parametrize("executor", EXECUTORS)
def test_modules_with_different_weights_have_different_hashes(executor: str) -> None:
    model = random_model("llama")
    one, two = (Condition({lr.Site(1, "mlp"): Mapped(linear(by))}) for by in (1.0, 0.0))
    assert one.hash != two.hash
    assert one.hash == Condition({lr.Site(1, "mlp"): Mapped(linear(1.0))}).hash
    assert_like_the_reference(model, [Condition({}), one, two], executor=executor)
    answers = lr.Engine(model, executor=executor).loglikelihood(PAIRS, [Condition({}), one, two])  # type: ignore[arg-type]
    assert (answers.logprob[0] == answers.logprob[1]).all()
    assert (answers.logprob[0] != answers.logprob[2]).all()


class Above(nn.Module):
    """Where a stream's first number is above a bound."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """As it says."""
        return stream[..., 0] > self.bound


def test_modules_with_different_attributes_or_code_have_different_hashes() -> None:
    def acting(module: nn.Module) -> Condition:
        return Condition({lr.Site(1): lr.Zero()}, at=lambda ctx: module(ctx.stream) & ctx.real)

    class Below(Above):
        def forward(self, stream: torch.Tensor) -> torch.Tensor:
            return stream[..., 0] <= self.bound

    hashes = [acting(module).hash for module in (Above(1.0), Above(2.0), Below(1.0))]
    assert len(set(hashes)) == 3
    assert acting(Above(1.0)).hash == hashes[0]
    nested = [acting(nn.Sequential(nn.Identity(), Above(by))).hash for by in (1.0, 2.0)]
    assert nested[0] != nested[1]
    # A whole model as a parameter is identified by its weights.
    whole = [random_model("llama", seed=seed).original_model for seed in (0, 1)]
    assert len({Condition({lr.Site(1): Mapped(model)}).hash for model in whole}) == 2


@dataclass(frozen=True)
class Careless(lr.Ablation):
    """Centres the stream that it is shown, where it lies."""

    name = "careless"

    def edit(self, write: torch.Tensor, ctx: lr.EditContext) -> torch.Tensor:
        """As it says."""
        stream = ctx.stream
        stream -= stream.mean(-1, keepdim=True)
        return write - stream


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("part", ["block", "attn"])
def test_an_edit_that_works_in_place_reaches_no_other_condition(executor: str, part: Any) -> None:
    others = [
        Condition({lr.Site(1): lr.Zero()}),
        Condition({lr.Site(1, "mlp"): lr.Zero()}),
        Condition({lr.Site(2, "attn"): lr.Zero()}),
        Condition({}),
    ]
    chosen = [Condition({lr.Site(1, part): Careless()}), *others]
    assert_like_the_reference(random_model("llama"), chosen, executor=executor)


@pytest.mark.parametrize("architecture", ["gemma2", "mistral"])
def test_pads_are_not_taken_for_a_part_of_a_sliding_window(architecture: str) -> None:
    """Each text fits into it, but not as the replayed stages are padded."""
    if architecture == "mistral":
        config = type(CONFIGS["mistral"])(**{**CONFIGS["mistral"].to_dict(), "sliding_window": 128})
        model = model_of(config)
    else:
        model = random_model(architecture)
    text = BEGINNING + "x" * 60
    pairs = [(text, "ab"), (BEGINNING + "y", " a continuation about as long as the other context")]
    asked = [(text, {"max_gen_toks": 4}), (BEGINNING + "y", {"max_gen_toks": 70})]
    chosen = [Condition({}), Condition({lr.Site(1, "mlp"): lr.Zero()})]
    assert assert_like_the_reference(model, chosen, pairs=pairs, asked=asked) == {"fused"}
    with pytest.raises(lr.InputError, match=r"side by side \(padded\) do not fit into its sliding"):
        lr.Engine(model, executor="hooked").loglikelihood(pairs, chosen)
    # Where they do, it answers.
    assert_like_the_reference(model, chosen, executor="hooked")


def test_what_depends_on_the_length_of_a_text_is_left_to_the_reference() -> None:
    """Phi-3's long contexts: from some length on, every token is turned by other angles."""
    llama = CONFIGS["llama"].to_dict()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: llama[name] for name in (*names, "num_key_value_heads", "vocab_size")}
    width = llama["hidden_size"] // llama["num_attention_heads"] // 2
    config = Phi3Config(
        **sizes,
        **{name: llama[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
        max_position_embeddings=256,
        original_max_position_embeddings=32,
        rope_parameters={
            **{"rope_type": "longrope", "rope_theta": 10000.0},
            **{"short_factor": [1.0] * width, "long_factor": [4.0] * width},
            "original_max_position_embeddings": 32,
        },
    )
    model = model_of(config)
    for name in ("fused", "hooked"):
        reason = lr.Engine(model)._executors.refusal(name)  # type: ignore[arg-type]
        assert reason == WHOLE_LENGTH
    engine = lr.Engine(model)
    engine.loglikelihood([("a context of thirty characters", " and a rest"), ("short", " yes")])
    assert engine.used == {"plain"}


@pytest.mark.parametrize("ablation", [lr.Zero(), lr.Skip()])
def test_an_executor_is_tried_on_the_intact_model_too(ablation: lr.Ablation) -> None:
    """A hook that was there before the model was prepared, on the very block that is cut off."""
    bridge = TransformerBridge.boot_transformers(str(model_path("llama", 3)), dtype=torch.float32)
    bridge.add_hook("blocks.1.hook_out", lambda value, hook: value + 1.0, is_permanent=True)
    model = lr.prepare(bridge)
    chosen = lr.each_layer(model, ablation, layers=[1, 2])
    assert "fused" not in assert_like_the_reference(model, chosen)
