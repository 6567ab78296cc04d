"""The memory budget of a computation, and the sizes of rows and batches that fit into it.

A packed row holds the tokens of many requests, and is read in one pass or in pieces (see
`fused.prefix_packing` and `fused.prefill`). The module also measures free and peak memory,
recognizes errors that mean that memory ran out, and configures glibc's allocator.
"""

import ctypes
import math
import os
import platform
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from layerroles.errors import InputError

_UNITS = {"": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
# The default budget, as a share of the free memory.
FREE_MEMORY_SHARE = 0.5
# The bytes that are assumed to be free where the system does not say.
_ASSUMED_FREE = 2**32
# Shares of the budget: for a packed row with its recorded streams, for the keys and values of rows
# that are decoded together, and for logits.
_FOR_ROW, _FOR_ROWS, _FOR_LOGITS = 0.4, 0.4, 0.1
# The share, and the most bytes, that are reserved for what no plan counts: kernels that libraries
# compile, gaps between tensors.
_ASIDE, _MOST_ASIDE = 0.25, 128 * 2**20
_LONGEST_ROW = 8192
SHORTEST_PIECE = 256
MOST_LOGITS = 2**24
# Logits are held once as the unembedding returns them, and twice more if the model scales or caps
# them.
_COPIES_OF_LOGITS = 3
# glibc's M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD (malloc.h), set so that tensors get no separate
# memory mappings, and freed memory is not returned to the system.
_MALLOC_OPTIONS = ((-4, 0), (-1, 2**31 - 1), (-2, 2**26))

# Lower-case parts of the messages with which libraries report that memory ran out.
_NO_MEMORY = ("allocate memory", "out of memory", "alloc_failed", "bad_alloc")


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that determine memory and time.

    Attributes:
        n_layers, n_heads, d_head, d_model, d_mlp, d_vocab: dimensions of the model.
        n_weights: parameters of all blocks.
        n_active: number of matrix entries, over all blocks, that one token is multiplied with (in a
            mixture of experts, only a part of the weights).
        n_bytes: bytes of one number in the model's dtype.
        kv: bytes of one token's keys and values at each layer.
        inner: the most intermediate values that a block holds at once for one token.
        last_start: the last block at which a pass may start, since later blocks reuse its keys and
            values; None if a pass may start at any block.
    """

    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    d_mlp: int
    d_vocab: int
    n_weights: int
    n_active: int
    n_bytes: int
    kv: tuple[int, ...]
    inner: int
    last_start: int | None = None


@dataclass(frozen=True)
class Budget:
    """Memory that a computation may use in addition to the model's weights: `total` bytes."""

    total: int

    @property
    def for_tensors(self) -> int:
        """Bytes for tensors: the budget without the part reserved for libraries."""
        return self.total - min(int(_ASIDE * self.total), _MOST_ASIDE)

    def halve(self, times: int) -> "Budget":
        """Return the budget divided by `2 ** times`."""
        return Budget(self.total >> times)

    def row_tokens(self, shape: Shape, *, keys: bool) -> int:
        """Return the most tokens that a packed row may have.

        The streams of all layers are counted as recorded, so that packing does not depend on which
        conditions are left to run.

        Args:
            shape: the model's sizes.
            keys: whether the intact model's keys and values of the row are stored too.
        """
        token_bytes = _token_bytes(shape, keys=keys)
        return max(64, min(_LONGEST_ROW, int(_FOR_ROW * self.for_tensors) // token_bytes))

    def piece_tokens(self, shape: Shape, n: int, kept: int = 0) -> int:
        """Return the most tokens of a packed row that may be read at a time.

        The streams of all layers are counted as recorded, so that the result does not depend on
        which conditions are left to run.

        Args:
            shape: the model's sizes.
            n: number of tokens of the row.
            kept: bytes of the row's keys and values that are stored in addition.
        """
        most, inner = int(_FOR_ROW * self.for_tensors), shape.n_bytes * shape.inner
        streams = n * shape.n_bytes * (shape.n_layers + 1) * shape.d_model
        if streams + kept + n * inner <= most:
            return n
        between = bytes_between_pieces(shape, n)
        piece = min(n, max(SHORTEST_PIECE, (most - streams - kept - between) // inner))
        # What is kept between pieces may take more than reading in pieces saves.
        return piece if between + piece * inner < n * inner else n

    def limit_to_useful(self, shape: Shape, row_bytes: int) -> "Budget":
        """Return the budget, limited to the size above which more memory makes no difference.

        With that size, packed rows may have their maximum length, and the keys and values of rows
        that are decoded together may take `row_bytes`.
        """
        token_bytes = _token_bytes(shape, keys=True)
        for_tensors = math.ceil(max(_LONGEST_ROW * token_bytes / _FOR_ROW, row_bytes / _FOR_ROWS))
        aside = min(int(_ASIDE / (1 - _ASIDE) * for_tensors), _MOST_ASIDE)
        return Budget(min(self.total, for_tensors + aside))

    @property
    def for_rows(self) -> int:
        """Bytes for the keys and values of rows that are decoded together."""
        return int(_FOR_ROWS * self.for_tensors)

    def max_logit_rows(self, shape: Shape) -> int:
        """Return the most tokens whose logits may be held at once."""
        logit_bytes = _COPIES_OF_LOGITS * shape.n_bytes
        most = min(MOST_LOGITS, int(_FOR_LOGITS * self.for_tensors) // logit_bytes)
        return max(1, most // shape.d_vocab)

    def logit_bytes(self, shape: Shape) -> int:
        """Return the bytes that the logits of `max_logit_rows(shape)` tokens take."""
        return self.max_logit_rows(shape) * shape.d_vocab * _COPIES_OF_LOGITS * shape.n_bytes


def bytes_between_pieces(shape: Shape, n: int) -> int:
    """Return the bytes of tensors that are stored while a row of `n` tokens is read in pieces.

    These are the row's keys and values, and the stream that leaves the last block.
    """
    return n * (sum(shape.kv) + 2 * shape.n_bytes * shape.d_model)


def _token_bytes(shape: Shape, *, keys: bool) -> int:
    streams = shape.n_bytes * ((shape.n_layers + 1) * shape.d_model + shape.inner)
    return streams + (sum(shape.kv) if keys else 0)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on a CPU or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in message for words in _NO_MEMORY)


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory in bytes: on a CUDA GPU, else of this process; 0 if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 2**10


def keep_pages() -> None:
    """Configure glibc's allocator to keep freed memory for later tensors of this process.

    By default, glibc returns large blocks to the operating system as soon as they are freed, and
    the system has to zero pages for the next ones. That takes up to a quarter of a sweep's time.
    Does nothing without glibc, or if the environment has settings for the allocator.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    if (libc := _glibc()) is not None:
        for option, value in _MALLOC_OPTIONS:
            libc.mallopt(option, value)


def trim_heap() -> None:
    """Return free heap pages to the operating system (`malloc_trim`)."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def empty_cache(device: torch.device) -> None:
    """Release the unused GPU memory that torch caches; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def memory_budget(memory: str | int | None, device: torch.device) -> Budget:
    """Return a memory budget; half of the device's free memory if `memory` is None.

    `memory` is a number of bytes, or a text such as `"8GB"`.

    Raises:
        InputError: not a size, or less than 1 MB.
    """
    return Budget(
        int(FREE_MEMORY_SHARE * _free_bytes(device)) if memory is None else parse_memory(memory)
    )


def parse_memory(memory: str | int) -> int:
    """Return a size in bytes, given as a number or as a text such as `"8GB"`.

    Raises:
        InputError: not a size, or less than 1 MB.
    """
    size = memory
    if isinstance(size, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", size.strip(), re.IGNORECASE)
        if match is None:
            raise InputError(f"memory={memory!r} is not a size: write 8GB, 500MB or bytes")
        unit = match[2].upper()
        size = int(float(match[1]) * _UNITS[f"{unit}B" if unit else ""])
    if isinstance(size, bool) or not isinstance(size, int):
        raise InputError(f"memory={memory!r} is not a size: write 8GB, 500MB or whole bytes")
    if size < 2**20:
        raise InputError(f"memory={memory!r} is too little: use 1 MB or more")
    return size


def _free_bytes(device: torch.device) -> int:
    empty_cache(device)  # memory that an earlier engine left in torch's cache is free as well
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    trim_heap()  # memory that an earlier sweep left in the allocator is free as well
    sizes = []
    with suppress(OSError, ValueError, KeyError):  # no such control group, or no limit
        sizes.append(_free_in_group(Path("/sys/fs/cgroup")))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        sizes.append(int(values["MemAvailable"].split()[0]) * 2**10)
    except (OSError, KeyError, ValueError):  # not Linux
        if hasattr(os, "sysconf"):
            sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
        else:  # Windows
            sizes.append(_ASSUMED_FREE)
    return max(2**20, min(sizes))


def _free_in_group(group: Path) -> int:
    """Return the bytes that a Linux control group may still allocate; page cache counts as free."""
    limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    lines = (group / "memory.stat").read_text().splitlines()
    sizes = {name: int(size) for name, size in map(str.split, lines)}
    return limit - used + sizes["inactive_file"] + sizes["active_file"]
