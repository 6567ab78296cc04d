"""A cell: one task under one protocol, the scores of every condition side by side."""

import functools
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

CONDITION = ["condition", "ablation", "at", "site", "layer", "part", "head"]
CELL = ["task", "family", "protocol"]
INTACT = "intact"
# Where every text has positions: an edit that changes nothing there is a write that is nothing.
_EVERYWHERE = ("all", "after_first")
# Whose p values are corrected together.
FAMILY = ["ablation", "at", "part", "task", "protocol"]


@dataclass(frozen=True, eq=False)
class Cell:
    """The rows of one task under one protocol, the intact model's among them.

    Attributes:
        task: its label.
        family: what it asks for.
        protocol: its name.
        rows: a row per condition and example.
        chance: the score of guessing; NaN where there is no such thing.
        unit: of the scores, such as "accuracy".
        noise: share of the intact answers that another batch shape changes; NaN where unknown.
        seed: of the bootstrap.
    """

    task: str
    family: str
    protocol: str
    rows: pd.DataFrame
    chance: float
    unit: str
    noise: float
    seed: int

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """Scores, condition x example, the intact ones first; NaN where not finite or not there."""
        return self._table(self.rows["score"].where(self.rows["status"] == "ok"))

    @functools.cached_property
    def form(self) -> pd.DataFrame:
        """Whether the answer came in the form of the shots: 1, 0, NaN where that is not known."""
        # Runs of earlier versions have no such column.
        known = self.rows.get("form", pd.Series(pd.NA, index=self.rows.index))
        return self._table(known.astype("boolean"))

    @functools.cached_property
    def conditions(self) -> pd.DataFrame:
        """What each condition is, a row each, without the intact one."""
        ablated = self.rows.loc[self.rows["condition"] != INTACT, CONDITION]
        return ablated.drop_duplicates("condition").set_index("condition", drop=False)

    @functools.cached_property
    def n_changed(self) -> "pd.Series[int]":
        """For each condition, for how many examples an edit changed anything."""
        changed = self.rows["changed"].astype("boolean").fillna(True)
        return changed.groupby(self.rows["condition"]).sum().astype(int)

    @functools.cached_property
    def asked(self) -> dict[str, set[str]]:
        """For each condition, the examples that it was asked."""
        named = self.rows.groupby("condition")["example"]
        return {INTACT: set(), **{str(name): set(examples) for name, examples in named}}

    @property
    def written(self) -> bool:
        """Whether the model wrote its answers, instead of scoring answers that were given."""
        return "strict" in self.rows and bool(self.rows["strict"].notna().any())

    def differences(
        self, conditions: Sequence[Hashable], examples: Sequence[Hashable]
    ) -> Float[np.ndarray, "condition example"]:
        """Scores under each condition minus the intact ones; NaN where either is not known."""
        scores = self.scores.reindex(columns=list(examples))
        changes: np.ndarray = (scores.loc[list(conditions)] - scores.loc[INTACT]).to_numpy(float)
        return changes

    def rng(self, *names: str) -> np.random.Generator:
        """Seeded by what it serves, so that a row does not depend on the rows beside it."""
        text = "\n".join([*names, self.task, self.protocol]).encode()
        return np.random.default_rng([self.seed, zlib.crc32(text)])

    def _table(self, values: "pd.Series[Any]") -> pd.DataFrame:
        # By way of a type that knows NA, which `float` alone does not take.
        plain = values.astype("Float64").astype(float)
        named = self.rows[["condition", "example"]].assign(value=plain)
        table = named.pivot(index="condition", columns="example", values="value")
        return table.reindex([INTACT, *self.conditions.index])


def acted(at: str, n_changed: int) -> bool:
    """Whether a condition acted at all: it changed something, or acts where every text has tokens.

    One that acts at the evidence did nothing to texts without any, so that nothing is known of its
    harm; a block that writes nothing, skipped, is known to do no harm.
    """
    return n_changed > 0 or at in _EVERYWHERE


def cells_of(frame: pd.DataFrame, manifest: dict[str, Any]) -> list[Cell]:
    """The cells of a sweep's rows, in the order of the rows."""
    said = {(cell["task"], cell["protocol"]): cell for cell in manifest.get("cells", [])}
    noise = {
        (line["task"], line["protocol"]): line["n_changed"] / line["n"]
        for line in manifest.get("noise_floor") or []
        if line["n"]
    }
    cells = []
    for (task, family, protocol), rows in frame.groupby(CELL, sort=False):
        cell = said.get((task, protocol), {})
        chance = cell.get("chance")
        cells.append(
            Cell(
                task=str(task),
                family=str(family),
                protocol=str(protocol),
                rows=rows,
                chance=float("nan") if chance is None else float(chance),
                unit=str(cell.get("unit", "accuracy")),
                noise=float(noise.get((task, protocol), float("nan"))),
                seed=int(manifest.get("seed", 0)),
            )
        )
    return cells


def records(frame: pd.DataFrame) -> list[Any]:
    """The rows as named tuples; what a column holds is known by its name, not to type checkers."""
    return list(frame.itertuples(index=False))
