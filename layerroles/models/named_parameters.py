"""Read a loaded model's weights by name, and share them with another model without copies."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from layerroles.private_apis import saved_tensors


def is_spread(model: TransformerBridge) -> bool:
    """Return whether the weights do not all lie on one device.

    True also if some lie on disk (on the meta device); false for a model of `load(device="meta")`.
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


# What a bridge's wrappers add to the names that tensors have in transformers.
_WRAPPER = "._original_component"


def named_tensors(model: TransformerBridge) -> dict[str, Tensor]:
    """Return parameters and buffers by their names in transformers.

    Tied parameters have an entry under each of their names. Nothing is loaded: the value of a
    weight that lies on disk is its placeholder on the meta device.
    """
    original = model.original_model
    named = [*original.named_parameters(remove_duplicate=False), *original.named_buffers()]
    return {name.replace(_WRAPPER, ""): tensor for name, tensor in named}


def lend_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], source: Callable[[str], str] = str
) -> str | None:
    """Replace parameters and buffers of a model on the meta device by `tensors`, without copying.

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
            # TransformerLens moves the rotary frequencies of some families (gpt-oss) elsewhere.
            device = next(iter(tensors.values())).device
            tensor = type(module)(module.config).get_buffer(last).to(device)
        if tensor is None or tensor.shape != own.shape:
            return source(name)
        if last in module._parameters:
            module._parameters[last] = nn.Parameter(tensor.detach(), requires_grad=False)
        else:
            module._buffers[last] = tensor
    return None


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's values as bytes, to be hashed."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
