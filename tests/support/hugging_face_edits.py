"""Hugging Face models edited without TransformerLens: hooks on a part, weights of another model."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import layerroles as lr
from tests.support.random_models import model_path, random_model

# Texts of the reference from which `writes` are recorded.
TEXTS = ["abc", "hello there", "x = 12"]
# The layer that `edited` edits, and its head or group of heads.
LAYER = 1
NUMBER = {"head": 2, "kv_group": 1}
# Where Hugging Face keeps the blocks; in the others in `model.layers`.
BLOCKS = {name: "transformer.h" for name in ("gpt2", "gptj", "bloom", "falcon")}
BLOCKS["neox"] = "gpt_neox.layers"
# The modules whose output is what is added to the stream, and the one that is given the heads' z.
NORMS_BEHIND = {
    "attn": "post_attention_layernorm",
    "mlp": "post_feedforward_layernorm",
    "z": "self_attn.o_proj",
}
WRITERS = {
    "gpt2": {"attn": "attn", "mlp": "mlp", "z": "attn.c_proj"},
    "neox": {"attn": "attention", "mlp": "mlp", "z": "attention.dense"},
    "phi": {"attn": "self_attn", "mlp": "mlp", "z": "self_attn.dense"},
    "gptj": {"attn": "attn", "mlp": "mlp", "z": "attn.out_proj"},
    # What these modules put out is the stream, with what is added to it last.
    "bloom": {
        "attn": "self_attention.dense",
        "mlp": "mlp.dense_4h_to_h",
        "z": "self_attention.dense",
    },
    "falcon": {"attn": "self_attention", "mlp": "mlp", "z": "self_attention.dense"},
    "gemma2": NORMS_BEHIND,
    "gemma3": NORMS_BEHIND,
    "gemma2_window": NORMS_BEHIND,
    "olmo2": NORMS_BEHIND,
}
LLAMA_WRITERS = {"attn": "self_attn", "mlp": "mlp", "z": "self_attn.o_proj"}
# The modules of a block that each sublayer consists of, (attention, MLP).
SUBLAYERS = {
    "gpt2": (("ln_1", "attn"), ("ln_2", "mlp")),
    "neox": (("input_layernorm", "attention"), ("post_attention_layernorm", "mlp")),
    "gemma2": (
        ("input_layernorm", "self_attn", "post_attention_layernorm"),
        ("pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
    ),
    "bloom": (("input_layernorm", "self_attention"), ("post_attention_layernorm", "mlp")),
    "olmo2": (("self_attn", "post_attention_layernorm"), ("mlp", "post_feedforward_layernorm")),
}
SUBLAYERS["gemma3"] = SUBLAYERS["gemma2"]
LLAMA_SUBLAYERS = (("input_layernorm", "self_attn"), ("post_attention_layernorm", "mlp"))
# Query heads that share a key/value head; in the others 2.
SHARED = dict.fromkeys(("gpt2", "neox", "phi", "gptj", "bloom", "falcon"), 1)

Edit = Callable[[Tensor], Tensor]


@cache
def hugging_face(architecture: str) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(
        model_path(architecture), attn_implementation="eager"
    )
    return model.eval()


@contextmanager
def edited(architecture: str, part: str, edit: Edit) -> Iterator[nn.Module]:
    """Within the context, pass the part's write through `edit`."""
    model = hugging_face(architecture)
    block = model.get_submodule(f"{BLOCKS.get(architecture, 'model.layers')}.{LAYER}")
    writers = WRITERS.get(architecture, LLAMA_WRITERS)
    entered: list[Tensor] = []

    def first(output: object) -> Tensor:
        return output[0] if isinstance(output, tuple) else output  # type: ignore[return-value]

    def like(output: object, new: Tensor) -> object:
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def on_block(_module: object, args: tuple, kwargs: dict, output: object) -> object:
        entered[:] = [args[0] if args else kwargs["hidden_states"]]
        if part == "stream":
            return like(output, edit(first(output)))
        return like(output, entered[0] + edit(first(output) - entered[0]))

    def on_output(_module: object, _args: object, output: object) -> object:
        return like(output, edit(first(output)))

    def on_z(_module: object, args: tuple[Tensor]) -> tuple[Tensor]:
        z = args[0].clone()
        width = z.shape[-1] // 4
        share = SHARED.get(architecture, 2)
        n, some = (NUMBER[part], 1) if part == "head" else (NUMBER[part] * share, share)
        where = slice(n * width, (n + some) * width)
        z[..., where] = edit(z[..., where])
        return (z,)

    if part in ("block", "stream"):
        handle = block.register_forward_hook(on_block, with_kwargs=True)
    elif part in ("attn", "mlp", "mixer"):
        handle = block.get_submodule(
            writers["mlp" if part == "mlp" else "attn"]
        ).register_forward_hook(on_output)
    else:
        handle = block.get_submodule(writers["z"]).register_forward_pre_hook(on_z)
    try:
        yield model
    finally:
        handle.remove()


@cache
def writes(architecture: str, part: str) -> list[Tensor]:
    """Record what the part writes on each of `TEXTS`, `[pos, ...]` in float64."""
    found: list[Tensor] = []

    def note(write: Tensor) -> Tensor:
        found.append(write[0].double())
        return write

    with edited(architecture, part, note) as model, torch.inference_mode():
        for text in TEXTS:
            model(torch.tensor([lr.models.encode(random_model(architecture), text)]))
    return found


def exchange_layers(
    architecture: str, layers: Iterable[int], part: str = "block"
) -> torch.nn.Module:
    """Return a model whose weights in these layers are those of the model of seed 1."""
    host, donor = (
        AutoModelForCausalLM.from_pretrained(
            model_path(architecture, seed), attn_implementation="eager"
        )
        for seed in (0, 1)
    )
    path = BLOCKS.get(architecture, "model.layers")
    for layer in layers:
        one, two = (model.get_submodule(f"{path}.{layer}") for model in (host, donor))
        names = [""]
        if part != "block":
            names = list(SUBLAYERS.get(architecture, LLAMA_SUBLAYERS)[part == "mlp"])
        for name in names:
            one.get_submodule(name).load_state_dict(two.get_submodule(name).state_dict())
    return host.eval()
