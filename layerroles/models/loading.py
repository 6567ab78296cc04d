"""Load a model, and check that its hooks and cache are correct.

Every model is a TransformerLens `TransformerBridge` (a wrapper of a transformers model) with raw
weights (not folded or centered), in eval mode. Before it is returned, four things are checked on a
short prompt (see `checks`): that its parts add up to its blocks, that the model uses what hooks
return, that decoding with and without a KV cache gives the same logits, and that pads are not read.

Example:
    model = load("smollm2-135m")               # the built-in, no hub needed
    model = load("Qwen/Qwen3-8B", dtype="bfloat16", device="cuda")
    model = prepare(bridge)                    # a bridge of one's own
"""

import logging
import traceback
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models import gguf
from layerroles.models.block_parts import name_hooks
from layerroles.models.bridge_loading import (
    boot,
    expand_home,
    has_no_weights,
    keep_few_kernels,
    read_out_in_one_piece,
    resolve_device,
    resolve_dtype,
    resolve_source,
)
from layerroles.models.checks import (
    Checks,
    assume_checks,
    check_model,
    check_pads,
    find_massive_writes,
    library_versions,
)
from layerroles.models.user_hooks import hook_ids
from layerroles.private_apis import rename_cache_arguments
from layerroles.sites import Site, size_of

log = logging.getLogger(__name__)
# A text with delimiters, at which some models write massive activations.
_DELIMITED = (
    "The old house stands by the river. It has two floors, a garden and a red door.\n"
    "In spring, the water rises; in autumn, it falls.\n\nNobody knows who built it."
)


@dataclass(frozen=True)
class Origin:
    """Arguments of `load` with which another process loads the same model."""

    name: str
    dtype: str
    revision: str | None


@dataclass(frozen=True)
class Prepared:
    """Metadata of a bridge that was loaded or prepared.

    Attributes:
        name: the model's name.
        revision: branch, tag or commit on the hub; None if none was asked for.
        tokenizer: the tokenizer with its original settings.
        checks: outcome of the checks, assumed for a model without weights.
        has_weights: false for a model on the meta device, which cannot be run.
        origin: arguments of `load` that load the model again; None if `load` did not load it.
        initial_hooks: ids of the hooks that the bridge had when it was prepared (see `hook_ids`).
    """

    name: str
    revision: str | None
    tokenizer: Any
    checks: Checks
    has_weights: bool = True
    origin: Origin | None = None
    initial_hooks: frozenset[int] = frozenset()


_PREPARED: "weakref.WeakKeyDictionary[TransformerBridge, Prepared]" = weakref.WeakKeyDictionary()


def load(
    name: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    revision: str | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> TransformerBridge:
    """Load a decoder-only language model as a checked `TransformerBridge`.

    Args:
        name: a Hugging Face name, a local folder, a `.gguf` file, or `"smollm2-135m"`.
        dtype: `"float32"`, `"bfloat16"`, `"float16"`, a torch dtype, or `"auto"`: bfloat16 where
            the device multiplies it in hardware, else float32.
        device: by default CUDA if it is available, else the CPU. On `"meta"` no weights are read:
            the model's cost can be estimated, but it cannot be run.
        revision: a branch, tag or commit of the hub.
        device_map: spread the model over GPUs, or over the CPU and the disk, in place of `device`;
            as in transformers: `"auto"`, or a map from module names.

    Raises:
        InputError: an invalid argument; no such model, or the hub cannot be reached; not
            decoder-only; a folder without a config; a damaged file; out of memory; a check fails.

    Example:
        model = lr.load("smollm2-135m")  # the built-in model, no hub needed
        model.cfg.n_layers, model.cfg.n_heads
    """
    if device is not None and device_map is not None:
        raise InputError(f"device={device!r} and device_map are both given: use one of them")
    on_device = resolve_device(device)
    as_dtype = resolve_dtype(dtype, on_device)
    source = resolve_source(str(name))
    try:
        bridge, tokenizer = boot(str(name), source, as_dtype, on_device, revision, device_map)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InputError(
            f"model {str(name)!r} does not fit into the memory of {on_device} as {as_dtype}: "
            f"use a smaller dtype or another device"
        ) from error
    local_name = gguf.BUILT_IN if str(name) == gguf.BUILT_IN else Path(str(name)).name
    is_on_hub = source == str(name) and not Path(source).exists()
    shown = str(name) if is_on_hub else local_name
    # A model without weights keeps dtype="auto", to be resolved where the weights are loaded.
    origin = _make_origin(str(name), dtype if has_no_weights(on_device) else as_dtype, revision)
    if has_no_weights(on_device):
        bridge.eval()
        _name_hooks(bridge, shown)
        _PREPARED[bridge] = Prepared(
            shown,
            revision,
            tokenizer,
            assume_checks(bridge),
            has_weights=False,
            origin=origin,
            initial_hooks=hook_ids(bridge),
        )
        return bridge
    return _check_and_register(bridge, shown, revision, tokenizer, origin)


def prepare(bridge: TransformerBridge, *, name: str | None = None) -> TransformerBridge:
    """Check a bridge that `load` did not make, and set it up for this package; return the bridge.

    Args:
        bridge: from `TransformerBridge.boot_transformers` or `boot_native`, with raw weights. It is
            put into eval mode, and its weights get no gradients.
        name: the model's name in results; by default the bridge's own name.

    Raises:
        InputError: not a bridge, one in compatibility mode (which has changed its weights for
            good), one without a tokenizer, or a check fails.

    Example:
        from transformer_lens.model_bridge import TransformerBridge

        folder = str(lr.model_folder("smollm2-135m"))
        bridge = lr.prepare(TransformerBridge.boot_transformers(folder), name="mine")
    """
    if not isinstance(bridge, TransformerBridge):
        raise InputError(f"{type(bridge).__name__} is not a TransformerBridge: use load(name)")
    if getattr(bridge, "compatibility_mode", False):
        raise InputError(
            "the bridge is in compatibility mode, which has changed its weights for good: "
            "boot it again and leave the weights raw"
        )
    if bridge.tokenizer is None:
        raise InputError("the bridge has no tokenizer: set bridge.tokenizer first")
    shown = name or Path(bridge.cfg.model_name).name
    return _check_and_register(bridge, shown, None, _reload_tokenizer(bridge.tokenizer))


def prepared(model: TransformerBridge) -> Prepared:
    """Return the metadata of a model; calls `prepare` first if that was not done."""
    if model not in _PREPARED:
        prepare(model)
    return _PREPARED[model]


def check_weights(model: TransformerBridge) -> None:
    """Check that the model has weights, so that it can be run.

    Raises:
        InputError: the model was loaded without weights.
    """
    known = prepared(model)
    if not known.has_weights:
        raise InputError(
            f"model {known.name!r} has no weights (device='meta'): it can be estimated, not run; "
            f"load it on cpu or cuda"
        )


def origin(model: TransformerBridge) -> Origin:
    """Return the arguments with which another process loads the same model.

    Raises:
        InputError: the model did not come from `load`.
    """
    known = prepared(model)
    if known.origin is None:
        raise InputError(
            f"model {known.name!r} was not loaded by name, and no other process can load it: save "
            f"it as a Hugging Face folder, and use load(folder)"
        )
    return known.origin


def model_folder(name: str) -> Path:
    """Return the Hugging Face folder of the built-in model or of a `.gguf` file, made if needed.

    A local folder is returned as it is.

    Raises:
        InputError: `name` is none of these.

    Example:
        folder = lr.model_folder("smollm2-135m")  # transformers' from_pretrained takes it
    """
    folder = Path(resolve_source(name))
    if not folder.is_dir():
        raise InputError(
            f"model {name!r} has no local folder: known are {gguf.BUILT_IN!r}, "
            f"a .gguf file and a local folder"
        )
    return folder


def encode(model: TransformerBridge, text: str) -> list[int]:
    """Return a text's token ids, with the tokenizer's default special tokens, as in lm-eval.

    A bridge's `to_tokens` prepends a BOS token, which the tokenizers of many models do not. A text
    that begins with the BOS token, as chat templates write it, gets no special tokens.
    """
    ids: list[int] = tokenize(model, text)["input_ids"]
    return ids


def tokenize(model: TransformerBridge, text: str, *, offsets: bool = False) -> Any:
    """Return the tokenizer's output for a text, with special tokens as in `encode`.

    With `offsets`, it includes `offset_mapping`: the character span of each token.
    """
    tokenizer = prepared(model).tokenizer
    options: dict[str, Any] = {"return_offsets_mapping": True} if offsets else {}
    if tokenizer.bos_token and text.startswith(tokenizer.bos_token):
        options["add_special_tokens"] = False
    return tokenizer(text, **options)


def check_sites(model: TransformerBridge, sites: "list[Site] | tuple[Site, ...]") -> None:
    """Check that the model has these sites and that their hooks can be used.

    Raises:
        InputError: a site is out of range, or its hook is missing or failed the checks.
    """
    known = prepared(model)
    for site in sites:
        site.check(size_of(model.cfg))
        if site.part == "kv_group" and not _groups_alike(model):
            raise InputError(
                f"site {site} of {known.name}: its layers differ in key/value heads, use heads"
            )
        reason = known.checks.refusal(site)
        if reason:
            raise InputError(f"site {site} of {known.name}: {reason}")


def _groups_alike(model: TransformerBridge) -> bool:
    """Return whether all layers group query heads by key/value head in the same way.

    They do if all have the same number of key/value heads and it divides `n_heads`.
    """
    each = getattr(model.cfg, "per_layer_num_key_value_heads", None) or []
    size = size_of(model.cfg)
    return len(set(each)) < 2 and size.n_heads % size.n_kv_heads == 0


def _make_origin(name: str, dtype: str | torch.dtype, revision: str | None) -> Origin:
    path = expand_home(name)
    local = path.exists() and name != gguf.BUILT_IN
    where = str(path.resolve()) if local else name
    return Origin(where, str(dtype).removeprefix("torch."), revision)


def _check_and_register(
    bridge: TransformerBridge,
    name: str,
    revision: str | None,
    tokenizer: Any,
    origin: Origin | None = None,
) -> TransformerBridge:
    bridge.eval()
    bridge.requires_grad_(False)
    keep_few_kernels()
    read_out_in_one_piece(bridge)
    rename_cache_arguments(bridge)
    _name_hooks(bridge, name)
    try:
        checks = check_model(bridge, name)
        check_pads(bridge, name)
    except (RuntimeError, AttributeError, TypeError) as error:
        if not isinstance(error, RuntimeError) and _is_ours(error):
            raise
        # Some architectures cannot be run in some dtypes, or with some versions of the libraries.
        line = str(error).strip().split("\n")[0]
        is_half = bridge.cfg.dtype != torch.float32 and isinstance(error, RuntimeError)
        raise InputError(
            f"model {name!r} ({bridge.cfg.architecture}) does not run as {bridge.cfg.dtype} with "
            f"{library_versions()}: {line}" + ("; use dtype='float32'" if is_half else "")
        ) from error
    _warn_of_massive_writes(bridge, name, tokenizer)
    hooks = hook_ids(bridge)
    _PREPARED[bridge] = Prepared(
        name, revision, tokenizer, checks, origin=origin, initial_hooks=hooks
    )
    return bridge


def _is_ours(error: Exception) -> bool:
    """Return whether this package raised the error, rather than a library that it calls."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(__name__.partition(".")[0])


def _name_hooks(bridge: TransformerBridge, name: str) -> None:
    """Add the hook aliases of `name_hooks` to a bridge.

    Raises:
        InputError: the model has no blocks.
    """
    if not hasattr(bridge, "blocks"):
        raise InputError(f"model {name!r} ({bridge.cfg.architecture}) is not a stack of blocks")
    name_hooks(bridge)


def _warn_of_massive_writes(bridge: TransformerBridge, name: str, tokenizer: Any) -> None:
    """Log a warning for each layer with massive writes at positions after the first."""
    if tokenizer is None:
        return
    ids = tokenizer(_DELIMITED, add_special_tokens=True)["input_ids"][: bridge.cfg.n_ctx]
    if len(ids) < 3 or max(ids) >= bridge.cfg.d_vocab:
        return
    for layer, positions in find_massive_writes(bridge, ids).items():
        where = ", ".join(f"{place} ({tokenizer.decode([ids[place]])!r})" for place in positions)
        log.warning(
            "model %r: layer %d writes massive activations at positions %s of a short text, not "
            "only at the first: at='after_first' does not spare them, and a harm that it leaves "
            "may be that of an attention sink",
            name,
            layer,
            where,
        )


def _reload_tokenizer(tokenizer: Any) -> Any:
    """Load a bridge's tokenizer again, with its original settings: the bridge's prepends BOS."""
    from transformers import AutoTokenizer

    if not tokenizer.name_or_path:  # made in memory: cannot be loaded again, and BOS was not set
        return tokenizer
    try:
        return AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    except (OSError, ValueError):
        log.warning(
            "the tokenizer %r cannot be loaded again: its BOS setting is the bridge's",
            tokenizer.name_or_path,
        )
        return tokenizer
