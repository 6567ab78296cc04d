"""Each model family: what is open, against hooks by hand on transformers' modules; its row."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

import layerroles as lr
from layerroles.models import prepared
from layerroles.models.checks import library_versions
from layerroles.sites import Part
from tests.support.families import FAMILIES, PAGE, SHOWN, describe, family_model
from tests.support.hugging_face_edits import TEXTS

LAST_BIT = torch.finfo(torch.float32).eps
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
    # Norms behind in layers with attention only.
    "olmo_hybrid": {
        "attn": ("post_attention_layernorm",),
        "mixer": ("linear_attn", "post_attention_layernorm"),
        "mlp": ("post_feedforward_layernorm", "mlp"),
    },
}
Edit = Callable[[Tensor], Tensor]


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
        width = z.shape[-1] // 4
        z[..., 2 * width : 3 * width] = edit(z[..., 2 * width : 3 * width])
        return (z,)

    if part == "block":
        handle = block.register_forward_hook(on_block, with_kwargs=True)
    elif part == "head":
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


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_is_open_equals_hooks_by_hand(family: str) -> None:
    try:
        own, bridge = loaded(family)
    except lr.InputError:
        return  # the table says why
    checks, tokens = prepared(bridge).checks, torch.tensor([IDS])
    with torch.inference_mode():
        intact = own(tokens, use_cache=False).logits
    for part in ("block", "attn", "mixer", "mlp", "head"):
        number = 2 if part == "head" else None
        layers = [
            n for n in range(bridge.cfg.n_layers) if not checks.refusal(lr.Site(n, part, number))
        ]
        for layer in {layers[0], layers[-1]} if layers else ():
            edits = {"zero": lr.Zero(), "mean": lr.Mean(lr.Reference(TEXTS))}
            if part != "head":
                edits["skip"] = lr.Skip()
            for name, ablation in edits.items():
                by_hand = mean_edit(family, layer, part) if name == "mean" else torch.zeros_like
                condition = lr.Condition({lr.Site(layer, part, number): ablation})
                with torch.inference_mode(), lr.ablated(bridge, condition):
                    found = bridge(tokens, use_cache=False)
                expected, nudged = (
                    logits_by_hand(family, layer, part, edit)
                    for edit in (by_hand, lambda write, by=by_hand: by(write) * (1 + LAST_BIT))
                )
                where = f"{family} L{layer}.{part} {name}"
                scale = float(expected.std())
                # Layers with a delta rule make more than this of the last bit of a write.
                rounding = 10 * float((nudged - expected).abs().max())
                error = float((found - expected).abs().max())
                assert error < max(1e-5 * max(scale, 1), rounding), where
                assert float((expected - intact).abs().max()) > 1e-4 * scale, where


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_table_says_what_is_open(family: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    if f"With {library_versions()}:" not in page:
        pytest.skip("the table is of other versions: make families")
    assert describe(family) in page.splitlines()


def test_the_table_holds_what_it_promises() -> None:
    rows = [
        dict(zip(("family", "layers", *SHOWN), line.strip("| ").split(" | "), strict=False))
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and line.split()[1] in FAMILIES
    ]
    assert len(rows) >= 40
    assert sum(row.get("block") == "all" for row in rows) >= 36
    assert (
        sum(row.get("block") == row.get("mlp") == row.get("mixer") == "all" for row in rows) >= 32
    )
    by_name = {row["family"]: row for row in rows}
    for family in ("qwen3_5", "qwen3_next", "gemma4"):
        assert [by_name[family][part] for part in ("block", "mixer", "mlp")] == ["all"] * 3
    assert "nan" not in PAGE.read_text(encoding="utf-8")
