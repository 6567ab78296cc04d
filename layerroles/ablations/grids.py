"""Conditions by the dozen: one for each layer, head, or span of layers."""

from collections.abc import Iterable

from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.base import Ablation
from layerroles.ablations.condition import At, Condition
from layerroles.errors import InputError
from layerroles.models import check_sites
from layerroles.sites import Part, Site


def each_layer(
    model: TransformerBridge,
    ablation: Ablation,
    *,
    layers: Iterable[int] | None = None,
    part: Part = "block",
    at: At = "all",
) -> list[Condition]:
    """One condition for each layer, named like `"skip L0"`.

    Args:
        model: whose layers.
        ablation: what is done to each.
        layers: which, all by default.
        part: `"block"`, `"attn"` or `"mlp"` (for heads, see `each_head`).
        at: the positions at which the conditions act.

    Raises:
        InputError: a layer out of range, or a part that cannot be ablated in this model.
    """
    if part == "head":
        raise InputError("part='head' needs head numbers: use each_head")
    return _conditions(model, [Site(layer, part) for layer in _layers(model, layers)], ablation, at)


def each_head(
    model: TransformerBridge,
    ablation: Ablation,
    *,
    layers: Iterable[int] | None = None,
    at: At = "all",
) -> list[Condition]:
    """One condition for each query head of each layer, named like `"zero L3.H7"`.

    Raises:
        InputError: a layer out of range, or an ablation that heads do not take (`Skip`).
    """
    sites = [
        Site(layer, "head", head)
        for layer in _layers(model, layers)
        for head in range(model.cfg.n_heads)
    ]
    return _conditions(model, sites, ablation, at)


def each_span(
    model: TransformerBridge,
    ablation: Ablation,
    *,
    width: int,
    stride: int = 1,
    part: Part = "block",
    at: At = "all",
) -> list[Condition]:
    """One condition for each run of `width` neighbouring layers, named like `"skip L5:9"`.

    Raises:
        InputError: a width or stride below 1, or a width beyond the model's depth.
    """
    n_layers = model.cfg.n_layers
    if not 1 <= width <= n_layers or stride < 1:
        raise InputError(
            f"width={width}, stride={stride}: a span has 1 to {n_layers} layers and moves by >= 1"
        )
    spans = [range(start, start + width) for start in range(0, n_layers - width + 1, stride)]
    check_sites(model, [Site(layer, part) for span in spans for layer in span])
    suffix = "" if part == "block" else f".{part}"
    after = "" if at == "all" else f" {at}"
    return [
        Condition(
            {Site(layer, part): ablation for layer in span},
            name=f"{ablation.name} L{span.start}:{span.stop}{suffix}{after}",
            at=at,
        )
        for span in spans
    ]


def _layers(model: TransformerBridge, layers: Iterable[int] | None) -> list[int]:
    return list(range(model.cfg.n_layers)) if layers is None else list(layers)


def _conditions(
    model: TransformerBridge, sites: list[Site], ablation: Ablation, at: At
) -> list[Condition]:
    check_sites(model, sites)
    return [Condition({site: ablation}, at=at) for site in sites]
