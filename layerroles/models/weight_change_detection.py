"""Detect that a model's weights were replaced or edited, and discard results computed from them."""

from typing import Any

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.private_apis import n_edits, saved_tensors


def weights_stamp(model: TransformerBridge) -> int:
    """Return a hash that changes when weights are replaced or edited in place.

    Weights are all parameters and saved buffers. The hash is valid in this process only. It is made
    of addresses and of PyTorch's counts of in-place edits, so edits that PyTorch does not count are
    not noticed: those of inference tensors, and those made through `.data`.
    """
    tensors: list[Tensor] = list(model.original_model.parameters())
    for module in model.original_model.modules():
        if module._buffers:
            tensors += [tensor for tensor in saved_tensors(module).values() if tensor is not None]
    return hash(tuple((tensor.data_ptr(), n_edits(tensor)) for tensor in tensors))


def weights_cache(model: TransformerBridge) -> dict[Any, Any]:
    """Return the model's dict of results computed from its weights; a new one if they changed.

    All callers share the dict, so their keys must differ. It is stored on the model, since a result
    may refer to the model: a cache outside of it would then keep both in memory forever.
    """
    now = weights_stamp(model)
    if model.__dict__.get("layerroles_cache", (None,))[0] != now:
        model.__dict__["layerroles_cache"] = now, {}
    cache: dict[Any, Any] = model.__dict__["layerroles_cache"][1]
    return cache
