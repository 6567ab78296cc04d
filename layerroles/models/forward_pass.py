"""Run one forward pass with an explicit attention mask and positions."""

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.models.hf_config import first_shared_keys
from layerroles.private_apis import takes_positions


def forward(
    model: TransformerBridge,
    tokens: Int[Tensor, "row pos"],
    attended: Int[Tensor, "row all_pos"],
    *,
    cache: Any = None,
    use_cache: bool = False,
    keep: int = 0,
) -> tuple[Float[Tensor, "row kept d_vocab"], Any]:
    """Run one pass; return its logits, and the cache if one is used (else None).

    Args:
        model: the bridge.
        tokens: ids of the new tokens, padded on either side.
        attended: 1 for real tokens, 0 for pads, over cached and new tokens; positions count the 1s.
        cache: keys and values of the tokens before, extended in place; None if there are none.
        use_cache: return a cache even if none was given.
        keep: number of last positions whose logits are returned; 0 returns all.
    """
    arguments: dict[str, Any] = {"attention_mask": attended}
    # Models whose `forward` takes no positions derive them from the mask.
    if takes_positions(model):
        # Rows that have ended may go on beyond the model's context, but their logits are not used.
        positions = (attended.cumsum(-1) - 1).clamp(0, model.cfg.n_ctx - 1)
        arguments["position_ids"] = positions[:, -tokens.shape[1] :]
    # Not every `forward` has `logits_to_keep`. In models where layers reuse keys of earlier layers,
    # it would also skip what the reusing layers compute at the other positions.
    known = inspect.signature(model.original_model.forward).parameters
    if keep and "logits_to_keep" in known and first_shared_keys(model.original_model) is None:
        arguments["logits_to_keep"] = keep
    if cache is not None:
        arguments["past_key_values"] = cache
    arguments["use_cache"] = use_cache or cache is not None
    with torch.inference_mode():
        logits, cache = model(tokens, return_type="logits_and_cache", **arguments)
    return (logits[:, -keep:] if keep else logits), cache
