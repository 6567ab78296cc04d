"""Do two protocols tell the same story of depth?

Over sites: Spearman's correlation between the effects that one protocol finds and those that the
other does. At each condition: harm under the one minus harm under the other. Harm is an effect
divided by the protocol's own range from intact to chance, so that the two can be compared.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.results.cells import CONDITION, INTACT, Cell

AGREEMENT = [
    *("ablation", "at", "part", "task", "family", "protocol_a", "protocol_b"),
    *("n_sites", "n", "spearman", "low", "high"),
]
DIFFERENCES = [
    *(*CONDITION, "task", "family", "protocol_a", "protocol_b", "n"),
    *("harm_a", "harm_b", "difference", "low", "high"),
]


def agreement_of(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per kind of condition, task and pair of protocols; see `SweepResult.agreement`."""
    rows = []
    for one, two in _pairs(cells):
        examples = _shared(one, two)
        for (ablation, at, part), group in one.conditions.groupby(
            ["ablation", "at", "part"], sort=False
        ):
            names = [name for name in group.index if name in two.conditions.index]
            found = [cell.differences(names, examples) for cell in (one, two)]
            measured = np.all([(~np.isnan(each)).any(axis=1) for each in found], axis=0)
            rng = one.rng(two.protocol, ablation, at, part)
            rho, interval = stats.profile_agreement(found[0][measured], found[1][measured], rng)
            rows.append(
                {
                    "ablation": ablation,
                    "at": at,
                    "part": part,
                    **_named(one, two),
                    "n_sites": int(measured.sum()),
                    "n": len(examples),
                    "spearman": rho,
                    "low": interval.low,
                    "high": interval.high,
                }
            )
    return pd.DataFrame(rows, columns=AGREEMENT)


def differences_of(cells: Sequence[Cell], effects: pd.DataFrame) -> pd.DataFrame:
    """A row per condition, task and pair of protocols; see `SweepResult.differences`."""
    harms = effects.set_index(["task", "protocol", "condition"])
    columns = ["harm", "harm_low", "harm_high"]
    rows: list[dict[str, Any]] = []
    for one, two in _pairs(cells):
        examples = _shared(one, two)
        for name in one.conditions.index:
            if name not in two.conditions.index:
                continue
            change = np.vstack([cell.differences([name], examples) for cell in (one, two)])
            change = change[:, ~np.isnan(change).any(axis=0)]
            (a, a_low, a_high), (b, b_low, b_high) = (
                harms.loc[(cell.task, cell.protocol, name), columns].astype(float)
                for cell in (one, two)
            )
            difference, interval = stats.difference(
                (a, b),
                (stats.Interval(a_low, a_high), stats.Interval(b_low, b_high)),
                stats.correlation(change[0], change[1]),
            )
            rows.append(
                {
                    **one.conditions.loc[name].to_dict(),
                    **_named(one, two),
                    "n": change.shape[1],
                    "harm_a": a,
                    "harm_b": b,
                    "difference": difference,
                    "low": interval.low,
                    "high": interval.high,
                }
            )
    frame = pd.DataFrame(rows, columns=DIFFERENCES)
    return frame.astype({"layer": "Int64", "head": "Int64", "n": int})


def _pairs(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Cell]]:
    """Each two protocols of a task, those in which the model writes behind those that score."""
    for task in dict.fromkeys(cell.task for cell in cells):
        own = sorted((cell for cell in cells if cell.task == task), key=lambda cell: cell.written)
        yield from itertools.combinations(own, 2)


def _shared(one: Cell, two: Cell) -> list[str]:
    """The examples that the intact model answered under both."""
    known = [cell.scores.columns[cell.scores.loc[INTACT].notna()] for cell in (one, two)]
    return list(known[0].intersection(known[1]))


def _named(one: Cell, two: Cell) -> dict[str, str]:
    return {
        "task": one.task,
        "family": one.family,
        "protocol_a": one.protocol,
        "protocol_b": two.protocol,
    }
