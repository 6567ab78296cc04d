r"""Direct attribution: how much each layer's attention and MLP add to the answer's logit.

The residual stream before the final norm is the sum of what the parts add to it,
`x = embed + sum_l (attn_l + mlp_l)`, and with the norm's statistics held fixed, logits are linear
in `x`. So with `u` the unembedding of the answer minus the mean unembedding of the other choices
(where there are choices), `g` the norm's weight and `s` its divisor,

    logit(answer) - mean logit(others) = sum_p u . (g * center(p) / s) + bias,

where `p` runs over the parts, and `center` subtracts the mean for a layer norm and does nothing for
an RMS norm. Each term is the *direct* effect of one part. It leaves out the effects through later
layers, which read what the part adds; ablating the part measures the total effect.

The arithmetic is that of TransformerLens's `direct_logit_attribution`, by its
`ActivationCache.apply_ln_to_stack`. That tool itself needs folded weights; models here keep their
original weights. (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits";
Wang et al. 2022, arXiv 2211.00593.)

    >>> frame = DirectAttribution().measure(model, [lr.task("facts")])  # doctest: +SKIP
    >>> frame.groupby(["layer", "part"]).logit.mean()  # doctest: +SKIP
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import Condition
from layerroles.errors import InputError
from layerroles.models import other_writes, output_scale, prepared
from layerroles.probes.answering_position import Batch
from layerroles.probes.base import Probe, register
from layerroles.sites import ENTRY, FINAL_SCALE, Part, Site

# Largest allowed difference of the parts' sum from the model's own logit. In half precision, the
# stream is rounded after each addition, and so are the logits.
_TOLERANCE = {torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.5}


_SUBLAYERS: tuple[Part, ...] = ("attn", "mlp")


@register("attribution")
@dataclass(frozen=True)
class DirectAttribution(Probe):
    """Measure how much each layer's attention and MLP add directly to the answer's logit.

    Columns: layer (0-based; -1 for `embed` and `bias`), part (`attn`, `mlp`; `embed`, the stream
    before layer 0; `bias`, the biases of the final norm and the unembedding) and logit (what the
    part adds, before the soft cap or scale of logits that some models have). The parts of an
    example add up to the model's logit of the answer token, minus the mean logit of the other
    choices if there are any; this is checked.

    Raises:
        InputError: this architecture cannot be decomposed, because attention and MLP do not add up
            to what the layer adds, or the parts do not add up to the model's own logits.

    Example:
        attribution = lr.probes.DirectAttribution().measure(model, tasks, limit=8)
        attribution.groupby(["task", "layer", "part"])["logit"].mean()
    """

    def check_condition(self, condition: Condition) -> None:
        """Check that the condition edits sublayers only, or changes weights.

        Raises:
            InputError: it edits a whole layer or the stream, so that what the hooks of sublayers
                show is not what is added to the stream.
        """
        for site, edit in condition.edits.items():
            if site.part in ("block", "stream") and not edit.in_place:
                raise InputError(
                    f"direct attribution takes layers apart, and {edit.name} at {site} edits more "
                    f"than a sublayer: ablate its attn and mlp instead"
                )

    def rows(self, model: TransformerBridge, batch: Batch) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a row for each example and part."""
        places = _find_parts(model)
        streams: dict[str, Tensor] = {}

        def note_stream(value: Tensor, name: str) -> None:
            streams[name] = value[:, -1:].float()

        hooks = {name: partial(note_stream, name=name) for name in places.values()}
        if model.get_hook_point(FINAL_SCALE) is not None:
            hooks[FINAL_SCALE] = partial(note_stream, name=FINAL_SCALE)
        logits = batch.run(model, hooks).float()
        device = model.W_U.device
        parts = torch.stack([streams[name].to(device) for name in places.values()])
        scale = {FINAL_SCALE: streams[FINAL_SCALE].to(device)} if FINAL_SCALE in streams else {}
        normed = ActivationCache(scale, model).apply_ln_to_stack(parts)[:, :, 0]
        for row, example in enumerate(batch.examples):
            tokens = torch.tensor([batch.answers[row], *batch.others[row]], device=device)
            written, bias = _project_parts(model, normed[:, row], tokens)
            _check_sum(model, written.sum(0) + bias, logits[row, tokens.to(logits.device)])
            for (layer, part), value in zip(places, _subtract_others(written), strict=True):
                yield example.id, {"layer": layer, "part": part, "logit": float(value)}
            yield example.id, {"layer": -1, "part": "bias", "logit": float(_subtract_others(bias))}


def _find_parts(model: TransformerBridge) -> dict[tuple[int, str], str]:
    """Map each (layer, part) that adds to the stream to the hook point of its write.

    The first entry is (-1, "embed"), the stream that enters layer 0.

    Raises:
        InputError: a sublayer cannot be read, since it has no working hook or the parts do not add
            up to what the layer adds; or a layer adds other terms, or scales its output.
    """
    checks = prepared(model).checks
    places = {(-1, "embed"): ENTRY.format(layer=0)}
    for layer in range(model.cfg.n_layers):
        for part in _SUBLAYERS:
            site = Site(layer, part)
            reason = checks.refusal(site)
            if reason:
                raise InputError(
                    f"direct attribution cannot take {prepared(model).name} apart: at {site} "
                    f"{reason}"
                )
            places[layer, part] = site.hook_name
        if other_writes(model, layer) or output_scale(model, layer) != 1:
            raise InputError(
                f"direct attribution cannot take {prepared(model).name} apart: layer {layer} adds "
                f"more than attention and MLP, or scales its output"
            )
    return places


def _project_parts(
    model: TransformerBridge, normed: Float[Tensor, "part d_model"], tokens: Tensor
) -> tuple[Float[Tensor, "part token"], Float[Tensor, " token"]]:
    """Return what each part adds to the logits of some tokens, and what the biases add.

    `normed` holds what each part adds to the stream, centered and divided as by the final norm, but
    not yet multiplied by the norm's weight.
    """
    unembedding = model.W_U[:, tokens].float()
    bias = model.b_U[tokens].float()
    norm = getattr(model, "ln_final", None)
    weight, shift = (getattr(norm, name, None) for name in ("weight", "bias"))
    if isinstance(shift, Tensor):
        bias = bias + einsum(shift.float(), unembedding, "d, d token -> token")
    if isinstance(weight, Tensor):
        offset = float(getattr(model.cfg, "rmsnorm_uses_offset", False))
        normed = normed * (weight.float() + offset)
    return einsum(normed, unembedding, "part d, d token -> part token"), bias


def _subtract_others(values: Float[Tensor, "*part token"]) -> Float[Tensor, "*part"]:
    """Return the values of token 0, the answer, minus the mean over other tokens, if any."""
    others = values[..., 1:]
    return values[..., 0] - (others.mean(-1) if others.shape[-1] else 0)


def _check_sum(
    model: TransformerBridge, summed: Float[Tensor, " token"], model_logits: Float[Tensor, " token"]
) -> None:
    """Check that the summed parts, after the model's soft cap or scale, give the model's logits.

    Raises:
        InputError: they differ by more than rounding.
    """
    logits = model.adapter.apply_output_logits_transform(summed)
    error = float((logits.to(model_logits.device) - model_logits).abs().max())
    if not error <= _TOLERANCE[model.cfg.dtype]:
        raise InputError(
            f"direct attribution cannot take {prepared(model).name} apart: its parts add up to a "
            f"logit that differs from the model's own by {error:.2g}"
        )
