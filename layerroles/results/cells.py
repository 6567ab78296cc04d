"""A cell: one task under one protocol, the scores of every condition side by side."""

import functools
import json
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
from layerroles.results.questions import name_questions

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
        shuffled: the score of the intact answers if each were given to another example; NaN where
            that was not measured.
        unit: of the scores, such as "accuracy".
        noise: share of the intact answers that another batch shape changes; NaN where unknown.
        seed: of the bootstrap.
        questions: names of the questions by example, the same in all cells that ask them.
        guesses: by example, the score of the best guess where that was measured; else `chance` is
            that of all.
        clusters: by example, the cluster that it is in, where it is in one.
    """

    task: str
    family: str
    protocol: str
    rows: pd.DataFrame
    chance: float
    unit: str
    noise: float
    seed: int
    shuffled: float = float("nan")
    questions: Mapping[str, str] = field(default_factory=dict)
    guesses: Mapping[str, float] = field(default_factory=dict)
    clusters: Mapping[str, str] = field(default_factory=dict)

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
        examples_of = self.rows.groupby("condition")["example"]
        return {INTACT: set(), **{str(name): set(examples) for name, examples in examples_of}}

    @property
    def written(self) -> bool:
        """Whether the model wrote its answers, instead of scoring answers that were given."""
        return "strict" in self.rows and bool(self.rows["strict"].notna().any())

    def answered_by_both(
        self, condition: str, of: Literal["scores", "form"] = "scores"
    ) -> tuple[Float[np.ndarray, " example"], Float[np.ndarray, " example"], np.ndarray]:
        """Scores (or form) intact and under a condition where both are known, and the clusters."""
        values, rows = self._tables[of]
        intact, ablated = values[rows[INTACT]], values[rows[condition]]
        known = ~(np.isnan(intact) | np.isnan(ablated))
        return intact[known], ablated[known], self._clusters[known]

    def differences(
        self, conditions: Sequence[Hashable], examples: Sequence[Hashable]
    ) -> Float[np.ndarray, "condition example"]:
        """Scores under each condition minus the intact ones; NaN where either is not known."""
        scores = self.scores.reindex(columns=list(examples))
        changes: np.ndarray = (scores.loc[list(conditions)] - scores.loc[INTACT]).to_numpy(float)
        return changes

    def harm(
        self,
        weights: Mapping[str, float],
        examples: Sequence[str] | None = None,
        *,
        level: float = stats.LEVEL,
        guessed: bool = True,
    ) -> stats.Contrast:
        """A weighted sum of the harms of conditions, over the examples that all of them answered.

        Not known where a condition is not known to have acted, or the intact score is not shown to
        lie above chance.

        Args:
            weights: of the conditions, by name.
            examples: those that count; all by default.
            level: of confidence.
            guessed: whether skill is what lies above guessing where that was measured; else all
                that is right is.
        """
        values, rows, columns = self._array
        columns_used = (
            slice(None) if examples is None else [columns[example] for example in examples]
        )
        if not set(weights) <= set(rows):
            return stats.NO_CONTRAST
        used = values[[rows[name] for name in (INTACT, *weights)]][:, columns_used]
        answered = ~np.isnan(used).any(axis=0)
        intact, ablated = used[0, answered], used[1:, answered]
        chance, clusters = (
            self._chances[columns_used][answered],
            self._clusters[columns_used][answered],
        )
        if not all(map(self.did_act, weights)):
            return stats.NO_CONTRAST
        if not stats.is_above(intact, chance, clusters=clusters):
            return stats.NO_CONTRAST
        if self.guesses and not guessed:
            chance = np.zeros(len(intact))
        w = np.array(list(weights.values()))
        possible = []
        if self.unit == "accuracy" and stats.is_binary(intact, ablated):
            positive_weight, negative_weight = float(w[w > 0].sum()), float(w[w < 0].sum())
            possible = stats.possible_losses(chance, positive_weight, negative_weight)
        return stats.ratio_contrast(
            self._questions[columns_used][answered],
            w @ (intact - ablated),
            intact - chance,
            possible,
            clusters=clusters,
            level=level,
        )

    def chances_of(self, examples: Sequence[Hashable]) -> Float[np.ndarray, " example"]:
        """The score of guessing on each of these examples."""
        return np.array([self.guesses.get(str(each), self.chance) for each in examples])

    def clusters_of(self, examples: Sequence[Hashable]) -> np.ndarray:
        """The cluster of each of these examples; one that is in none is named after itself."""
        return np.array([self.clusters.get(str(e), f"{self.task}\n{e}") for e in examples], object)

    @functools.cached_property
    def _array(self) -> tuple[Float[np.ndarray, "row column"], dict[str, int], dict[str, int]]:
        """The scores, with the places of conditions and of examples."""
        scores = self.scores
        rows, columns = (
            {str(name): place for place, name in enumerate(names)}
            for names in (scores.index, scores.columns)
        )
        return scores.to_numpy(float), rows, columns

    @functools.cached_property
    def _tables(self) -> dict[str, tuple[Float[np.ndarray, "row column"], dict[str, int]]]:
        """The values of `scores` and `form`, which have the same columns, with their rows."""
        tables = {"scores": self.scores, "form": self.form.reindex(columns=self.scores.columns)}
        return {
            name: (table.to_numpy(float), {str(row): n for n, row in enumerate(table.index)})
            for name, table in tables.items()
        }

    @functools.cached_property
    def _chances(self) -> Float[np.ndarray, " example"]:
        return self.chances_of(list(self.scores.columns))

    @functools.cached_property
    def _clusters(self) -> np.ndarray:
        return self.clusters_of(list(self.scores.columns))

    @functools.cached_property
    def _questions(self) -> np.ndarray:
        """The names of the questions, in the order of the examples."""
        names = [self.questions.get(str(example), str(example)) for example in self.scores.columns]
        return np.array(names, dtype=object)

    @functools.cached_property
    def _acted(self) -> dict[str, bool]:
        ats, counts = self.conditions["at"], self.n_changed
        return {str(name): acted(str(at), int(counts[name])) for name, at in ats.items()}

    @property
    def has_skill(self) -> bool:
        """Whether the intact score is shown to lie above chance."""
        scores = self.scores.loc[INTACT].dropna()
        examples = list(scores.index)
        return stats.is_above(
            scores.to_numpy(float), self.chances_of(examples), clusters=self.clusters_of(examples)
        )

    def did_act(self, condition: str) -> bool:
        """Whether a condition acted on anything; see `acted`."""
        return self._acted[condition]

    def rng(self, *names: str) -> np.random.Generator:
        """Seeded by what it serves, so that a row does not depend on the rows beside it."""
        text = "\n".join([*names, self.task, self.protocol]).encode()
        return np.random.default_rng([self.seed, zlib.crc32(text)])

    def _table(self, values: "pd.Series[Any]") -> pd.DataFrame:
        # By way of a type that knows NA, which `float` alone does not take.
        floats = values.astype("Float64").astype(float)
        rows = self.rows[["condition", "example"]].assign(value=floats)
        table = rows.pivot(index="condition", columns="example", values="value")
        return table.reindex([INTACT, *self.conditions.index])


def acted(at: str, n_changed: int) -> bool:
    """Whether a condition acted at all: it changed something, or acts where every text has tokens.

    One that acts at the evidence did nothing to texts without any, so that nothing is known of its
    harm; a block that writes nothing, skipped, is known to do no harm.
    """
    return n_changed > 0 or at in _EVERYWHERE


def make_cells(frame: pd.DataFrame, manifest: dict[str, Any], examples: pd.DataFrame) -> list[Cell]:
    """The cells of a sweep's rows, in the order of the rows; `examples` as in `SweepResult`."""
    manifest_cells = {(cell["task"], cell["protocol"]): cell for cell in manifest.get("cells", [])}
    noise = {
        (line["task"], line["protocol"]): line["n_changed"] / line["n"]
        for line in manifest.get("noise_floor") or []
        if line["n"]
    }
    frame = frame.assign(example=frame["example"].astype(str))
    cells, questions = [], name_questions(frame, examples)
    for (task, family, protocol), rows in frame.groupby(CELL, sort=False):
        cell = manifest_cells.get((task, protocol), {})
        chance = cell.get("chance")
        guesses, clusters = _read_guesses_and_clusters(examples, str(task), str(protocol))
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
                shuffled=float(cell.get("shuffled", float("nan"))),
                questions=questions[str(task)],
                guesses=guesses,
                clusters=clusters,
            )
        )
    return cells


def _read_guesses_and_clusters(
    examples: pd.DataFrame, task: str, protocol: str
) -> tuple[dict[str, float], dict[str, str]]:
    """What guessing scores on each example and the cluster of each, where they are known."""
    if not {"task", "guesses", "cluster"} <= set(examples.columns):  # of an earlier version
        return {}, {}
    rows = examples[examples["task"] == task]
    ids = rows["example"].astype(str)
    guesses_by_id = zip(ids, map(json.loads, rows["guesses"]), strict=True)
    guesses = {id: float(scores[protocol]) for id, scores in guesses_by_id if protocol in scores}
    clusters_by_id = zip(ids, rows["cluster"], strict=True)
    return guesses, {id: f"{task}\n{cluster}" for id, cluster in clusters_by_id if cluster}


def records(frame: pd.DataFrame) -> list[Any]:
    """The rows as named tuples; what a column holds is known by its name, not to type checkers."""
    return list(frame.itertuples(index=False))
