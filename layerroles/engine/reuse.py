"""From which layer on a condition shares nothing with the intact model."""

from layerroles.ablations import Condition
from layerroles.sites import Site


def edited_block(condition: Condition) -> Site | None:
    """The block whose recorded output is edited instead of running it again.

    A condition's first site, if it is a whole block and the only site of its layer: what enters
    the block, and so what leaves it before the edit, is the intact model's. (Not so where the
    block itself is another.)
    """
    first = [site for site in condition if site.layer == condition.first_layer]
    if len(first) != 1 or _is_other(condition):
        return None
    return first[0] if first[0].part in ("block", "stream") else None


def first_run(condition: Condition, n_layers: int) -> int:
    """The first block that is recomputed under a condition; `n_layers` if none is."""
    if condition.first_layer is None:
        return n_layers
    return condition.first_layer + (edited_block(condition) is not None)


def first_own(condition: Condition, n_layers: int) -> int:
    """The first layer whose keys and values are not the intact model's; `n_layers` if none.

    Those of a context, that is. An edit leaves its own layer's alone: they are made of what enters
    the block, unless by other weights.
    """
    if condition.first_layer is None or not condition.acts_in_prompt:
        return n_layers
    return condition.first_layer + (not _is_other(condition))


def recorded_at(condition: Condition) -> tuple[int, ...]:
    """The streams that are kept of the intact model: those that enter these blocks."""
    first = condition.first_layer
    if first is None:
        return ()
    return (first, first + 1) if edited_block(condition) is not None else (first,)


def _is_other(condition: Condition) -> bool:
    """Whether the first ablated layer has other weights while the condition lasts."""
    edits = condition.edits.items()
    return any(edit.in_place for site, edit in edits if site.layer == condition.first_layer)
