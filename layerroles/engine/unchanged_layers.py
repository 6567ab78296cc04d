"""Find the layers that compute the same under a condition as in the intact model.

They need not run again: a pass under the condition starts after them, from the residual stream that
was recorded in the intact model's pass.
"""

from layerroles.ablations import Condition
from layerroles.sites import Site


def edited_block(condition: Condition, last_start: int | None = None) -> Site | None:
    """Return the site whose block need not be run, since its recorded output can be edited.

    It is the condition's first site, if its part is `"block"` or `"stream"` and the condition has
    no other site in this layer. The block's input and unedited output are then those of the intact
    model. Returns None if there is no such site, if the block's weights are replaced, or if a pass
    cannot start at the next block.

    Args:
        condition: the condition.
        last_start: the last block at which a pass may start, since later blocks reuse its keys and
            values; None if a pass may start at any block.
    """
    if last_start is not None and (condition.first_layer or 0) >= last_start:
        return None
    sites = [site for site in condition if site.layer == condition.first_layer]
    if len(sites) != 1 or _has_other_weights(condition):
        return None
    return sites[0] if sites[0].part in ("block", "stream") else None


def first_recomputed(condition: Condition, n_layers: int, last_start: int | None = None) -> int:
    """Return the first block that has to run under a condition; `n_layers` if none has to.

    `last_start` is as in `edited_block`.
    """
    if condition.first_layer is None:
        return n_layers
    return recorded_layers(condition, last_start)[-1]


def first_changed_cache(condition: Condition, n_layers: int) -> int:
    """Return the first layer at which a condition changes the keys and values of contexts.

    An edit of a write does not change the keys and values of its own layer, since these are
    computed from the block's input; replaced weights do. Returns `n_layers` if none change.
    """
    if condition.first_layer is None or not condition.acts_in_prompt:
        return n_layers
    return condition.first_layer + (not _has_other_weights(condition))


def recorded_layers(condition: Condition, last_start: int | None = None) -> tuple[int, ...]:
    """Return the layers whose incoming streams must be recorded to start a condition's pass there.

    Empty for the intact condition. An entry equal to the model's number of layers stands for the
    output of the last block. `last_start` is as in `edited_block`.
    """
    first = condition.first_layer
    if first is None:
        return ()
    if last_start is not None:
        first = min(first, last_start)
    return (first, first + 1) if edited_block(condition, last_start) is not None else (first,)


def _has_other_weights(condition: Condition) -> bool:
    """Return whether the condition replaces weights of the first layer that it ablates.

    Ablations that do so, such as `Swap`, have `in_place = True`; all others edit writes.
    """
    edits = condition.edits.items()
    return any(edit.in_place for site, edit in edits if site.layer == condition.first_layer)
