"""What is tried on a model before it is trusted.

1. *Parts add up.* On a short prompt, `x + attn + mlp == block(x)` for every layer, with `attn` and
   `mlp` as their hooks show them. Where it fails, the hooks are not what is added to the stream
   (some architectures scale or normalise afterwards), and ablating sublayers there is refused;
   whole blocks stay possible.
2. *Cached equals uncached.* The logits of tokens decoded with a cache equal those of one pass. Some
   pairs of library versions get this silently wrong, and with it every generated answer.
"""

import importlib.metadata
from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.sites import ENTRY, EXIT, NUMBERED, PARTS, READ_OUT, Part, Site

_N_TOKENS = 12
_N_CACHED = 8
# Largest difference of logits, as a share of their standard deviation. A broken cache gives 1.
_CACHE_TOLERANCE = {torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.35}


@dataclass(frozen=True)
class Checks:
    """The outcome of the checks.

    Attributes:
        identity_error: per layer, `|x + attn + mlp - block(x)| / |block(x) - x|` at the worst
            position; NaN where a sublayer has no hook.
        holds: per layer, whether that is rounding.
        missing: parts without a hook, with the layers that lack it.
        cache_error: largest difference of a logit with and without cache, in standard deviations.
    """

    identity_error: tuple[float, ...]
    holds: tuple[bool, ...]
    missing: dict[Part, tuple[int, ...]]
    cache_error: float

    def refusal(self, site: Site) -> str | None:
        """Why the site cannot be ablated in this model; None if it can."""
        if site.layer in self.missing[site.part]:
            return f"TransformerLens has no hook for part {site.part!r} in this architecture"
        if site.part in ("attn", "mlp") and not self.holds[site.layer]:
            error = self.identity_error[site.layer]
            return (
                f"attention and MLP do not add up to the block (relative error {error:.1e}), "
                f"so a sublayer's hook is not what is added; ablate the whole block"
            )
        return None


def check_model(model: TransformerBridge, name: str) -> Checks:
    """Try the model on a short prompt.

    Raises:
        InputError: it has no stack of blocks, or decoding with a cache is wrong.
    """
    if not hasattr(model, "blocks") or getattr(model.cfg, "is_stateful", False):
        raise InputError(
            f"model {name!r} ({model.cfg.architecture}) is not a stack of attention blocks"
        )
    tokens = (torch.arange(_N_TOKENS) * 37 + 11) % (model.cfg.d_vocab - 1)
    tokens = tokens[None].to(model.cfg.device)
    missing = {part: _missing(model, part) for part in PARTS}
    if missing["block"] or model.get_hook_point(READ_OUT) is None:
        raise InputError(f"model {name!r} ({model.cfg.architecture}) has no hooks on its blocks")
    with torch.inference_mode():
        whole, seen = _observe(model, tokens, missing)
        cache_error = _cache_error(model, tokens, whole, name)
    errors, holds = zip(
        *(_identity(model, layer, seen) for layer in range(model.cfg.n_layers)), strict=True
    )
    return Checks(errors, holds, missing, cache_error)


def _missing(model: TransformerBridge, part: Part) -> tuple[int, ...]:
    head = 0 if part in NUMBERED else None
    return tuple(
        layer
        for layer in range(model.cfg.n_layers)
        if model.get_hook_point(Site(layer, part, head).hook_name) is None
    )


def _observe(
    model: TransformerBridge, tokens: Tensor, missing: dict[Part, tuple[int, ...]]
) -> tuple[Tensor, dict[str, Tensor]]:
    seen: dict[str, Tensor] = {}

    def note(name: str):  # type: ignore[no-untyped-def]  # a hook function, typed by TransformerLens
        def hook(value: Tensor, hook: object) -> None:
            seen[name] = value.detach().float()

        return hook

    names = [
        name
        for layer in range(model.cfg.n_layers)
        for name in (
            ENTRY.format(layer=layer),
            EXIT.format(layer=layer),
            *(
                Site(layer, part).hook_name
                for part in ("attn", "mlp")
                if layer not in missing[part]
            ),
        )
    ]
    logits = model.run_with_hooks(
        tokens,
        fwd_hooks=[(name, note(name)) for name in names],
        attention_mask=torch.ones_like(tokens),
        use_cache=False,
    )
    return logits, seen


def _identity(model: TransformerBridge, layer: int, seen: dict[str, Tensor]) -> tuple[float, bool]:
    entry, exit_ = seen[ENTRY.format(layer=layer)], seen[EXIT.format(layer=layer)]
    attn = seen.get(Site(layer, "attn").hook_name)
    mlp = seen.get(Site(layer, "mlp").hook_name)
    if attn is None or mlp is None:
        return float("nan"), False
    written = (exit_ - entry).norm(dim=-1)
    error = (entry + attn + mlp - exit_).norm(dim=-1)
    rounding = 2 * torch.finfo(model.cfg.dtype).eps * exit_.norm(dim=-1)
    holds = bool((error <= 1e-3 * written + rounding).all())
    return float((error / written.clamp(min=1e-30)).max()), holds


def _cache_error(model: TransformerBridge, tokens: Tensor, whole: Tensor, name: str) -> float:
    if not model.adapter.supports_kv_cache:
        raise InputError(f"model {name!r} ({model.cfg.architecture}) cannot decode with a cache")
    ones = torch.ones_like(tokens)
    _, cache = model(
        tokens[:, :_N_CACHED],
        return_type="logits_and_cache",
        attention_mask=ones[:, :_N_CACHED],
        use_cache=True,
    )
    worst = 0.0
    for end in range(_N_CACHED + 1, _N_TOKENS + 1):
        step, cache = model(
            tokens[:, end - 1 : end],
            return_type="logits_and_cache",
            attention_mask=ones[:, :end],
            past_key_values=cache,
        )
        expected = whole[:, end - 1].float()
        difference = (step[:, -1].float() - expected).abs().max() / expected.std()
        worst = max(worst, float(difference))
    if not worst <= _CACHE_TOLERANCE.get(model.cfg.dtype, 0.1):
        versions = " with ".join(
            f"{package} {importlib.metadata.version(package)}"
            for package in ("transformer-lens", "transformers")
        )
        raise InputError(
            f"model {name!r}: decoding with a cache gives other logits than without "
            f"(difference {worst:.2g} standard deviations) in {versions}; "
            f"install versions that the project supports, such as 'transformers>=5.20,<5.24'"
        )
    return worst
