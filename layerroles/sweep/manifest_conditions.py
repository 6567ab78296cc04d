"""The conditions of a sweep: without repetitions, and as entries of its manifest."""

import logging
from collections.abc import Sequence
from typing import Any

from layerroles.ablations import Condition
from layerroles.errors import InputError

log = logging.getLogger(__name__)


def distinct_conditions(conditions: Sequence[Condition]) -> list[Condition]:
    """Return the conditions without repetitions, in the order given.

    Logs a warning if a condition is given under two names, of which the first is kept.

    Raises:
        InputError: two different conditions have the same name.
    """
    by_name: dict[str, Condition] = {}
    for condition in conditions:
        other = by_name.setdefault(condition.name, condition)
        if other != condition:
            raise InputError(
                f"two different conditions are called {condition.name!r}: give them names"
            )
    kept: dict[Condition, str] = {}
    for name, condition in by_name.items():
        first_name = kept.setdefault(condition, name)
        if first_name != name:
            log.warning(
                "conditions %r and %r are the same; only %r is asked", first_name, name, first_name
            )
    return list(kept)


def describe_condition(condition: Condition) -> dict[str, Any]:
    """Return the manifest entry of a condition: name, ablation, hash, sites and parameters."""
    return {
        "name": condition.name,
        "hash": condition.hash,
        "ablation": condition.ablation,
        "mechanism": condition.mechanism,
        "at": condition.at_name,
        "sites": [str(site) for site in condition],
        "layers": sorted({site.layer for site in condition}),
        "parts": sorted({site.part for site in condition}),
        "heads": sorted({site.head for site in condition if site.head is not None}),
        "parameters": {str(site): edit.parameters() for site, edit in condition.edits.items()},
    }
