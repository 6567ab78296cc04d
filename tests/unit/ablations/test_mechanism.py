"""An ablation declares its mechanism; a load warns of massive writes that no `at` spares."""

import logging
from dataclasses import dataclass

import pytest
import torch

import layerroles as lr
from layerroles.models.checks import find_massive_writes
from layerroles.sweep.manifest_conditions import describe_condition
from tests.support.random_models import model_path, random_model


def test_unknown_mechanism_raises() -> None:
    with pytest.raises(
        lr.InputError, match=r"Thin: unknown mechanism 'deletio': did you mean 'del"
    ):

        @dataclass(frozen=True)
        class Thin(lr.Ablation):
            mechanism = "deletio"

            def edit(self, write, ctx):
                return write


def test_a_manifest_tells_the_mechanism_of_each_condition() -> None:
    skip, zero = lr.Condition({lr.Site(0): lr.Skip()}), {lr.Site(1): lr.Zero()}
    both = lr.Condition({lr.Site(0): lr.Skip(), **zero})
    mixed = lr.Condition({lr.Site(0): lr.Skip(), lr.Site(1): lr.Mean(lr.Reference(["a b c"]))})
    found = [describe_condition(one)["mechanism"] for one in (skip, both, mixed, lr.Condition({}))]
    assert found == ["deletion", "deletion", "", ""]


def with_massive_token(token: int):
    """A llama whose first MLP writes hugely where this token stands."""
    model = lr.load(model_path("llama"))  # not the model that all tests share
    hf = model.original_model.model
    with torch.no_grad():
        hf.embed_tokens.weight[:, 0] = 0.0
        hf.embed_tokens.weight[token, 0] = 30.0
        hf.layers[0].self_attn.o_proj.weight[0] = 0.0  # no other token reaches the neuron
        mlp = hf.layers[0].mlp
        for name in ("gate_proj", "up_proj"):
            getattr(mlp, name).weight[0] = 0.0
            getattr(mlp, name).weight[0, 0] = 1.0
        mlp.down_proj.weight[:, 0] = 1e4
    return model


def test_massive_writes_at_other_positions_than_the_first_are_found() -> None:
    ids = list(range(5, 25))
    assert find_massive_writes(random_model("llama"), ids) == {}
    assert find_massive_writes(with_massive_token(12), ids) == {0: [7]}
    assert find_massive_writes(with_massive_token(5), ids) == {}  # the first token is spared


def test_a_load_warns_of_them(caplog: pytest.LogCaptureFixture) -> None:
    model = random_model("llama")
    stop = model.tokenizer(".")["input_ids"][-1]
    with caplog.at_level(logging.WARNING):
        lr.prepare(with_massive_token(stop))
    (line,) = [record.getMessage() for record in caplog.records if "massive" in record.getMessage()]
    assert "layer 0 writes massive activations at positions" in line
    assert "at='after_first' does not spare them" in line
