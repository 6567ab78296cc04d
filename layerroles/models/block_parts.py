"""Find the modules of a block that add to the residual stream: its mixer, its MLP, and others.

The mixer is the module that mixes tokens: attention, linear attention, a convolution or a state
space. Its name differs between bridges (TransformerLens's wrappers of transformers models);
`name_hooks` gives it the same hook name in all.
"""

from typing import Any

from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from layerroles.sites import MODULE_OUT, Part, Site

# Modules that may mix tokens in place of attention, as bridges call them.
MIXERS = ("linear_attn", "mixer", "mamba", "conv", "ssm")
_EXPERTS = ("moe", "shared_mlp")  # experts of Granite hybrids; no module puts out their sum
_EMBEDDINGS = "post_per_layer_input_norm"  # the norm of a layer's own embeddings, in Gemma 4
_ALIASED: tuple[Part, ...] = ("mixer", "attn", "mlp")


def name_hooks(model: TransformerBridge) -> None:
    """Add aliases for the hooks of each block's mixer, attention and MLP, as named in `sites`.

    A bridge has aliases for attention and MLP in most blocks, but none for the mixer, and none in
    blocks with one module that is an attention, an MLP or a state space (Nemotron-H).
    """
    for layer, block in enumerate(model.blocks):
        modules = part_modules(block)
        for part in _ALIASED:
            name = _last(Site(layer, part).hook_name)
            if part not in modules or (part != "mixer" and hasattr(block, name)):
                continue
            target = MODULE_OUT.format(module=modules[part])
            if modules[part] == "attn":  # its alias may name a hook behind its norm
                target = _last(Site(layer, "attn").hook_name)
                target = block.hook_aliases.get(target, target)
            point = model.get_hook_point(f"blocks.{layer}.{target}")
            if point is not None:
                block.hook_aliases = block.hook_aliases | {name: target}
                vars(block)[name] = point  # as TransformerLens sets its own aliases


def part_modules(block: nn.Module) -> dict[Part, str]:
    """Map the parts of a block to the names of its modules in the bridge.

    A block with both attention and another mixer, as in Falcon-H1, gets no entry for `mixer`.
    """
    names = module_names(block)
    modules: dict[Part, str] = {part: part for part in ("attn", "mlp") if part in names}
    mixers = [name for name in ("attn", *MIXERS) if name in names]
    # The type of a Nemotron-H block's only module.
    kind = str(getattr(block.original_component, "block_type", ""))
    if mixers == ["mixer"] and kind in ("mlp", "moe"):
        modules["mlp"] = "mixer"
    elif len(mixers) == 1:
        modules["mixer"] = mixers[0]
        if mixers == ["mixer"] and "attention" in kind and kind != "linear_attention":
            modules["attn"] = "mixer"
    return modules


def other_writes(model: TransformerBridge, layer: int) -> dict[str, float]:
    """Return hook names and factors of a block's known writes other than those of mixer and MLP.

    These are the outputs of Granite's experts and of Gemma 4's per-layer embeddings. The block adds
    the value at each hook, multiplied by its factor, to the stream.
    """
    block = model.blocks[layer]
    names = module_names(block)
    factor = float(getattr(block, "residual_contribution_scale", 1.0))
    terms = dict.fromkeys(_EXPERTS, factor) if "moe" in names else {}
    terms[_EMBEDDINGS] = 1.0
    return {
        f"blocks.{layer}.{MODULE_OUT.format(module=name)}": factor
        for name, factor in terms.items()
        if name in names
    }


def mixer_factor(model: TransformerBridge, layer: int) -> float:
    """Return the factor by which a block scales its mixer's hook value: 1, except in Granite."""
    block = model.blocks[layer]
    if part_modules(block).get("mixer", "attn") == "attn":  # its hook value is scaled already
        return 1.0
    return float(getattr(block, "residual_contribution_scale", 1.0))


def output_scale(model: TransformerBridge, layer: int) -> float:
    """Return the factor by which a block multiplies its output: 1, except in Gemma 4."""
    return float(getattr(model.blocks[layer].original_component, "layer_scalar", 1.0))


def unnamed_writers(block: Any) -> tuple[str, ...]:
    """Return names of a block's modules that may add to the stream but belong to no part."""
    names, modules = module_names(block), part_modules(block)
    if not modules:  # the bridge knows none of them: take the names in transformers
        own = [name for name, _ in block.original_component.named_children()]
        return tuple(name for name in own if "norm" not in name)
    others = (*MIXERS, *(_EXPERTS if "moe" in names else ()))
    return tuple(name for name in others if name in names - set(modules.values()))


def module_names(block: nn.Module) -> set[str]:
    """Return the names of a block's direct submodules in the bridge."""
    return {name for name, _ in block.named_children()}


def _last(hook_name: str) -> str:
    return hook_name.rpartition(".")[2]
