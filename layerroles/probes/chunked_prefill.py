"""Read long prompts in pieces, so that a probe holds the values of only one piece at a time.

The attention patterns of a whole prompt take layers x heads x length^2 numbers, and even those of
one layer take heads x length^2. Here a prompt is read in pieces, with a cache of keys and values. A
probe reduces the values of each piece and drops them, so memory grows only linearly with the
length. Pieces are so short that the patterns of one layer stay below a fixed size, but have at
least `_SHORTEST` positions. If the model keeps no cache, or some layers are not attention, the
whole prompt is one piece.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models import forward, prepared
from layerroles.sites import PATTERN

# Called with the value at a hook point, and the column (position in the padded batch) at which the
# piece begins; cached columns are counted too.
NoteValue = Callable[[Tensor, int], None]
# Called with a layer, its attention weights `[row head query key]` from the columns of a piece to
# all columns up to the piece's end, and the column at which the piece begins.
NotePattern = Callable[[int, Tensor, int], None]

# A piece has at most `LONGEST` positions, fewer if one layer's patterns would otherwise have more
# than `MOST_WEIGHTS` numbers (128 MB in float32), but at least `_SHORTEST`.
LONGEST, MOST_WEIGHTS, _SHORTEST = 256, 2**25, 16


def read_in_pieces(
    model: TransformerBridge,
    tokens: Int[Tensor, "row pos"],
    attended: Int[Tensor, "row all_pos"],
    hooks: Mapping[str, NoteValue],
    *,
    cache: Any = None,
    keep_cache: bool = False,
) -> tuple[Float[Tensor, "row d_vocab"], Any]:
    """Read a batch in pieces, from left to right; return the last column's logits and the cache.

    The batch is one piece if the model keeps no cache, or if some layers are not attention: these
    can continue from a cache by one token at a time only.

    Args:
        model: from `load` or `prepare`.
        tokens: the new tokens, padded on the left.
        attended: 1 at real tokens, 0 at pads, over the cached and the new columns.
        hooks: functions `(value, start)` by hook point, called for each piece with the value there
            and the column at which the piece begins.
        cache: keys and values of the columns before `tokens`; None if there are none.
        keep_cache: whether to return the keys and values even if one piece is enough.

    Raises:
        InputError: a hook point did not fire, so its values are missing.
    """
    n_rows, n_columns = attended.shape
    n_cached = n_columns - tokens.shape[1]
    if len(pattern_layers(model)) < model.cfg.n_layers or not prepared(model).checks.caches:
        length = n_columns
    else:
        most = MOST_WEIGHTS // (n_rows * model.cfg.n_heads * n_columns)
        length = min(LONGEST, max(_SHORTEST, most))
    n_calls = dict.fromkeys(hooks, 0)
    for start in range(n_cached, n_columns, length):
        stop = min(start + length, n_columns)
        with model.hooks(fwd_hooks=_bind_hooks(hooks, start, n_calls)):
            logits, cache = forward(
                model,
                tokens[:, start - n_cached : stop - n_cached],
                attended[:, :stop],
                cache=cache,
                use_cache=keep_cache or stop < n_columns,
                keep=1,
            )
    not_run = [name for name, count in n_calls.items() if not count]
    if not_run:
        raise InputError(
            f"model {prepared(model).name!r} ({model.cfg.architecture}) does not run through "
            f"{not_run[0]}: this probe cannot read it"
        )
    return logits[:, -1], cache


def read_patterns(
    model: TransformerBridge,
    tokens: Int[Tensor, "row pos"],
    attended: Int[Tensor, "row all_pos"],
    note: NotePattern,
    *,
    cache: Any = None,
    keep_cache: bool = False,
) -> tuple[Float[Tensor, "row d_vocab"], Any]:
    """Read a batch by `read_in_pieces` and call `note` with each layer's patterns, piece by piece.

    `note(layer, pattern, start)` gets the attention weights `[row head query key]` from the piece
    that begins at column `start` to all columns up to the piece's end. The other arguments, the
    returned values and further errors are those of `read_in_pieces`.

    Raises:
        InputError: no layer of the model has a hook point with its attention pattern.
    """
    layers = pattern_layers(model)
    if not layers:
        raise InputError(
            f"model {prepared(model).name!r} ({model.cfg.architecture}) shows no attention patterns"
        )

    def whole(pattern: Tensor, start: int, *, layer: int) -> None:
        # The cache of a sliding window drops keys that lie before the windows of all queries.
        missing = start + pattern.shape[2] - pattern.shape[3]
        note(layer, torch.nn.functional.pad(pattern, (missing, 0)), start)

    hooks = {PATTERN.format(layer=layer): partial(whole, layer=layer) for layer in layers}
    return read_in_pieces(model, tokens, attended, hooks, cache=cache, keep_cache=keep_cache)


def pattern_layers(model: TransformerBridge) -> list[int]:
    """Return the layers that have a hook point with their attention pattern."""
    layers = range(model.cfg.n_layers)
    return [n for n in layers if model.get_hook_point(PATTERN.format(layer=n)) is not None]


def _bind_hooks(
    hooks: Mapping[str, NoteValue], start: int, n_calls: dict[str, int]
) -> list[tuple[str, Callable[..., None]]]:
    def call(value: Tensor, *, hook: object, name: str) -> None:
        n_calls[name] += 1
        hooks[name](value, start)

    return [(name, partial(call, name=name)) for name in hooks]
