"""Which layers of the intact model a condition shares: what need not be computed again."""

from layerroles.ablations import Condition
from layerroles.sites import Site


def edited_block(condition: Condition) -> Site | None:
    """Return the block whose recorded output is edited instead of running it again.

    A condition's first site, if it is a whole block and the only site of its layer: what enters
    the block, and so what leaves it before the edit, is the intact model's. (Not so if the block
    has other weights.)
    """
    sites = [site for site in condition if site.layer == condition.first_layer]
    if len(sites) != 1 or _has_other_weights(condition):
        return None
    return sites[0] if sites[0].part in ("block", "stream") else None


def first_recomputed(condition: Condition, n_layers: int) -> int:
    """Return the first block that is recomputed under a condition; `n_layers` if none is."""
    if condition.first_layer is None:
        return n_layers
    return condition.first_layer + (edited_block(condition) is not None)


def first_changed_cache(condition: Condition, n_layers: int) -> int:
    """Return the first layer at which a context's keys and values differ; `n_layers` if none.

    An edit leaves those of its own layer alone, which are made of what enters the block, unless the
    layer has other weights.
    """
    if condition.first_layer is None or not condition.acts_in_prompt:
        return n_layers
    return condition.first_layer + (not _has_other_weights(condition))


def recorded_layers(condition: Condition) -> tuple[int, ...]:
    """Return the blocks whose entering streams are kept of the intact model."""
    first = condition.first_layer
    if first is None:
        return ()
    return (first, first + 1) if edited_block(condition) is not None else (first,)


def _has_other_weights(condition: Condition) -> bool:
    """Whether the first ablated layer has other weights while the condition lasts."""
    edits = condition.edits.items()
    return any(edit.in_place for site, edit in edits if site.layer == condition.first_layer)
