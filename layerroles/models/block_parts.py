"""What a block of a bridge adds to the stream: its mixer, its MLP, and what else there is.

The mixer is what a layer mixes tokens with: attention, linear attention, a convolution or a state
space. Bridges call it by different names; here it gets one hook.
"""

from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from layerroles.sites import MIXER, MODULE_OUT, Site

# What a block may mix tokens with in place of attention, as bridges call it.
MIXERS = ("linear_attn", "mixer", "mamba", "conv", "ssm")
_PARTS_OF_MLP = ("moe", "shared_mlp")  # added without a module for their sum, in Granite hybrids
_OTHER_WRITES = ("post_per_layer_input_norm",)  # per-layer embeddings, of Gemma 4


def name_mixers(model: TransformerBridge) -> None:
    """Give the hook of each block's mixer the name of `sites.MIXER`.

    A block with attention beside another mixer, as in Falcon-H1, gets none.
    """
    name = MIXER.rpartition(".")[2]
    for layer, block in enumerate(model.blocks):
        mixers = [mixer for mixer in ("attn", *MIXERS) if mixer in module_names(block)]
        if len(mixers) != 1:
            continue
        target = MODULE_OUT.format(module=mixers[0])
        if mixers == ["attn"]:  # whose hook may lie behind its norm
            target = Site(layer, "attn").hook_name.rpartition(".")[2]
            target = block.hook_aliases.get(target, target)
        point = model.get_hook_point(f"blocks.{layer}.{target}")
        if point is not None:
            block.hook_aliases = block.hook_aliases | {name: target}
            vars(block)[name] = point  # as TransformerLens sets its own aliases


def other_writes(model: TransformerBridge, layer: int) -> list[str]:
    """Return the hooks of what a block adds to the stream beside its mixer and its MLP."""
    names = module_names(model.blocks[layer])
    return [
        f"blocks.{layer}.{MODULE_OUT.format(module=name)}"
        for name in _OTHER_WRITES
        if name in names
    ]


def unnamed_writers(block: nn.Module) -> tuple[str, ...]:
    """Return a block's modules that are not attention, MLP, norms or the block's only mixer."""
    names = module_names(block)
    mixers = [name for name in MIXERS if name in names]
    if "attn" not in names and len(mixers) == 1:
        mixers = []
    return (*mixers, *(name for name in _PARTS_OF_MLP if name in names))


def module_names(block: nn.Module) -> set[str]:
    """Return the names of a block's own modules, as bridges call them."""
    return {name for name, _ in block.named_children()}


def output_scale(model: TransformerBridge, layer: int) -> float:
    """Return the factor by which a block multiplies its output, 1 for most (not for Gemma 4)."""
    return float(getattr(model.blocks[layer].original_component, "layer_scalar", 1.0))
