"""The hashes of conditions are the same on every machine, Python and version of the package.

Rows are stored under these hashes: where one changes, runs of earlier versions cannot be resumed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import layerroles as lr
from layerroles import Skip
from layerroles.ablations import ABLATIONS
from layerroles.sites import ATS
from tests.support.random_models import random_model
from tests.support.small_run import plant

FROZEN = """\
129d6147e4127e86 intact
5fec8d83f13a43bc skip L1
fbeb4a38f923041d skip L1.attn
231c1eec6b1673e6 skip L1.mlp
55d8025494d3d2ed zero L1
aac67ad7cccd7785 zero L1.attn
ff012679cc3ecfac zero L1.mlp
82fb4ddd9bd630e6 zero L1.stream
6470ecf5c9d7d312 zero L1.H2
4b83352fce8cee09 zero L1.KV1
7deaeba1fe34c0b8 mean L1
54e307b356bf2f1d mean L1.attn
b2ca538c84a697e0 mean L1.mlp
292616e7acc2d3c7 mean L1.stream
e66b90635c7a2f84 mean L1.H2
586663402ee17c0e mean L1.KV1
14ecb41c97bf59f4 resample L1
f6c1ef20f360c568 resample L1.attn
f4dd99ebf92ca124 resample L1.mlp
b3a6900fb446f154 resample L1.stream
5538a61abb1fd7e7 resample L1.H2
b869a1759eaa3960 resample L1.KV1
1449bc1e0b2a103d noise L1
69f87bfda7efe6ac noise L1.attn
7b6c85f79bdf4f00 noise L1.mlp
97064ea77cc3746e noise L1.stream
0354203302ba45f9 noise L1.H2
12179abd5cf9d5e7 noise L1.KV1
35e5077443de1196 zero L1 after_first
c07542f50f142c1b zero L1 prompt
f9f253acfdf44bab zero L1 generated
a3394a6bd53ff40d zero L1 evidence
007bdc93b6c872b9 zero L1 last
273464c76621bb79 mean[per_position=True] L2
b12906dd5284e987 mean of facts
b12906dd5284e987 mean of a task
b813d29c615f6495 own mean
c263c96b2d633ca1 own mean, 8, seed 1
57edc43bdca37b51 resample[seed=1] L2
075bd185b12ddf9d noise[scale=0.5] L2
3c2869c10af60381 noise of a reference
dac8bf77ac036c5a skip L0 + zero L1.H3 + noise[scale=2.0] L2.mlp
a00b8f2aab9650e1 skip L0 + zero L1.H3 + noise[scale=2.0] L2.mlp generated
f1e6dd930db7b617 mean L2.attn prompt
c662bba34d7dd837 zero L0.H3
a276f07dffb66aaa zero L0.KV1
6588666b4274fb88 skip L0:2.mlp
a67c17781b0a6682 skip L1:3.mlp
e260b1a85924484d skip L0,L2 after_first
975be50ebca62241 skip 1 top-down
37c62d7912ccba94 skip 2 top-down
7eb8d4099102a1aa skip 2.attn of 1,0,2
f6a059378423fbfd skip 3.attn of 1,0,2
5caa6a94e478afef zero 3 random heads, seed 1
6470ecf5c9d7d312 zero 1 other heads, seed 0
dffce4c43979631b holds float
1edb82db234f4a69 holds tuple
1fb0b9cc3b3082c8 holds frozenset
08eb05aef9ef32d9 holds Tensor
cfcf8d336e4f843a holds Pair
"""
# A class or function of the package enters a hash by its path, if it is a parameter of an ablation
# or a global in a function for `at`. Maps public names that may be one to the paths in hashes.
FIRST_PATHS = {
    "Ablation": "layerroles.ablations.base.Ablation",
    "Condition": "layerroles.ablations.condition.Condition",
    "EditContext": "layerroles.ablations.base.EditContext",
    "InputError": "layerroles.errors.InputError",
    "Mean": "layerroles.ablations.mean.Mean",
    "Noise": "layerroles.ablations.noise.Noise",
    "Prompt": "layerroles.ablations.prompts.Prompt",
    "Reference": "layerroles.ablations.reference.Reference",
    "Resample": "layerroles.ablations.resample.Resample",
    "Site": "layerroles.sites.Site",
    "Skip": "layerroles.ablations.simple.Skip",
    "Swap": "layerroles.ablations.swap.Swap",
    "Zero": "layerroles.ablations.simple.Zero",
    "ablated": "layerroles.ablations.apply.ablated",
}
# What identifies `late`: name, code, defaults, keyword defaults, closure, the globals it uses.
LATE = [
    "late",
    ["bytecode", "torch", "where", "positions", "FROM", "bool", "lr", "ablated", "Skip", ["None"]],
    *("None", "None", ["list"]),
    [
        *("dict", "(\"'FROM'\", '4')", "(\"'Skip'\", 'layerroles.ablations.simple.Skip')"),
        *("(\"'lr'\", 'layerroles')", "(\"'torch'\", 'torch')"),
    ],
]
TEXTS = lr.Reference(["The sky is blue.", "Snow is white.", "Coal is black."])
SITES = (
    *(lr.Site(1), lr.Site(1, "attn"), lr.Site(1, "mlp"), lr.Site(1, "stream")),
    *(lr.Site(1, "head", 2), lr.Site(1, "kv_group", 1)),
)
FROM = 4


@dataclass(frozen=True)
class Pair:
    one: object
    two: object


@dataclass(frozen=True)
class Holds(lr.Ablation):
    """Holds a value among its parameters."""

    value: object
    name = "holds"

    def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
        return write


def late(ctx: lr.EditContext) -> Tensor:
    return torch.where(ctx.positions >= FROM, bool(lr.ablated), bool(Skip))


def holding(value: object) -> lr.Condition:
    return lr.Condition({lr.Site(0): Holds(value)}, name=f"holds {type(value).__name__}")


def single() -> Iterator[lr.Condition]:
    """Every ablation at every part that it applies to, every named `at`, every parameter."""
    yield lr.Condition({})
    for kind in (lr.Skip(), lr.Zero(), lr.Mean(TEXTS), lr.Resample(TEXTS), lr.Noise()):
        for site in SITES if not isinstance(kind, lr.Skip) else SITES[:3]:
            yield lr.Condition({site: kind})
    yield from (lr.Condition({lr.Site(1): lr.Zero()}, at=at) for at in ATS if at != "all")
    facts = lr.Reference(lr.task("facts"), limit=4)
    for kind, name in (
        (lr.Mean(TEXTS, per_position=True), None),
        (lr.Mean(lr.Reference(facts.prompts)), "mean of facts"),
        (lr.Mean(facts), "mean of a task"),
        (lr.Mean(lr.Reference()), "own mean"),
        (lr.Mean(lr.Reference(limit=8, seed=1)), "own mean, 8, seed 1"),
        (lr.Resample(TEXTS, seed=1), None),
        (lr.Noise(0.5), None),
        (lr.Noise(0.5, TEXTS), "noise of a reference"),
    ):
        yield lr.Condition({lr.Site(2): kind}, name=name)


def several() -> Iterator[lr.Condition]:
    """Conditions with several sites, and the grids."""
    model, zero, skip = random_model("llama"), lr.Zero(), lr.Skip()
    two = {lr.Site(2, "mlp"): lr.Noise(2.0), lr.Site(0): skip, lr.Site(1, "head", 3): zero}
    yield lr.Condition(two)
    yield lr.Condition(two, at="generated")
    yield from lr.each_layer(model, lr.Mean(TEXTS), layers=[2], part="attn", at="prompt")
    yield from lr.each_head(model, zero, layers=[0])[-1:]
    yield from lr.each_kv_group(model, zero, layers=[0])[-1:]
    yield from lr.each_span(model, skip, width=2, part="mlp")
    yield from lr.pairs(model, skip, layers=[0, 2], at="after_first")
    yield from lr.cumulative(model, skip, order="top-down")
    yield from lr.cumulative(model, skip, order=[1, 0, 2], part="attn")[1:]
    yield lr.random_heads(model, zero, n=3, seed=1)
    yield lr.random_heads(model, zero, like=[lr.Site(1, "head", 0)])


def held() -> Iterator[lr.Condition]:
    """A user's ablation with parameters of several types."""
    values = (1.5, ("a", 2), frozenset({1}), torch.arange(3.0), Pair(1, torch.float16))
    yield from map(holding, values)


def test_hashes_and_names_are_the_stored_ones() -> None:
    found = [*single(), *several(), *held()]
    assert [f"{one.hash} {one.name}" for one in found] == FROZEN.splitlines()


def test_every_built_in_ablation_is_covered() -> None:
    own = {name for name in ABLATIONS if ABLATIONS[name].__module__.startswith("layerroles.")}
    assert {edit.name for one in single() for edit in one.edits.values()} == own - {"swap"}


def test_the_hash_of_a_swap_is_the_stored_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It covers weights and configuration; the latter is replaced, since libraries extend it."""
    monkeypatch.setattr(
        "layerroles.ablations.cross_model_swap.behaviour_config", lambda _: {"act_fn": "relu"}
    )
    assert lr.Condition({lr.Site(1, "mlp"): lr.Swap(plant().model)}).hash == "8e01762f915ad455"


def test_a_function_for_at_is_identified_by_the_stored_text() -> None:
    """Its bytecode is left out, because it depends on the version of Python."""
    where = lr.Condition({lr.Site(1): lr.Zero()}, at=late).where
    assert where.replace(late.__code__.co_code.hex(), "bytecode") == repr(LATE)


@pytest.mark.parametrize("name", FIRST_PATHS)
def test_public_names_enter_hashes_under_the_stored_path(name: str) -> None:
    known = holding(getattr(lr, name)).fingerprints[lr.Site(0)]
    assert json.loads(known) == {"value": FIRST_PATHS[name]}
