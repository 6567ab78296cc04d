"""Boot a bridge by its name: find its weights, and choose their dtype and device.

Only safetensors are loaded; a `.gguf` file is converted first. If a library cannot load a model,
its error is reported in one line.
"""

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models import gguf
from layerroles.models.checks import check_complete
from layerroles.private_apis import fake_tensors, multiplies_bfloat16
from layerroles.progress import hide_library_bars
from layerroles.registry import nearest_name

# What the libraries raise for a damaged or unknown model; huggingface-hub comes with transformers.
_UNLOADABLE = (
    *(OSError, ValueError, RuntimeError, KeyError, AttributeError),
    *(SafetensorError, StrictDataclassError),
)

# More than a decoding step needs under many conditions; a dropped kernel must be compiled again.
_MOST_KERNELS = 256

# First characters of paths; names on the hub are NAME or OWNER/NAME.
_PATHS = (".", "/", "~")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def keep_few_kernels() -> None:
    """Limit oneDNN's cache of compiled kernels; has to be called before the first matrix product.

    oneDNN compiles a kernel for each shape and keeps 1024 by default. If lengths vary, they take
    hundreds of MB, which the engine's memory budget does not count. A limit that the environment
    already sets is not changed.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_MOST_KERNELS))


def read_out_in_one_piece(bridge: TransformerBridge) -> None:
    """Register a hook that makes the unembedding's input contiguous, for speed.

    If the input is a slice of a tensor, torch computes a batched matrix product that copies the
    unembedding matrix for each row.
    """
    bridge.unembed.register_forward_pre_hook(_make_contiguous)


def _make_contiguous(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0].contiguous(), *args[1:])


def has_no_weights(device: torch.device) -> bool:
    """Return whether weights on this device have shapes but no values (the meta device)."""
    return device.type == "meta"


@hide_library_bars()
def boot(
    name: str,
    source: str,
    dtype: torch.dtype,
    device: torch.device,
    revision: str | None,
    device_map: str | dict[str, Any] | None,
) -> tuple[TransformerBridge, Any]:
    """Load a model; return its bridge, with raw (not folded) weights, and its tokenizer.

    Args:
        name: the model's name as the user gave it, for errors.
        source: a folder or a name on the hub (see `resolve_source`).
        dtype: dtype of the weights.
        device: device of the weights if `device_map` is None; for the meta device, no weights are
            read.
        revision: branch, tag or commit on the hub; None for the default branch.
        device_map: as in transformers' `from_pretrained`; None loads the model on `device`.

    Raises:
        InputError: not a decoder-only model, or the libraries cannot load it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        architecture = (config.architectures or ["unknown"])[0]
        if config.is_encoder_decoder or (
            architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        ):
            raise InputError(f"model {name!r} is {architecture}, not a decoder-only language model")
        tokenizer = _load_tokenizer(name, source, revision)
        if has_no_weights(device):
            return _boot_outline(source, config, tokenizer, dtype, revision), tokenizer
        # Loaded here and not by the bridge, which would also take pickled weights.
        model_and_info: Any = AutoModelForCausalLM.from_pretrained(
            source,
            output_loading_info=True,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="eager",
            device_map=device_map,
        )
        loaded, loading_info = model_and_info
        check_complete(name, loading_info)
        bridge = TransformerBridge.boot_transformers(
            source,
            # Spread weights stay where they are.
            hf_model=loaded if device_map else loaded.to(device),
            tokenizer=tokenizer,
            dtype=dtype,
            device=None if device_map else device,
            revision=revision,
        )
    except (torch.OutOfMemoryError, InputError):
        raise
    except _UNLOADABLE as error:
        raise InputError(_describe_failure(name, source, error)) from error
    return bridge, tokenizer


def _boot_outline(
    source: str, config: Any, tokenizer: Any, dtype: torch.dtype, revision: str | None
) -> TransformerBridge:
    """Return a bridge whose weights have shapes but no values.

    They are fake tensors, which report the CPU as their device: for some architectures a bridge
    splits weights, which fails with plain meta tensors.
    """
    from transformers import AutoModelForCausalLM

    # Some implementations of experts cannot run on tensors without values.
    experts = {"experts_implementation": "batched_mm"} if _n_experts(config) else {}
    with fake_tensors():
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="eager", **experts
        )
        return TransformerBridge.boot_transformers(
            source,
            hf_model=model,
            tokenizer=tokenizer,
            dtype=dtype,
            device="cpu",
            revision=revision,
        )


def _n_experts(config: Any) -> int:
    return getattr(config, "num_experts", 0) or getattr(config, "num_local_experts", 0) or 0


def _load_tokenizer(name: str, source: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        if not Path(source).exists():
            raise
        line = next(text.strip() for text in str(error).split("\n") if text.strip())
        raise InputError(
            f"model {name!r} has no tokenizer that can be loaded ({line}): put its tokenizer.json "
            f"and tokenizer_config.json beside its config.json"
        ) from error


def resolve_source(name: str) -> str:
    """Return the local folder of a model, or its name on the hub.

    The built-in model and `.gguf` files are converted to folders first, if that was not done.

    Raises:
        InputError: a folder without a config, a file that cannot be converted, or a path that does
            not exist or cannot be looked up.
    """
    if name == gguf.BUILT_IN:
        return str(gguf.built_in_folder())
    path = expand_home(name)
    try:
        path.exists()
    except OSError as error:  # a name that is too long, or a folder without access
        raise InputError(f"model {name!r} cannot be looked up: {error.strerror}") from error
    if path.suffix == ".gguf":
        return str(gguf.convert(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"model folder {name!r} has no config.json")
        return str(path)
    if name.startswith(_PATHS) or name.count("/") > 1 or "\\" in name:
        raise InputError(
            f"model {name!r}: there is no such folder or file; give a Hugging Face folder, a .gguf "
            f"file, or a name on the hub, such as OWNER/NAME"
        )
    return name


def expand_home(name: str) -> Path:
    """Return the path with `~` expanded; unchanged if there is no home folder."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user, or no home folder
        return Path(name)


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return a torch dtype; `"auto"` is bfloat16 if the device has hardware for it, else float32.

    Raises:
        InputError: unknown dtype.
    """
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype == "auto":
        is_cuda = device.type == "cuda"
        is_fast = torch.cuda.is_bf16_supported() if is_cuda else multiplies_bfloat16()
        return torch.bfloat16 if is_fast else torch.float32
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: known are auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return a torch device; by default CUDA if there is one, else the CPU.

    Raises:
        InputError: unknown device, or one that cannot be used on this machine.
    """
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise InputError(
            f"unknown device {device!r}: known are cpu, cuda, cuda:0, mps, meta"
        ) from None
    if device is None:
        return found
    try:
        torch.empty(0, device=found)
    # A torch build without this device raises an AssertionError or an ImportError.
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        line = str(error).split("\n")[0].rstrip(".")
        raise InputError(f"device {str(found)!r} cannot be used here: {line}") from None
    return found


def _describe_failure(name: str, source: str, error: Exception) -> str:
    line = next((text for text in str(error).split("\n") if text.strip()), type(error).__name__)
    line = line.partition(" Available architectures")[0]  # a list of hundreds
    if Path(source).exists():
        return f"model {name!r} cannot be loaded: {line}"
    hint = nearest_name(name, [gguf.BUILT_IN])
    did = f"did you mean {hint!r}? " if hint else ""
    return (
        f"model {name!r}: {did}there is no such folder or file, and the Hugging Face hub did not "
        f"give it ({line.strip().rstrip('.')}); offline, use {gguf.BUILT_IN!r}, a local folder or "
        f"a .gguf file"
    )
