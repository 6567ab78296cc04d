"""Make a condition for each layer, head, key/value group, span, pair or growing set of layers.

All functions but `random_heads` return `Conditions`, a list that prints as one line and can be
indexed by name, as in `conditions["skip L3"]`.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import combinations
from operator import index
from typing import Literal

from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.base import Ablation
from layerroles.ablations.condition import Condition, Conditions
from layerroles.ablations.positions import At, at_name
from layerroles.errors import InputError
from layerroles.models import check_sites, prepared
from layerroles.sites import NUMBERED, Part, Site, Size, size_of


def each_layer(
    model: TransformerBridge,
    ablation: Ablation,
    *,
    layers: Iterable[int] | None = None,
    part: Part = "block",
    at: At = "all",
) -> Conditions:
    """Return one condition for each layer, named like `"skip L0"`.

    Args:
        model: the model whose layers are ablated.
        ablation: what is done to each layer.
        layers: numbers of the layers; all by default.
        part: the part of each layer that is ablated: `"block"`, `"attn"`, `"mlp"`, `"mixer"` or
            `"stream"` (for heads, see `each_head` and `each_kv_group`).
        at: the positions at which the conditions act.

    Raises:
        InputError: a layer out of range, or a part that cannot be ablated in this model.

    Example:
        conditions = lr.each_layer(model, lr.Skip(), at="after_first")
    """
    if part in NUMBERED:
        raise InputError(f"part={part!r} needs head numbers: use each_{part}")
    return _make_conditions(
        model, [Site(layer, part) for layer in _list_layers(model, layers)], ablation, at
    )


def each_head(
    model: TransformerBridge,
    ablation: Ablation,
    *,
    layers: Iterable[int] | None = None,
    at: At = "all",
) -> Conditions:
    """Return one condition for each query head of each layer, named like `"zero L3.H7"`.

    Raises:
        InputError: a layer out of range, or an ablation that heads do not support (`Skip`).

    Example:
        conditions = lr.each_head(model, lr.Zero(), layers=[1, 2])
    """
    return _make_conditions(model, _list_heads(model, "head", layers), ablation, at)


def each_kv_group(
    model: TransformerBridge,
    ablation: Ablation,
    *,
    layers: Iterable[int] | None = None,
    at: At = "all",
) -> Conditions:
    """Return one condition for each key/value head of each layer, named like `"zero L3.KV1"`.

    Each condition ablates all query heads that share the key/value head.

    Raises:
        InputError: a layer out of range, or an ablation that heads do not support (`Skip`).

    Example:
        conditions = lr.each_kv_group(model, lr.Zero(), layers=[1])
    """
    return _make_conditions(model, _list_heads(model, "kv_group", layers), ablation, at)


def each_span(
    model: TransformerBridge,
    ablation: Ablation,
    *,
    width: int,
    stride: int = 1,
    part: Part = "block",
    at: At = "all",
) -> Conditions:
    """Return one condition for each span of `width` neighbouring layers, such as `"skip L5:9"`.

    The span `L5:9` consists of the layers 5 to 8. Spans start at layer 0, `stride`, 2 `stride`, ...

    Raises:
        InputError: a width or stride below 1, or a width beyond the model's depth.

    Example:
        conditions = lr.each_span(model, lr.Skip(), width=2)
    """
    n_layers = _checked_size(model).n_layers
    if not 1 <= width <= n_layers or stride < 1:
        raise InputError(
            f"width={width}, stride={stride}: a span has 1 to {n_layers} layers and moves by >= 1"
        )
    spans = [range(start, start + width) for start in range(0, n_layers - width + 1, stride)]
    suffix = "" if part == "block" else f".{part}"
    return Conditions(
        _joint_condition(model, span, part, ablation, f"L{span.start}:{span.stop}{suffix}", at)
        for span in spans
    )


def pairs(
    model: TransformerBridge,
    ablation: Ablation,
    *,
    layers: Iterable[int] | None = None,
    part: Part = "block",
    at: At = "all",
) -> Conditions:
    """Return one condition for each pair of layers, named like `"skip L3,L7"`.

    Compared with `each_layer`, pairs show redundancy: if ablating both layers does more harm than
    the sum of the harms of ablating each alone, each partly compensates for the loss of the other.

    Raises:
        InputError: a layer out of range, or fewer than two layers.

    Example:
        conditions = lr.pairs(model, lr.Skip(), layers=[1, 2, 3])
    """
    chosen = sorted(set(_list_layers(model, layers)))
    if len(chosen) < 2:
        raise InputError(f"layers={chosen}: a pair takes two layers")
    return Conditions(
        _joint_condition(
            model, pair, part, ablation, ",".join(str(Site(n, part)) for n in pair), at
        )
        for pair in combinations(chosen, 2)
    )


def cumulative(
    model: TransformerBridge,
    ablation: Ablation,
    *,
    order: Sequence[int] | Literal["top-down", "bottom-up"],
    part: Part = "block",
    at: At = "all",
) -> Conditions:
    """Return conditions that ablate a growing set of layers, named like `"skip 3 top-down"`.

    The n-th condition ablates the first `n` layers of `order`.

    Args:
        model: the model whose layers are ablated.
        ablation: what is done to each layer.
        order: the order in which layers are added: `"top-down"` from the last layer, `"bottom-up"`
            from the first (both leave one layer intact), or a list of layer numbers, such as the
            layers sorted by importance.
        part: the part of each layer that is ablated.
        at: the positions at which the conditions act.

    Raises:
        InputError: a layer out of range or named twice, no layer, or an unknown order.

    Example:
        conditions = lr.cumulative(model, lr.Skip(), order="top-down")
    """
    n_layers = _checked_size(model).n_layers
    known = {"top-down": range(n_layers - 1, 0, -1), "bottom-up": range(n_layers - 1)}
    if isinstance(order, str) and order not in known:
        raise InputError(f"unknown order={order!r}: known are top-down, bottom-up, or layers")
    layers = list(known[order]) if isinstance(order, str) else list(map(index, order))
    if not layers or len(set(layers)) < len(layers):
        raise InputError(f"order={layers}: name each layer once, and at least one")
    called = order if isinstance(order, str) else f"of {','.join(map(str, layers))}"
    suffix = "" if part == "block" else f".{part}"
    return Conditions(
        _joint_condition(model, layers[:n], part, ablation, f"{n}{suffix} {called}", at)
        for n in range(1, len(layers) + 1)
    )


def random_heads(
    model: TransformerBridge,
    ablation: Ablation,
    *,
    n: int | None = None,
    like: Iterable[Site] = (),
    seed: int = 0,
    layers: Iterable[int] | None = None,
    at: At = "all",
) -> Condition:
    """Return one condition that ablates randomly drawn query heads: a control for chosen heads.

    Named like `"zero 10 random heads, seed 0"` or `"zero 10 other heads, seed 0"`.

    Args:
        model: the model whose heads are drawn.
        ablation: what is done to each head.
        n: how many heads to draw.
        like: the chosen heads, given in place of `n` and `layers`. In each of their layers, as many
            heads are drawn as were chosen there, among the heads that were not chosen.
        seed: seed of the draw.
        layers: numbers of the layers to draw from; all by default.
        at: the positions at which the condition acts.

    Raises:
        InputError: fewer than one head, more heads than can be drawn, sites that are not heads,
            both or neither of `n` and `like`, or `layers` together with `like`.

    Example:
        control = lr.random_heads(model, lr.Zero(), n=2, seed=0)
    """
    chosen = list(like)
    if (n is None) == (not chosen) or (chosen and layers is not None):
        raise InputError("random heads are drawn by n=, or like= heads that were chosen")
    drawn = (
        _draw_other_heads(model, chosen, seed) if n is None else _draw_heads(model, n, layers, seed)
    )
    if n is None:
        name = f"{ablation.label} {len(drawn)} other heads, seed {seed}"
    else:
        among = sorted(set(_list_layers(model, layers)))
        where = "" if layers is None else f" of {','.join(f'L{layer}' for layer in among)}"
        name = f"{ablation.label} {n} random heads{where}, seed {seed}"
    return Condition(dict.fromkeys(drawn, ablation), name=_append_at(name, at), at=at)


def _draw_heads(
    model: TransformerBridge, n: int, layers: Iterable[int] | None, seed: int
) -> list[Site]:
    known = _list_heads(model, "head", sorted(set(_list_layers(model, layers))))
    check_sites(model, known)
    if not 1 <= n <= len(known):
        raise InputError(f"n={n}: there are {len(known)} heads to draw from")
    return random.Random(seed).sample(known, n)


def _draw_other_heads(model: TransformerBridge, chosen: list[Site], seed: int) -> list[Site]:
    check_sites(model, chosen)
    wrong = next((site for site in chosen if site.part != "head"), None)
    if wrong is not None:
        raise InputError(f"like= takes heads, such as L3.H7, and {wrong} is none")
    draw, drawn = random.Random(seed), []
    for layer in sorted({site.layer for site in chosen}):
        own = _list_heads(model, "head", [layer])
        rest = [site for site in own if site not in chosen]
        taken = len(own) - len(rest)
        if len(rest) < taken:
            raise InputError(
                f"layer {layer} has {len(rest)} heads beside the {taken} chosen: choose fewer"
            )
        drawn += draw.sample(rest, taken)
    return drawn


def _checked_size(model: TransformerBridge) -> Size:
    """Return a model's numbers of layers and heads; calls `prepare` first if that was not done."""
    prepared(model)
    return size_of(model.cfg)


def _list_layers(model: TransformerBridge, layers: Iterable[int] | None) -> list[int]:
    if layers is None:
        return list(range(_checked_size(model).n_layers))
    if not isinstance(layers, Iterable):
        raise InputError(f"layers={layers!r} is one, not several: write [{layers!r}]")
    return list(layers)


def _make_conditions(
    model: TransformerBridge, sites: list[Site], ablation: Ablation, at: At
) -> Conditions:
    check_sites(model, sites)
    return Conditions(Condition({site: ablation}, at=at) for site in sites)


def _list_heads(model: TransformerBridge, part: Part, layers: Iterable[int] | None) -> list[Site]:
    heads = range(_checked_size(model).n_of(part))
    return [Site(layer, part, head) for layer in _list_layers(model, layers) for head in heads]


def _joint_condition(
    model: TransformerBridge,
    layers: Iterable[int],
    part: Part,
    ablation: Ablation,
    where: str,
    at: At,
) -> Condition:
    sites = [Site(layer, part) for layer in layers]
    check_sites(model, sites)
    name = _append_at(f"{ablation.label} {where}", at)
    return Condition(dict.fromkeys(sites, ablation), name=name, at=at)


def _append_at(name: str, at: At) -> str:
    return name if at == "all" else f"{name} {at_name(at)}"
