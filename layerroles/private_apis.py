"""Private interfaces of other libraries that the package uses.

A name with a leading underscore may change with any release, so such names are used only in this
module. The function that uses one states the library version with which it was last checked. The
tables of `torch.nn.Module` (`_parameters`, `_buffers`, and those of hooks) are an exception: other
modules read and change them directly.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def multiplies_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 in hardware.

    Last checked with torch 2.13.
    """
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def fake_tensors() -> AbstractContextManager[Any]:
    """Return a context manager: inside its `with` block, new tensors have shapes but no values.

    Operations may combine them with real tensors. Last checked with torch 2.13.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode: AbstractContextManager[Any] = FakeTensorMode(allow_non_fake_inputs=True)
    return mode


def flash_attention(
    q: Float[Tensor, "group head n_q d_head"],
    k: Float[Tensor, "group head n_k d_head"],
    v: Float[Tensor, "group head n_k d_head"],
    *,
    causal: bool,
    mask: Float[Tensor, "#group #head #n_q n_k"] | None,
    scale: float,
) -> tuple[Float[Tensor, "group head n_q d_head"], Float[Tensor, "group head n_q"]]:
    """Return attention outputs and log-sum-exps of the scores, computed by torch's CPU kernel.

    Last checked with torch 2.13.

    Raises:
        NotImplementedError: torch has no such kernel.
    """
    kernel = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if kernel is None:
        raise NotImplementedError("torch has no flash attention for CPUs that gives its sums")
    out, lse = kernel(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)
    return out, lse


def multiplies_to_float32(device: torch.device) -> bool:
    """Return whether `torch.bmm` on a device can give a float32 product of 16-bit factors.

    Only CUDA (not ROCm) can, since torch 2.8. Last checked with the documentation of torch 2.13.
    """
    is_cuda = device.type == "cuda" and torch.version.hip is None
    return is_cuda and "dtype" in torch.ops.aten.bmm.overloads()


@contextmanager
def conversion_bar_on_terminals() -> Iterator[None]:
    """Show the progress bar of GGUF conversions only on terminals, inside the `with` block.

    transformers (5.24) offers no setting for this bar, which would fill a log file with lines.
    """
    conversion: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    shown = conversion.tqdm
    conversion.tqdm = functools.partial(shown, disable=None)
    try:
        yield
    finally:
        conversion.tqdm = shown


def n_edits(tensor: Tensor) -> int:
    """Return how often a tensor was edited in place; 0 for inference tensors.

    Last checked with torch 2.13.
    """
    return 0 if tensor.is_inference() else int(tensor._version)


def saved_tensors(module: nn.Module) -> Mapping[str, Tensor | None]:
    """Return a module's own parameters and persistent buffers, by name.

    Last checked with torch 2.13.
    """
    persistent = set(module._buffers) - module._non_persistent_buffers_set
    return module._parameters | {name: module._buffers[name] for name in persistent}


def rename_cache_arguments(bridge: Any) -> None:
    """Make a bridge pass its key/value cache under the argument name that transformers uses.

    transformers 5.24 renamed the arguments `past_key_values` of models and attentions, and
    `cache_params` of linear attentions, to `cache`. transformer-lens 4.3 knows the old names only:
    its bridges would take the tokens of a decoding step for the whole text. If the installed
    transformers is earlier, nothing is changed.
    """
    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge
    from transformer_lens.model_bridge.generalized_components.gated_delta_net import (
        GatedDeltaNetBridge,
    )
    from transformer_lens.model_bridge.generalized_components.mla_attention import (
        MLAAttentionBridge,
    )

    if _takes_cache(bridge.original_model):
        _rename_argument(bridge.original_model, "past_key_values", "cache")
    for module in bridge.modules():
        if isinstance(module, MLAAttentionBridge) and _takes_cache(module.original_component):
            _rename_argument(module, "cache", "past_key_values")
        elif isinstance(module, GatedDeltaNetBridge) and _takes_cache(module.original_component):
            original: Any = module.original_component
            _rename_argument(module, "cache", "cache_params")
            _rename_argument(original, "cache_params", "cache")
        elif isinstance(module, AttentionBridge) and _takes_cache(module.original_component):
            update = module._update_kv_cache
            if not isinstance(update, functools.partial):  # not wrapped yet
                vars(module)["_update_kv_cache"] = functools.partial(_update_cache, update)


def _takes_cache(module: Any) -> bool:
    return "cache" in inspect.signature(module.forward).parameters


def _rename_argument(module: nn.Module, old: str, new: str) -> None:
    """Rename the keyword argument `old` to `new` in all calls of a module."""
    known = vars(module).setdefault("layerroles_renamed", set())
    if (old, new) in known:
        return
    known.add((old, new))

    def renamed(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {new if name == old else name: value for name, value in kwargs.items()}

    module.register_forward_pre_hook(renamed, with_kwargs=True)


def _update_cache(
    update: Callable[..., Any], k: Tensor, v: Tensor, *, cache: Any = None, **kwargs: Any
) -> Any:
    return update(k, v, **(kwargs if cache is None else kwargs | {"past_key_values": cache}))


def takes_positions(model: Any) -> bool:
    """Return whether a bridge's model accepts position ids.

    Last checked with transformer-lens 4.3.
    """
    return bool(model._accepts_derived_position_ids())


def build_task_on(manager: Any, name: str, data: str) -> Any:
    """Build an lm-eval task that reads its data from `data` instead of its own dataset path.

    Last checked with lm-eval 0.4.13.
    """
    return manager._factory.build(
        manager.task_index[name],
        overrides={"dataset_path": data},
        registry=manager.task_index,
    )


def filter_names(task: Any) -> list[str]:
    """Return the names of an lm-eval task's filters.

    Last checked with lm-eval 0.4.13.
    """
    return [str(task_filter.name) for task_filter in task._filters]


def set_instances(task: Any, instances: list[Any]) -> None:
    """Set the instances that the filters of an lm-eval task are applied to.

    Last checked with lm-eval 0.4.13.
    """
    task._instances = instances
