"""Each model family: what is open, against hooks by hand on transformers' modules; its row."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

import layerroles as lr
from layerroles.models import module_names, prepared
from layerroles.models.checks import library_versions
from layerroles.sites import Part
from tests.support.families import FAMILIES, PAGE, SHOWN, describe, family_model
from tests.support.hugging_face_edits import TEXTS
from tests.support.tiers import mark_rest

IDS = [5, 9, 40, 7, 22, 13, 60, 8]
# Of a family's modules, the first that a block has is the one whose output is added to the stream.
NORMS_BEHIND = ("gemma2", "gemma3", "gemma4", "olmo2", "olmo3", "flex_olmo", "exaone4")
WRITERS: dict[Part, tuple[str, ...]] = {
    "attn": ("self_attention.dense", "self_attn", "attention", "attn"),
    "mixer": ("linear_attn", "mamba", "mixer", "conv"),
    "mlp": (
        "mlp.dense_4h_to_h",
        "ffn.down_proj",
        "mlp",
        "feed_forward",
        "block_sparse_moe",
        "fc2",
        "shared_mlp",
    ),
    # What the projection of a head reads.
    "head": ("o_proj", "c_proj", "dense", "out_proj", "wo", "attention.out_proj"),
}
OWN_WRITERS: dict[str, dict[Part, tuple[str, ...]]] = {
    **{
        family: {"attn": ("post_attention_layernorm",), "mlp": ("post_feedforward_layernorm",)}
        for family in NORMS_BEHIND
    },
    "glm4": {"attn": ("post_self_attn_layernorm",), "mlp": ("post_mlp_layernorm",)},
    "falcon": {"attn": ("self_attention",), "mlp": ("mlp",)},
    "nemotron_h": {"attn": ("mixer",), "mlp": ("mixer",)},
    # Norms behind in layers with attention only.
    "olmo_hybrid": {
        "attn": ("post_attention_layernorm",),
        "mixer": ("linear_attn", "post_attention_layernorm"),
        "mlp": ("post_feedforward_layernorm", "mlp"),
    },
}
# What a message must say of a family that is refused, in one of the versions that are tried.
REFUSED = {
    "codegen": "embed_positions",  # by transformers 5.24
    "gemma3n": "Could not determine supported architecture",
    "phimoe": "Could not determine supported architecture",
    "recurrent_gemma": "reads the pads of a batch",
}
# Parts that are open in no layer of a family; in all others, every part is open somewhere.
CLOSED: dict[str, set[Part]] = {
    "falcon_h1": {"attn", "mixer", "mlp"},  # attention and state space side by side, scaled
    "granite_moe_hybrid": {"mlp"},  # a sum of two modules
    "mamba": {"attn", "mlp", "head", "kv_group"},
    "mamba2": {"attn", "mlp", "head", "kv_group"},
    "nemotron_h": {"head", "kv_group"},
    "zamba2": {"attn", "mlp", "head", "kv_group"},
}
# Their layers make more than 1e-5 of the last bit of a mean.
WITH_DELTA_RULE = ("olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_next")
Edit = Callable[[Tensor], Tensor]
# One family for each kind of block first.
FIRST = """
bamba bloom codegen deepseek_v3 falcon_h1 gemma4 glm4 gpt2 gpt_neox gpt_oss granite llama4 mamba2
nemotron_h olmo2 opt qwen3_next recurrent_gemma
"""
EACH_FAMILY = mark_rest("matrix", sorted(FAMILIES), first=FIRST.split())


@cache
def loaded(family: str) -> tuple[nn.Module, TransformerBridge]:
    return family_model(family)


def block_of(model: nn.Module, layer: int) -> nn.Module:
    """A block of transformers' model: of the first list of as many modules as it has layers."""
    n = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n]
    return lists[0][layer]


def writer_of(family: str, block: nn.Module, part: Part) -> nn.Module:
    names = OWN_WRITERS.get(family, {}).get(part) or WRITERS[part]
    if part == "mixer" and family != "olmo_hybrid":
        names = (*names, *(OWN_WRITERS.get(family, {}).get("attn") or WRITERS["attn"]))
    for name in names:
        try:
            return block.get_submodule(name)
        except AttributeError:
            continue
    raise AssertionError(f"{family}: no module is known for {part}")


@contextmanager
def edited(family: str, layer: int, part: Part, edit: Edit) -> Iterator[nn.Module]:
    """Within the context, pass a write of transformers' own model through `edit`."""
    model, _ = loaded(family)
    block = block_of(model, layer)

    def like(output: object, new: Tensor) -> object:
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def first(output: object) -> Tensor:
        return output[0] if isinstance(output, tuple) else output  # type: ignore[return-value]

    def on_block(_module: object, args: tuple, kwargs: dict, output: object) -> object:
        entered = args[0] if args else kwargs["hidden_states"]
        return like(output, entered + edit(first(output) - entered))

    def on_output(_module: object, _args: object, output: object) -> object:
        write = first(output)
        rows = write.reshape(-1, *write.shape[-2:])  # some modules put out [token d_model]
        return like(output, edit(rows).reshape(write.shape))

    def on_head(_module: object, args: tuple[Tensor]) -> tuple[Tensor]:
        z = args[0].clone()
        width, share = z.shape[-1] // 4, 1
        if part == "kv_group":
            share = 4 // (getattr(model.config, "num_key_value_heads", None) or 4)
        start = 2 if part == "head" else 0
        where = slice(start * width, (start + share) * width)
        z[..., where] = edit(z[..., where])
        return (z,)

    if part == "block":
        handle = block.register_forward_hook(on_block, with_kwargs=True)
    elif part in ("head", "kv_group"):
        attention = next(
            module
            for name in ("self_attn", "attn", "attention", "self_attention")
            if (module := getattr(block, name, None)) is not None
        )
        handle = writer_of(family, attention, "head").register_forward_pre_hook(on_head)
    else:
        handle = writer_of(family, block, part).register_forward_hook(on_output)
    try:
        yield model
    finally:
        handle.remove()


def mean_edit(family: str, layer: int, part: Part) -> Edit:
    """Replace writes by their means over the reference, at the first token and at all others."""
    seen: list[Tensor] = []

    def note(write: Tensor) -> Tensor:
        seen.append(write[0].double())
        return write

    _, bridge = loaded(family)
    with edited(family, layer, part, note) as model, torch.inference_mode():
        for text in TEXTS:
            model(torch.tensor([lr.models.encode(bridge, text)]), use_cache=False)
    first = torch.stack([each[0] for each in seen]).mean(0)
    rest = torch.cat([each[1:] for each in seen]).mean(0)
    means = torch.stack([first, *[rest] * (len(IDS) - 1)])
    return lambda write: means[None].to(write)


def logits_by_hand(family: str, layer: int, part: Part, edit: Edit) -> Tensor:
    with torch.inference_mode(), edited(family, layer, part, edit) as model:
        logits: Tensor = model(torch.tensor([IDS]), use_cache=False).logits
    return logits


def layers_to_try(bridge: TransformerBridge, part: Part, number: int | None) -> list[int]:
    """Of the layers in which a part is open, one of each kind of block, and the last."""
    checks = prepared(bridge).checks
    of_kind: dict[object, int] = {}
    for n, block in enumerate(bridge.blocks):
        if not checks.refusal(lr.Site(n, part, number)):
            kind = (
                *sorted(module_names(block)),
                getattr(block.original_component, "block_type", 0),
            )
            of_kind.setdefault(kind, n)
            of_kind["last"] = n
    return sorted({*of_kind.values()})


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_what_is_open_equals_hooks_by_hand(family: str) -> None:
    try:
        own, bridge = loaded(family)
    except lr.InputError as error:
        assert re.search(REFUSED[family], str(error))
        return
    tokens = torch.tensor([IDS])
    with torch.inference_mode():
        intact = own(tokens, use_cache=False).logits
    closed: set[Part] = set()
    for part in SHOWN:
        number = {"head": 2, "kv_group": 0}.get(part)
        layers = layers_to_try(bridge, part, number)
        if not layers:
            closed.add(part)
        for layer in layers:
            edits = {"zero": lr.Zero(), "mean": lr.Mean(lr.Reference(TEXTS))}
            if number is None:
                edits["skip"] = lr.Skip()
            for name, ablation in edits.items():
                by_hand = mean_edit(family, layer, part) if name == "mean" else torch.zeros_like
                condition = lr.Condition({lr.Site(layer, part, number): ablation})
                with torch.inference_mode(), lr.ablated(bridge, condition):
                    logits = bridge(tokens, use_cache=False)
                expected = logits_by_hand(family, layer, part, by_hand)
                where = f"{family} L{layer}.{part} {name}"
                scale = max(float(expected.std()), 1)
                bound = 1e-4 if family in WITH_DELTA_RULE and name == "mean" else 1e-5
                assert float((logits - expected).abs().max()) < bound * scale, where
                assert float((expected - intact).abs().max()) > 1e-4, where
    assert closed == CLOSED.get(family, set())


def test_skipping_a_block_is_zeroing_its_parts() -> None:
    tokens = torch.tensor([IDS])
    for family in ("qwen3_next", "jamba", "granite_moe_hybrid_dense", "nemotron_h", "olmo_hybrid"):
        _, bridge = loaded(family)
        for layer in range(bridge.cfg.n_layers):
            open_parts = [
                part
                for part in ("mixer", "mlp")
                if not prepared(bridge).checks.refusal(lr.Site(layer, part))
            ]
            whole = lr.Condition({lr.Site(layer): lr.Skip()})
            apart = lr.Condition({lr.Site(layer, part): lr.Zero() for part in open_parts})
            logits = []
            for condition in (whole, apart):
                with torch.inference_mode(), lr.ablated(bridge, condition):
                    logits.append(bridge(tokens, use_cache=False))
            torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_documented_table_matches_the_open_sites(family: str) -> None:
    """Whatever versions the page names; those that some versions refuse, in its own only."""
    page = PAGE.read_text(encoding="utf-8")
    (named,) = re.findall(r"^With (.*):$", page, re.M)
    lines = {line.replace(library_versions(), named) for line in describe(family)}
    assert lines <= set(page.splitlines()) or (family in REFUSED and named != library_versions())


def test_the_table_holds_what_it_promises() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| family"))
    table = [line for line in lines[start:] if line.startswith("| ")]
    assert len({line.count("|") for line in table}) == 1
    rows = [
        dict(zip(("family", "executor", *SHOWN), map(str.strip, line.split("|")[1:]), strict=False))
        for line in table[2:]
    ]
    by_name = {row["family"]: row for row in rows}
    assert set(by_name) == set(FAMILIES)
    assert len(rows) >= 40
    assert sum(row["block"] == "all" for row in rows) >= 36
    assert sum({row[part] for part in SHOWN} == {"all"} for row in rows) >= 32
    for family in ("qwen3_5", "qwen3_next", "gemma4"):
        assert {by_name[family][part] for part in ("block", "mixer", "mlp")} == {"all"}
    refused = {line[2:].split(":")[0] for line in lines if line.startswith("- ")}
    assert refused == {row["family"] for row in rows if {row[part] for part in SHOWN} != {"all"}}
    assert not any("relative error" in line for line in lines)
