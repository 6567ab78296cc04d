"""Partial swaps: layers of one model in another, from a single one to all of them.

The ends (embedding, last norm, unembedding) are always the host's. So the base with layers of its
twin has the base's ends, and the twin with the *other* layers of the base is the same set of layers
with the twin's ends: no model has to be put together for that. The twin with all layers of the base
is the base but for the ends, exactly.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from sentences import format_interval
from setting import ask

import layerroles as lr

KINDS = ("single", "span", "fraction")


def make_swaps(host: Any, donor: Any, kinds: Sequence[str], parts: int) -> dict[str, lr.Condition]:
    """Return conditions that put layers of the donor into the host, by the layers' names.

    Args:
        host: the model whose layers are replaced.
        donor: a model of the same shape.
        kinds: some of `single` (each layer), `span` (`parts` contiguous spans that cover the depth)
            and `fraction` (the first, and the last, 1/parts to all of the layers).
        parts: the number of parts into which the depth is cut.

    Raises:
        InputError: a donor of another shape.
    """
    n, swap = host.cfg.n_layers, lr.Swap(donor)
    cuts = sorted({round(n * part / parts) for part in range(parts + 1)})
    chosen: dict[str, range] = {}
    if "single" in kinds:
        chosen |= {f"L{layer}": range(layer, layer + 1) for layer in range(n)}
    if "span" in kinds:
        chosen |= {f"L{start}:{stop}": range(start, stop) for start, stop in pairwise(cuts)}
    if "fraction" in kinds:
        chosen |= {f"first {cut}": range(cut) for cut in cuts[1:]}
        chosen |= {f"last {n - cut}": range(cut, n) for cut in cuts[1:-1]}
    found = {
        what: lr.Condition({lr.Site(layer): swap for layer in layers}, name=f"swap {what}")
        for what, layers in chosen.items()
    }
    for condition in found.values():
        condition.check(host)
    return found


def measure_swaps(
    host: Any, conditions: dict[str, lr.Condition], out: Path, **asked: Any
) -> list[dict]:
    """Ask the host under each condition; return a row for each, with the paired effect."""
    each = list({one.hash: one for one in conditions.values()}.values())
    result = ask(lr.Sweep(host, conditions=each, noise_floor=False, **asked), out)
    # A folder may know the same set of layers by the name that it had when it was first asked.
    names = {one["hash"]: one["name"] for one in result.manifest["conditions"]}
    table = result.effects().set_index("condition")
    rows = []
    for what, condition in conditions.items():
        own = table.loc[names[condition.hash]]
        row = {"layers": what, "n": own["n"], "host": own["intact"], "score": own["score"]}
        rows.append(row | {"effect": own["effect"], "low": own["ci_low"], "high": own["ci_high"]})
    return rows


def measure_both_ways(
    base: Any, twin: Any, name: str, out: Path, kinds: Sequence[str], parts: int, **asked: Any
) -> pd.DataFrame:
    """The twin's layers in the base, and back: a row for each set of layers and direction."""
    rows = []
    for way, host, donor in ((f"{name} into base", base, twin), (f"base into {name}", twin, base)):
        found = measure_swaps(
            host, make_swaps(host, donor, kinds, parts), out / way.replace(" ", "_"), **asked
        )
        rows += [{"swap": way, **row} for row in found]
    return pd.DataFrame(rows)


def list_largest_changes(table: pd.DataFrame) -> list[str]:
    """For each direction, the sets of layers of each kind that change the host most."""
    lines = []
    for way, own in table.groupby("swap", sort=False):
        parts = []
        for kind, rows in own.groupby(own["layers"].map(kind_of), sort=False):
            most = rows.loc[rows["effect"].abs().idxmax()]
            effect = format_interval(most["effect"], most["low"], most["high"])
            parts.append(f"{most['layers']} of {len(rows)} by {kind}, {effect}")
        lines.append(
            f"{way} (n = {own['n'].iloc[0]}), what changes the host's score of "
            f"{own['host'].iloc[0]:.2f} most: {'; '.join(parts)}; each the largest of several, and "
            f"so too large."
        )
    return lines


def kind_of(layers: str) -> str:
    """The kind of a set of layers, by its name."""
    single, span, fraction = KINDS
    return fraction if " " in layers else span if ":" in layers else single
