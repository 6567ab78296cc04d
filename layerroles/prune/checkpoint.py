"""Write a model without some of its layers as a Hugging Face checkpoint.

Deleting blocks in place leaves wrong layer numbers: attention still uses its old `layer_idx` in the
KV cache, and the configuration still has lists with an entry for every layer (transformers issue
30508). So a smaller model is built from a smaller configuration, with the weights of the larger
one. Before it is written, it is compared with the larger model under `Skip` at those layers.

    export(model, drop=[21, 22], path="pruned/")
    AutoModelForCausalLM.from_pretrained("pruned/")
"""

import copy
import datetime
import json
from collections.abc import Iterable, Sequence
from functools import partial
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PreTrainedModel

from layerroles.ablations import applied
from layerroles.atomic_replacement import replace_atomically
from layerroles.errors import InputError
from layerroles.models import (
    check_weights,
    forward,
    is_spread,
    lend_tensors,
    named_tensors,
    prepared,
    provenance,
)
from layerroles.progress import hide_library_bars
from layerroles.prune.plan import skip_layers

_LAYER_NUMBER = {"layer_idx", "layer_id", "layer_number"}
# Configuration lists that hold layer numbers; other lists have an entry for each layer.
_LISTS_OF_LAYERS = {"mlp_only_layers", "attn_layer_indices"}
_N_TOKENS = 48
# Largest allowed difference of logits, as a share of their standard deviation.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}


@hide_library_bars()
def export(model: TransformerBridge, *, drop: Iterable[int], path: str | Path) -> Path:
    """Write a checkpoint without the layers `drop`, which plain transformers can load.

    The folder holds weights (safetensors), configuration, generation settings, tokenizer, and
    `layerroles.json` (the source model with versions, and the layers dropped and kept). The
    checkpoint answers as the model does with `Skip()` at those layers.

    Args:
        model: from `load` or `prepare`, of a Hugging Face architecture.
        drop: the layers to leave out (0-based), such as the `layers` of a `PruningPlan`.
        path: a folder that does not exist yet, or is empty.

    Returns:
        The folder.

    Raises:
        InputError: `drop` is no list of integers, is empty, or names all layers, a layer twice or a
            layer that the model lacks; the folder is not empty or cannot be written; the model has
            no weights, is not from transformers, is quantized or is spread over several devices; or
            the remaining blocks would change, since their settings depend on their layer numbers.

    Example:
        real = lr.load("smollm2-135m")
        folder = lr.export(real, drop=[1], path="pruned")
        pruned = lr.load(folder)
    """
    preparation, folder = prepared(model), Path(path)
    dropped = check_layers(model, drop)
    kept_layers = [layer for layer in range(model.cfg.n_layers) if layer not in dropped]
    check_empty(folder)
    original = check_exportable(model)
    smaller = _build_smaller(model, original, kept_layers)
    _check_same_logits(model, smaller, dropped)
    provenance_data = {
        "source": provenance(model).to_dict(),
        "dropped": sorted(dropped),
        "kept": kept_layers,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    try:
        with replace_atomically(folder) as written:
            smaller.save_pretrained(written)
            if original.can_generate():
                # Written directly, since `save_pretrained` refuses settings that many models have
                # (a temperature without sampling).
                settings = written / "generation_config.json"
                original.generation_config.to_json_file(settings)
            preparation.tokenizer.save_pretrained(written)
            text = json.dumps(provenance_data, indent=2, ensure_ascii=False) + "\n"
            (written / "layerroles.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"folder {str(path)!r} cannot be written: {error.strerror or error}"
        ) from error
    return folder


def check_empty(folder: Path) -> None:
    """Check that a folder is empty or does not exist, so that a checkpoint may be written there.

    Raises:
        InputError: the path exists and is not an empty folder, or cannot be read.
    """
    try:
        is_used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"folder {str(folder)!r} cannot be read: {error.strerror}") from error
    if is_used:
        raise InputError(f"{str(folder)!r} exists and is not an empty folder: choose another path")


def check_layers(model: TransformerBridge, drop: Any) -> set[int]:
    """Return the layers to drop as a set, checked against the model.

    Raises:
        InputError: `drop` is no list of integers, is empty, or names all layers, a layer twice, or
            a layer that the model lacks.
    """
    n_layers, name = model.cfg.n_layers, prepared(model).name
    try:
        layers = [index(layer) for layer in drop]
    except TypeError:
        raise InputError(f"drop={drop!r} is no list of layers: write it as [21, 22]") from None
    out_of_range = next((layer for layer in layers if not 0 <= layer < n_layers), None)
    if out_of_range is not None:
        raise InputError(
            f"drop={layers}: {name} has layers 0 to {n_layers - 1}, not {out_of_range}"
        )
    if not layers or len(set(layers)) < len(layers):
        raise InputError(f"drop={layers}: name each layer once, and at least one")
    if len(layers) == n_layers:
        raise InputError(f"drop={layers} leaves none of the {n_layers} layers of {name}")
    return set(layers)


def check_exportable(model: TransformerBridge) -> Any:
    """Return the underlying transformers model, checked for export.

    Raises:
        InputError: the model has no weights, is not from transformers, is quantized, or is spread
            over several devices.
    """
    check_weights(model)
    original, name = model.original_model, prepared(model).name
    if not isinstance(original, PreTrainedModel):
        raise InputError(
            f"model {name!r} ({type(original).__name__}) has no Hugging Face form: only models of "
            f"transformers can be exported"
        )
    if getattr(original.config, "quantization_config", None):
        raise InputError(f"model {name!r} is quantized: load it in float32 or bfloat16 to export")
    if is_spread(model):
        raise InputError(
            f"model {name!r} lies on several devices or on disk: load it with device='cpu' to "
            f"export"
        )
    return original


def _build_smaller(model: TransformerBridge, original: Any, kept_layers: Sequence[int]) -> Any:
    """Return a transformers model of the kept layers, which shares the tensors of the larger one.

    Raises:
        InputError: the smaller model cannot be built, its blocks would differ from those of the
            larger one, or one of its tensors is missing in `model`.
    """
    what = f"model {prepared(model).name!r} ({model.cfg.architecture})"
    places = [block.name for block in model.blocks]
    stack = places[0].rpartition(".")[0]
    try:
        smaller_config = _smaller_config(original.config, kept_layers, len(places))
        # Models on the meta device take no memory.
        with torch.device("meta"):
            smaller, rebuilt = (
                AutoModelForCausalLM.from_config(
                    config, dtype=model.cfg.dtype, attn_implementation="eager"
                )
                for config in (smaller_config, copy.deepcopy(original.config))
            )
        blocks, original_blocks = smaller.get_submodule(stack), rebuilt.get_submodule(stack)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, ImportError) as error:
        line = str(error).split("\n")[0] or type(error).__name__
        raise InputError(f"{what} cannot be made with {len(kept_layers)} layers: {line}") from error
    changed = [
        layer
        for place, layer in enumerate(kept_layers)
        if place >= len(blocks) or not _are_built_alike(blocks[place], original_blocks[layer])
    ]
    if len(blocks) != len(kept_layers) or changed:
        raise InputError(
            f"{what} cannot be exported without these layers: how its blocks are built depends on "
            f"their number (L{changed[0] if changed else kept_layers[-1]} would change)"
        )
    missing = lend_tensors(
        smaller,
        named_tensors(model),
        partial(_name_in_source, stack=stack, kept_layers=kept_layers),
    )
    if missing is not None:
        raise InputError(f"{what} cannot be exported: TransformerLens keeps no {missing} of it")
    smaller.tie_weights()
    return smaller.eval()


def _smaller_config(config: Any, kept_layers: Sequence[int], n_layers: int) -> Any:
    """Return a copy of the configuration that has only the kept layers.

    Lists with an entry per layer keep the entries of these layers; lists of layer numbers keep
    these layers, renumbered.
    """
    values = copy.deepcopy(config).to_dict()
    for name, value in values.items():
        if name in _LISTS_OF_LAYERS and isinstance(value, list):
            values[name] = [kept_layers.index(layer) for layer in value if layer in kept_layers]
        elif (
            isinstance(value, list)
            and len(value) == n_layers
            and "token" not in name  # a list of end tokens may be that long too
            and name != "architectures"
        ):
            values[name] = [value[layer] for layer in kept_layers]
    values[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(kept_layers)
    return type(config)(**values)


def _are_built_alike(first: nn.Module, second: nn.Module) -> bool:
    """Return whether two blocks have equal modules, settings and shapes, except layer numbers."""
    modules = [dict(block.named_modules()) for block in (first, second)]
    return modules[0].keys() == modules[1].keys() and all(
        _describe_module(module) == _describe_module(modules[1][name])
        for name, module in modules[0].items()
    )


def _describe_module(module: nn.Module) -> tuple[type, dict[str, Any], dict[str, torch.Size]]:
    values = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | tuple | None)
        and not name.startswith("_")
        and name not in _LAYER_NUMBER
    }
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return type(module), values, {name: tensor.shape for name, tensor in tensors}


def _name_in_source(name: str, stack: str, kept_layers: Sequence[int]) -> str:
    """Return the name that a tensor of the smaller model has in the larger one.

    Args:
        name: the tensor's name in the smaller model.
        stack: the name of the list of blocks, the same in both models.
        kept_layers: for each block of the smaller model, its layer in the larger one.
    """
    if not name.startswith(f"{stack}."):
        return name
    place, _, rest = name.removeprefix(f"{stack}.").partition(".")
    return f"{stack}.{kept_layers[int(place)]}.{rest}"


def _check_same_logits(model: TransformerBridge, smaller: Any, dropped: set[int]) -> None:
    """Check that the smaller model's logits are those of the larger one under `Skip`.

    Raises:
        InputError: the logits on a fixed sequence of tokens differ by more than `_TOLERANCE`.
    """
    n_tokens = min(_N_TOKENS, model.cfg.n_ctx)
    tokens = (torch.arange(n_tokens) * 37 + 11) % (model.cfg.d_vocab - 1)
    tokens = tokens[None].to(model.cfg.device)
    attention_mask = torch.ones_like(tokens)
    with applied(model, skip_layers(dropped), {}):
        skipped, _ = forward(model, tokens, attention_mask)
    with torch.inference_mode():
        logits = smaller(input_ids=tokens, attention_mask=attention_mask, use_cache=False).logits
    error = float((logits.float() - skipped.float()).abs().max() / skipped.float().std())
    if not error <= _TOLERANCE.get(model.cfg.dtype, 1e-3):
        raise InputError(
            f"model {prepared(model).name!r} ({model.cfg.architecture}) cannot be exported without "
            f"layers {', '.join(map(str, sorted(dropped)))}: the smaller model does not answer as "
            f"the model that skips them (logits differ by {error:.1e} standard deviations), so "
            f"its blocks depend on their number"
        )
