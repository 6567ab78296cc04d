"""Checks of a model before it is used.

1. *Parts add up.* On a short prompt, `x + mixer + mlp == block(x)` for every layer. `x` is the
   residual stream entering the block; `mixer` (attention, or the module that mixes tokens in its
   place) and `mlp` are the values at their hooks. In Gemma 4, a layer's embeddings are a third
   term, and the sum is scaled; in Granite, the terms are scaled. Where the check fails, the values
   at the hooks are not what the block adds (some architectures scale or normalise afterwards).
   Ablating sublayers is then refused in that layer; ablating the whole block is not.
2. *Hooks take effect.* The model continues with the value that a hook returns. In layers where a
   part's hook has no effect, that part cannot be ablated.
3. *Cached equals uncached.* The logits of tokens decoded with a KV cache equal those of one pass.
   Some combinations of library versions get this silently wrong, and with it every generated
   answer. A model without a cache (from `TransformerBridge.boot_native`) is not checked: it reads
   the whole text again for every generated token.
4. *Pads are not read.* The logits of a row that is padded on the left are those of the row alone.
   Some recurrent layers read pads, so that their output depends on the other rows of a batch.
"""

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models.block_parts import (
    mixer_factor,
    other_writes,
    output_scale,
    part_modules,
    unnamed_writers,
)
from layerroles.models.forward_pass import forward
from layerroles.sites import ENTRY, EXIT, NUMBERED, PARTS, READ_OUT, Part, Site

log = logging.getLogger(__name__)
# A write counts as massive if its norm is more than this many times the median. At the attention
# sink of SmolLM2's layer 11, it is 400 times the median.
_MASSIVE = 50
_SUBLAYERS: tuple[Part, ...] = ("attn", "mlp", "mixer")
_OF_ATTENTION = ("attn", "head", "kv_group")
_N_TOKENS = 12
_N_CACHED = 8
# The newest version of transformers that was tested.
_TRIED = "transformers 5.24.0"
_N_PADS = 5
# Largest difference of logits, as a share of their standard deviation. A broken cache gives 1.
_TOLERANCE = {torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.35}


@dataclass(frozen=True)
class Checks:
    """The outcome of checks 1 to 3 of the module's docstring.

    A failure of check 4 is an error; so is one of check 3, unless the model is recurrent.

    Attributes:
        identity_error: per layer, the largest `|x + mixer + mlp - block(x)| / |block(x) - x|` over
            positions, with the terms and scales that the architecture adds; NaN where neither
            sublayer has a hook.
        holds: per layer, whether that error is at most 0.1% plus rounding at every position; false
            where neither sublayer has a hook.
        unnamed: per layer, names of modules whose outputs may be missing in `x + mixer + mlp`.
        missing: for each part, the layers that have no hook for it.
        deaf: for each part, the layers that ignore the value that its hook returns.
        cache_error: largest difference between logits with and without a cache, in standard
            deviations of the logits; None for a model that is decoded without a cache.
    """

    identity_error: tuple[float, ...]
    holds: tuple[bool, ...]
    unnamed: tuple[tuple[str, ...], ...]
    missing: dict[Part, tuple[int, ...]]
    deaf: dict[Part, tuple[int, ...]]
    cache_error: float | None

    @property
    def caches(self) -> bool:
        """Whether the model is decoded with a cache of keys and values."""
        return self.cache_error is not None

    def refusal(self, site: Site) -> str | None:
        """Return why the site cannot be ablated in this model; None if it can."""
        if site.layer in self.missing[site.part]:
            return self._describe_missing(site)
        if site.layer in self.deaf[site.part]:
            return f"what a hook returns for part {site.part!r} does not go on through the model"
        if site.part in _SUBLAYERS and not self.holds[site.layer]:
            others = " and ".join(self.unnamed[site.layer])
            has = f", which has {others} as well" if others else ""
            return (
                f"mixer and MLP do not add up to the block{has} (relative error "
                f"{self.identity_error[site.layer]:.1e}), so a sublayer's hook is not what is "
                f"added; ablate the whole block"
            )
        return None

    def _describe_missing(self, site: Site) -> str:
        others = self.unnamed[site.layer]
        has = {part for part, layers in self.missing.items() if site.layer not in layers}
        if site.part in _OF_ATTENTION and {"mixer", "attn"} & has == {"mixer"}:
            return "the layer has no attention: part 'mixer' is what mixes its tokens"
        if site.part == "mlp" and "mixer" in has and not others:
            return "the layer has no MLP: part 'mixer' is all that it adds"
        if site.part in ("mixer", *_OF_ATTENTION) and not {"mixer", "attn"} & has and "mlp" in has:
            return "the layer mixes no tokens: part 'mlp' is all that it adds"
        named = f", which has {' and '.join(others)}" if others else ""
        return f"TransformerLens has no hook for part {site.part!r} in this layer{named}"


def check_model(model: TransformerBridge, name: str) -> Checks:
    """Run all checks except `check_pads` on a short prompt, and return their outcome.

    If a recurrent model gives other logits with a cache, a warning is logged, and the model is
    decoded without a cache.

    Raises:
        InputError: the model has no blocks with hooks, has more than one residual stream, cannot
            decode with a cache, or (if it is not recurrent) gives other logits with a cache.
    """
    tokens = _make_prompt(model)
    missing = {part: _layers_without_hook(model, part) for part in PARTS}
    unnamed = tuple(unnamed_writers(block) for block in model.blocks)
    if missing["block"] or model.get_hook_point(READ_OUT) is None:
        raise InputError(f"model {name!r} ({model.cfg.architecture}) has no hooks on its blocks")
    with torch.inference_mode():
        whole, values = _observe(model, tokens, missing)
        stream = values[ENTRY.format(layer=0)]
        if stream.shape[:-1] != tokens.shape:
            raise InputError(
                f"model {name!r} ({model.cfg.architecture}) has several streams: its blocks pass "
                f"on tensors of shape {tuple(stream.shape)} for {tokens.shape[1]} tokens"
            )
        sums = [_sum_error(model, layer, values) for layer in range(model.cfg.n_layers)]
        errors, holds = zip(*sums, strict=True)
        deaf = _find_deaf_layers(model, tokens, missing, holds)
        cache_error = _check_cache(model, tokens, whole, name)
    return Checks(errors, holds, unnamed, missing, deaf, cache_error)


def check_complete(name: str, loading_info: dict[str, Any]) -> None:
    """Check that the files of a model hold all of its weights.

    Transformers would initialize missing ones at random.

    Args:
        name: the model's name, for the error.
        loading_info: what `from_pretrained(..., output_loading_info=True)` returned.

    Raises:
        InputError: a weight is missing.
    """
    missing, unknown = (sorted(loading_info[f"{kind}_keys"]) for kind in ("missing", "unexpected"))
    if missing:
        others = f", and hold {unknown[0]!r}, which the model lacks" if unknown else ""
        raise InputError(
            f"model {name!r} cannot be loaded: its files lack {len(missing)} of its weights, such "
            f"as {missing[0]!r}{others}; get or save the whole model"
        )


def check_pads(model: TransformerBridge, name: str) -> None:
    """Check that a model gives the same logits for a short prompt with and without pads.

    Raises:
        InputError: the logits at the last token differ by more than rounding.
    """
    tokens = _make_prompt(model)[:, _N_PADS:]  # with pads, as long as the other checks' prompt
    padded = torch.nn.functional.pad(tokens, (_N_PADS, 0))
    attended = torch.nn.functional.pad(torch.ones_like(tokens), (_N_PADS, 0))
    expected = forward(model, tokens, torch.ones_like(tokens))[0][0, -1].float()
    with_pads = forward(model, padded, attended)[0][0, -1].float()
    error = float((with_pads - expected).abs().max() / expected.std())
    if not error <= _TOLERANCE.get(model.cfg.dtype, 0.1):
        raise InputError(
            f"model {name!r} ({model.cfg.architecture}) reads the pads of a batch (they move its "
            f"logits by {error:.2g} standard deviations), so what it answers would depend on what "
            f"is asked beside it"
        )


def find_massive_writes(model: TransformerBridge, ids: Sequence[int]) -> dict[int, list[int]]:
    """Return, by layer, the positions after the first at which the layer's write is massive.

    A write is massive if its norm is more than 50 times the layer's median; layers without massive
    writes are left out. Such writes attract attention as the first token's write does; in Llama-2
    there is one at the first delimiter (M. Sun et al., "Massive Activations in Large Language
    Models", arXiv 2402.17762). A condition that acts at all positions but the first destroys them.

    Args:
        model: the bridge.
        ids: token ids of a prompt.
    """
    tokens = torch.tensor([list(ids)], device=model.cfg.device)
    norms: dict[int, Tensor] = {}
    entered: dict[int, Tensor] = {}

    def enter(value: Tensor, hook: Any, *, layer: int) -> None:
        entered[layer] = value

    def leave(value: Tensor, hook: Any, *, layer: int) -> None:
        stream = entered.pop(layer).to(value.device)  # layers may lie on different devices
        norms[layer] = (value.float() - stream.float()).norm(dim=-1)[0].cpu()

    layers = range(model.cfg.n_layers)
    hooks: list[Any] = [
        (ENTRY.format(layer=layer), partial(enter, layer=layer)) for layer in layers
    ]
    hooks += [(EXIT.format(layer=layer), partial(leave, layer=layer)) for layer in layers]
    with torch.inference_mode():
        model.run_with_hooks(
            tokens, fwd_hooks=hooks, attention_mask=torch.ones_like(tokens), use_cache=False
        )
    found = {
        layer: (norm[1:] > _MASSIVE * norm[1:].median()).nonzero().flatten() + 1
        for layer, norm in sorted(norms.items())
    }
    return {layer: where.tolist() for layer, where in found.items() if len(where)}


def library_versions() -> str:
    """Return the versions of the libraries that run a model, as text for error messages."""
    return " and ".join(
        f"{package} {importlib.metadata.version(package)}"
        for package in ("transformer-lens", "transformers")
    )


def _make_prompt(model: TransformerBridge) -> Tensor:
    """Return a fixed prompt of `_N_TOKENS` token ids, `[1 pos]`."""
    tokens = (torch.arange(_N_TOKENS) * 37 + 11) % (model.cfg.d_vocab - 1)
    return tokens[None].to(model.cfg.device)


def assume_checks(model: TransformerBridge) -> Checks:
    """Return the outcome assumed for a model without weights: passed, but missing hooks listed."""
    n = model.cfg.n_layers
    none: dict[Part, tuple[int, ...]] = dict.fromkeys(PARTS, ())
    missing = {part: _layers_without_hook(model, part) for part in PARTS}
    unnamed = tuple(unnamed_writers(block) for block in model.blocks)
    return Checks((0.0,) * n, (True,) * n, unnamed, missing, none, 0.0)


def _layers_without_hook(model: TransformerBridge, part: Part) -> tuple[int, ...]:
    return tuple(
        layer
        for layer in range(model.cfg.n_layers)
        if model.get_hook_point(_hook_name(part, layer)) is None
        # Some bridges give another mixer's hook the name of attention's.
        or (part == "attn" and part not in part_modules(model.blocks[layer]))
    )


def _hook_name(part: Part, layer: int) -> str:
    return Site(layer, part, 0 if part in NUMBERED else None).hook_name


def _observe(
    model: TransformerBridge,
    tokens: Tensor,
    missing: dict[Part, tuple[int, ...]],
    scales: Mapping[str, float] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the model; return its logits, and the value at each hook in float32 on the CPU.

    `scales` maps hook names to factors by which the hooks multiply their values; the scaled values
    are returned. By default, nothing is scaled.
    """
    values: dict[str, Tensor] = {}
    scales = scales or {}

    def note(value: Tensor, hook: Any, *, name: str) -> Tensor | None:
        new = value * scales[name] if name in scales else None
        values[name] = (value if new is None else new).detach().float().cpu()
        return new

    layers = range(model.cfg.n_layers)
    parts: tuple[Part, ...] = (*_SUBLAYERS, "head")
    names = [
        READ_OUT,
        *(form.format(layer=layer) for layer in layers for form in (ENTRY, EXIT)),
        *(
            _hook_name(part, layer)
            for layer in layers
            for part in parts
            if layer not in missing[part]
        ),
        *(name for layer in layers for name in other_writes(model, layer)),
    ]
    logits = model.run_with_hooks(
        tokens,
        fwd_hooks=[(name, partial(note, name=name)) for name in names],
        attention_mask=torch.ones_like(tokens),
        use_cache=False,
    )
    return logits, values


def _sum_error(
    model: TransformerBridge, layer: int, values: dict[str, Tensor]
) -> tuple[float, bool]:
    """Return the relative error of `x + mixer + mlp == block(x)`, and whether rounding explains it.

    `values` holds the value at each hook, from `_observe`. Returns (NaN, False) if no sublayer has
    a hook.
    """
    entry, exit_ = values[ENTRY.format(layer=layer)], values[EXIT.format(layer=layer)]
    mixer, attn, mlp = (_hook_name(part, layer) for part in ("mixer", "attn", "mlp"))
    factors = {mixer if mixer in values else attn: mixer_factor(model, layer), mlp: 1.0}
    factors |= other_writes(model, layer)
    writes = [factor * values[name] for name, factor in factors.items() if name in values]
    if not writes:
        return float("nan"), False
    written = (exit_ - entry).norm(dim=-1)
    error = (output_scale(model, layer) * (entry + sum(writes)) - exit_).norm(dim=-1)
    rounding = 2 * torch.finfo(model.cfg.dtype).eps * exit_.norm(dim=-1)
    holds = bool((error <= 1e-3 * written + rounding).all())
    return float((error / written.clamp(min=1e-30)).max()), holds


def _find_deaf_layers(
    model: TransformerBridge,
    tokens: Tensor,
    missing: dict[Part, tuple[int, ...]],
    holds: Sequence[bool],
) -> dict[Part, tuple[int, ...]]:
    """Return, for each part, the layers that ignore the value that the part's hook returns."""
    layers = range(model.cfg.n_layers)

    def scaled(part: Part, factor: float) -> dict[str, Tensor]:
        scales = {_hook_name(part, layer): factor for layer in layers if layer not in missing[part]}
        if part == "block":
            scales[EXIT.format(layer=layers[-1])] = 0.0
        return _observe(model, tokens, missing, scales)[1]

    def is_constant(value: Tensor) -> bool:
        """Return whether a value is the same at every token."""
        return bool((value - value[:, :1]).abs().max() <= 1e-3 * value.abs().max())

    # The scaled output of a block has to enter the next block. That of the last block is set to
    # zero, so the input of the unembedding has to be the same at every token.
    values = scaled("block", 0.5)
    blocks = [
        layer
        for layer in layers[:-1]
        if not torch.equal(values[ENTRY.format(layer=layer + 1)], values[EXIT.format(layer=layer)])
    ]
    blocks += [] if is_constant(values[READ_OUT]) else [layers[-1]]
    # If the model uses the scaled value of a sublayer, the layer's sum still adds up.
    sublayers: dict[Part, tuple[int, ...]] = {}
    for part in _SUBLAYERS:
        values = scaled(part, -1.0)
        sublayers[part] = tuple(
            layer
            for layer in layers
            if holds[layer]
            and layer not in missing[part]
            and not _sum_error(model, layer, values)[1]
        )
    # If the model uses `z` set to zero, attention writes the same at every token.
    values = scaled("head", 0.0)
    heads = tuple(
        layer
        for layer in layers
        if layer not in {*missing["head"], *missing["attn"]}
        and not is_constant(values[_hook_name("attn", layer)])
    )
    return {
        "block": tuple(blocks),
        "stream": tuple(blocks),
        "attn": sublayers["attn"],
        "mlp": sublayers["mlp"],
        "mixer": sublayers["mixer"],
        "head": heads,
        "kv_group": heads,
    }


def _check_cache(
    model: TransformerBridge, tokens: Tensor, whole: Tensor, name: str
) -> float | None:
    if not model.adapter.supports_kv_cache:
        raise InputError(f"model {name!r} ({model.cfg.architecture}) cannot decode with a cache")
    ones = torch.ones_like(tokens)
    _, cache = forward(model, tokens[:, :_N_CACHED], ones[:, :_N_CACHED], use_cache=True)
    if cache is None:
        return None
    worst = 0.0
    for end in range(_N_CACHED + 1, _N_TOKENS + 1):
        step, cache = forward(model, tokens[:, end - 1 : end], ones[:, :end], cache=cache)
        expected = whole[:, end - 1].float()
        difference = (step[:, -1].float() - expected).abs().max() / expected.std()
        # Once the difference is NaN, it stays NaN, and the check fails.
        worst = worst if float(difference) <= worst else float(difference)
    if not worst <= _TOLERANCE.get(model.cfg.dtype, 0.1):
        if getattr(model.cfg, "is_stateful", False):
            log.warning(
                "model %r is decoded without a cache, which takes longer: with one, %s give other "
                "logits",
                name,
                library_versions(),
            )
            return None
        raise InputError(
            f"model {name!r}: decoding with a cache gives other logits than without "
            f"(difference {worst:.2g} standard deviations) in {library_versions()}; "
            f"the newest version that was tried is {_TRIED}"
        )
    return worst
