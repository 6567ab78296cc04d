"""Inspect a loaded model's weights, configuration and hooks, and replace modules' `forward`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from layerroles.compat import n_edits, saved_tensors


def is_spread(model: TransformerBridge) -> bool:
    """Return whether the weights do not all lie on one device.

    True also if some weights are on the meta device: offloaded to disk, or not loaded at all.
    """
    devices = {parameter.device for parameter in model.original_model.parameters()}
    return len(devices) > 1 or torch.device("meta") in devices


def named_weights(model: TransformerBridge) -> Iterator[tuple[str, Tensor]]:
    """Yield names and values of the parameters and saved buffers of all modules, in a fixed order.

    Weights that lie on disk are loaded one module at a time.
    """
    fetched: Callable[[nn.Module], Any] = nullcontext
    if is_spread(model):
        from accelerate.utils import align_module_device

        fetched = align_module_device
    modules = dict(model.original_model.named_modules())
    for path in sorted(modules):
        module = modules[path]
        with fetched(module):
            for name, value in sorted(saved_tensors(module).items()):
                if value is not None:
                    yield f"{path}.{name}", value


# What a bridge's wrappers add to transformers' names of tensors.
_WRAPPER = "._original_component"


def named_tensors(model: TransformerBridge) -> dict[str, Tensor]:
    """Return parameters and buffers by their names in transformers; does not load those on disk."""
    original = model.original_model
    named = [*original.named_parameters(remove_duplicate=False), *original.named_buffers()]
    return {name.replace(_WRAPPER, ""): tensor for name, tensor in named}


def lend_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], source: Callable[[str], str] = str
) -> str | None:
    """Replace parameters and buffers of a model on the meta device by `tensors`, without copies.

    Rotary frequencies (`inv_freq`) that `tensors` lacks are computed from the configuration.

    Args:
        model: a transformers model.
        tensors: the replacements by name; they get no gradients.
        source: maps a name in the model to a name in `tensors`; by default the same name.

    Returns:
        None if everything was replaced. Else the first name that `tensors` lacks or has with
        another shape; from there on, nothing is replaced.
    """
    for name, own in (*model.named_parameters(), *model.named_buffers()):
        tensor = tensors.get(source(name))
        owner, _, last = name.rpartition(".")
        module = model.get_submodule(owner)
        if tensor is None and last.endswith("inv_freq") and hasattr(module, "config"):
            # TransformerLens moves those of some families (gpt-oss).
            device = next(iter(tensors.values())).device
            tensor = type(module)(module.config).get_buffer(last).to(device)
        if tensor is None or tensor.shape != own.shape:
            return source(name)
        if last in module._parameters:
            module._parameters[last] = nn.Parameter(tensor.detach(), requires_grad=False)
        else:
            module._buffers[last] = tensor
    return None


def weights_stamp(model: TransformerBridge) -> int:
    """Return a hash that changes when parameters are replaced or edited; valid in this process."""
    parameters = model.original_model.parameters()
    return hash(tuple((p.data_ptr(), n_edits(p)) for p in parameters))


def text_config(original: nn.Module) -> Any:
    """Return the configuration of a transformers model's text blocks; None without a configuration.

    In a multimodal model, the configuration of text blocks is one part of the model's.
    """
    config: Any = getattr(original, "config", None)
    inner = getattr(config, "get_text_config", None)
    return config if inner is None else inner(decoder=True)


def first_shared_keys(original: nn.Module) -> int | None:
    """Return the first layer whose keys and values later layers reuse, as in Gemma 4; None if none.

    Each of the last `num_kv_shared_layers` layers reuses the keys and values of the last earlier
    layer that has the same attention type and computes its own.
    """
    config = text_config(original)
    n_shared = getattr(config, "num_kv_shared_layers", None) or 0
    if not n_shared:
        return None
    own_types, reusing_types = config.layer_types[:-n_shared], config.layer_types[-n_shared:]
    lenders = (len(own_types) - 1 - own_types[::-1].index(kind) for kind in set(reusing_types))
    return int(min(lenders))


_LIBRARIES = ("transformer_lens.", "transformers.")


def hook_ids(model: TransformerBridge) -> frozenset[int]:
    """Return the ids of the hooks on the model's modules and hook points.

    Hooks that transformers and TransformerLens themselves register on modules, to feed hook points
    or to return hidden states and attention patterns, are left out.
    """
    points = set(model.hook_dict.values())
    return frozenset(
        key
        for module in {*model.original_model.modules(), *points}
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for key, hook in hooks.items()
        if module in points or not _defining_module(hook).startswith(_LIBRARIES)
    )


def _defining_module(hook: Any) -> str:
    """Return the name of the module that defines a hook's function."""
    return getattr(getattr(hook, "func", hook), "__module__", None) or ""


# Values of a configuration that have no effect on what a block computes.
_NO_BEHAVIOUR = {
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "use_cache"),
    *("initializer_range", "max_position_embeddings", "n_positions", "n_ctx"),
    *("quantization_config", "task_specific_params"),
    # Of a model that TransformerLens made itself.
    *("device", "init_mode", "init_weights", "model_name", "n_devices", "n_params", "seed"),
    *("tokenizer_appends_eos", "tokenizer_name", "tokenizer_prepends_bos", "default_prepend_bos"),
}


def behaviour_config(model: TransformerBridge) -> dict[str, Any]:
    """Return the configuration values that, with the weights, define what blocks compute."""
    config: Any = getattr(model.original_model, "config", model.cfg)
    return {name: value for name, value in config.to_dict().items() if name not in _NO_BEHAVIOUR}


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's values as bytes, to be hashed."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


@contextmanager
def replace_forward(modules: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the modules' `forward` inside the `with` block; their hooks still fire."""
    try:
        for module in modules:
            # Past a bridge's own __setattr__, which would write through to the module it wraps.
            module.__dict__["forward"] = forward
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def constant_forward(stream: Tensor) -> Callable[..., Tensor]:
    """Return a function that returns `stream` for any input, to replace a block's `forward`."""

    def forward(*_args: Any, **_kwargs: Any) -> Tensor:
        return stream

    return forward
