"""List the hooks of a loaded model, and replace modules' `forward`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

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
