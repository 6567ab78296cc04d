"""List the hooks on a loaded model, to notice those that users add."""

from typing import Any

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
