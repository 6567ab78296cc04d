"""Where a model's weights lie, what they are, and whether they are still the same.

Replace the forward of modules within a context.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from layerroles.compat import n_edits, saved_tensors


def is_spread(model: TransformerBridge) -> bool:
    """Whether weights lie on several devices, or on disk until they are needed."""
    devices = {parameter.device for parameter in model.original_model.parameters()}
    return len(devices) > 1 or torch.device("meta") in devices


def weights(model: TransformerBridge) -> Iterator[tuple[str, Tensor]]:
    """All weights by name, each once; those that lie on disk are fetched."""
    here: Callable[[nn.Module], Any] = nullcontext
    if is_spread(model):
        from accelerate.utils import align_module_device

        here = align_module_device
    modules = dict(model.original_model.named_modules())
    for path in sorted(modules):
        module = modules[path]
        with here(module):
            for name, value in sorted(saved_tensors(module).items()):
                if value is not None:
                    yield f"{path}.{name}", value


# What a bridge puts around transformers' modules, as the names of their tensors show it.
_WRAPPER = "._original_component"


def named(model: TransformerBridge) -> dict[str, Tensor]:
    """All tensors (buffers too) by the names that transformers gives them; nothing is fetched."""
    original = model.original_model
    found = [*original.named_parameters(remove_duplicate=False), *original.named_buffers()]
    return {name.replace(_WRAPPER, ""): tensor for name, tensor in found}


def lend(
    model: nn.Module, tensors: Mapping[str, Tensor], source: Callable[[str], str] = str
) -> str | None:
    """Give a transformers model that was made on no memory these very tensors, without gradients.

    Args:
        model: gets a tensor for each of its parameters and buffers.
        tensors: by name.
        source: the name in `tensors` of what the model calls by another name.

    Returns:
        The first name that is missing among the tensors or has another shape; None if none is.
    """
    for name, held in (*model.named_parameters(), *model.named_buffers()):
        given = tensors.get(source(name))
        if given is None or given.shape != held.shape:
            return source(name)
        owner, _, last = name.rpartition(".")
        module = model.get_submodule(owner)
        if last in module._parameters:
            module._parameters[last] = nn.Parameter(given.detach(), requires_grad=False)
        else:
            module._buffers[last] = given
    return None


def stamp(model: TransformerBridge) -> int:
    """A number that changes when weights are exchanged or edited in place (in this process)."""
    parameters = model.original_model.parameters()
    return hash(tuple((p.data_ptr(), n_edits(p)) for p in parameters))


def text_config(original: nn.Module) -> Any:
    """What a transformers model's configuration says of its text blocks; None if it has none.

    Models that read more than text keep that in a part of it.
    """
    config: Any = getattr(original, "config", None)
    inner = getattr(config, "get_text_config", None)
    return config if inner is None else inner(decoder=True)


def shares_keys(original: nn.Module) -> bool:
    """Whether some layers attend to keys of layers before them, as the last of Gemma 4 do."""
    return bool(getattr(text_config(original), "num_kv_shared_layers", None))


_LIBRARIES = ("transformer_lens.", "transformers.")


def hook_ids(model: TransformerBridge) -> frozenset[int]:
    """Which hooks are on the model's modules and hook points.

    Left out are those that the libraries put on modules when they first need to, to feed hook
    points or to give streams and patterns out.
    """
    points = set(model.hook_dict.values())
    return frozenset(
        key
        for module in {*model.original_model.modules(), *points}
        for found in (module._forward_hooks, module._forward_pre_hooks)
        for key, hook in found.items()
        if module in points or not _made_in(hook).startswith(_LIBRARIES)
    )


def _made_in(hook: Any) -> str:
    """The module in which a hook's function was written."""
    return getattr(getattr(hook, "func", hook), "__module__", None) or ""


# What a configuration says that decides nothing of what a block computes.
_NO_BEHAVIOUR = {
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "use_cache"),
    *("initializer_range", "max_position_embeddings", "n_positions", "n_ctx"),
    *("quantization_config", "task_specific_params"),
    # Of a model that TransformerLens made itself.
    *("device", "init_mode", "init_weights", "model_name", "n_devices", "n_params", "seed"),
    *("tokenizer_appends_eos", "tokenizer_name", "tokenizer_prepends_bos", "default_prepend_bos"),
}


def behaviour(model: TransformerBridge) -> dict[str, Any]:
    """The configuration values that, with the weights, define what a model's blocks compute."""
    config: Any = getattr(model.original_model, "config", model.cfg)
    return {name: value for name, value in config.to_dict().items() if name not in _NO_BEHAVIOUR}


def content(tensor: Tensor) -> memoryview:
    """A tensor's values as bytes, to be hashed."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


@contextmanager
def instead(modules: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Within the context, calling one of the modules calls `forward`; their hooks still fire."""
    try:
        for module in modules:
            # Past a bridge's own __setattr__, which would write through to the module it wraps.
            module.__dict__["forward"] = forward
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def passing(stream: Tensor) -> Callable[..., Tensor]:
    """A replacement for a block's `forward` that returns this stream for any input."""

    def passed(*_args: Any, **_kwargs: Any) -> Tensor:
        return stream

    return passed
