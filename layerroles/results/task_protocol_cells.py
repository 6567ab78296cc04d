"""A cell: one task under one protocol, with a table of scores by condition and example."""

import functools
import itertools
import json
import zlib
from collections import namedtuple
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerroles import stats
from layerroles.errors import InputError
from layerroles.results.cross_task_questions import name_questions

CONDITION = ["condition", "ablation", "at", "site", "layer", "part", "head"]
CELL = ["task", "family", "protocol"]
INTACT = "intact"
# Values of `at` that select positions in every text: an edit that changes nothing there acted on a
# write of 0.
_EVERYWHERE = ("all", "after_first")
# Rows that agree in these columns are one family of tests: their p values are corrected together.
FAMILY = ["ablation", "at", "part", "task", "protocol"]


@dataclass(frozen=True, eq=False)
class Cell:
    """The rows of one task under one protocol, including those of the intact model.

    Attributes:
        task: the task's label.
        family: the task's family.
        protocol: the protocol's label.
        rows: a row per condition and example.
        chance: the mean score of guessing; NaN if unknown.
        unit: the unit of the scores, such as "accuracy".
        noise: the share of intact answers that another batch shape changes; NaN if not measured.
        seed: the seed of the bootstrap.
        shuffled: the mean score if each intact answer were given to another example; NaN if not
            measured.
        questions: the name of the question of each example, the same in all cells that ask it.
        guesses: the score of the best guess on each example; `chance` is used for missing examples.
        clusters: the cluster of each example (examples that share a template or shots, and so are
            not independent); examples in no cluster are left out.
        looks: the numbers of questions after which the sweep looks at its results; the intervals of
            the cell are valid at all of these looks together.
        random_choice: the mean score of a random choice; 0 where answers are not chosen.
        shuffled_is_chance: whether `chance` is `shuffled`.
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
    looks: stats.Looks = field(default_factory=stats.Looks)
    random_choice: float = 0.0
    shuffled_is_chance: bool = False

    @property
    def measures_chance(self) -> bool:
        """Whether chance was measured, as the best guess or by shuffled answers, and not stated."""
        return bool(self.guesses) or self.shuffled_is_chance

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """The scores, condition x example, intact first; NaN if not finite or not asked."""
        return self._table(self.rows["score"].where(self.rows["status"] == "ok"))

    @functools.cached_property
    def form(self) -> pd.DataFrame:
        """Whether answers have the format of the shots, condition x example.

        1 or 0; NaN if unknown. Shots are the worked examples in the prompt.
        """
        # A frame made by hand may lack the column.
        known = self.rows.get("form", pd.Series(pd.NA, index=self.rows.index))
        return self._table(known.astype("boolean"))

    @functools.cached_property
    def conditions(self) -> pd.DataFrame:
        """A row for each condition but the intact model, with the columns `CONDITION`."""
        ablated = self.rows.loc[self.rows["condition"] != INTACT, CONDITION]
        return ablated.drop_duplicates("condition").set_index("condition", drop=False)

    @functools.cached_property
    def n_changed(self) -> "pd.Series[int]":
        """The number of examples in which an edit changed a write, by condition.

        A write is what a site adds to the residual stream (for a head, its `z`). Examples for which
        this was not recorded count as changed.
        """
        changed = self.rows["changed"].astype("boolean").fillna(True)
        return changed.groupby(self.rows["condition"]).sum().astype(int)

    @functools.cached_property
    def n_rows(self) -> dict[str, int]:
        """The number of examples that were asked under each condition."""
        return {str(name): int(n) for name, n in self.rows["condition"].value_counts().items()}

    def n_asked(self, conditions: Iterable[str]) -> int:
        """Return the number of examples that were asked intact and under all these conditions."""
        return int(self._is_asked_by_all(conditions).sum())

    def n_answered(self, condition: str) -> tuple[int, int]:
        """Return how many examples have both an intact and an ablated score, and how many lack one.

        Only examples asked both ways count. A score is missing if it is not finite.
        """
        n_answered = len(self.answered_by_both(condition)[0])
        return n_answered, self.n_asked([condition]) - n_answered

    def asked_by_all(self, conditions: Iterable[str]) -> set[str]:
        """Return the ids of the examples that were asked intact and under all these conditions."""
        _, _, examples = self._asked_array
        return set(map(str, examples[self._is_asked_by_all(conditions)]))

    def level(self, conditions: Iterable[str]) -> float:
        """Return the confidence level of an interval, so that those of all looks together have 95%.

        A look is one of the numbers of questions after which the sweep looks at its results.

        Args:
            conditions: the names of the conditions that the interval compares.
        """
        return self.looks.level(self.n_asked(conditions))

    @property
    def written(self) -> bool:
        """Whether the model wrote its answers, rather than scored given ones."""
        return "strict" in self.rows and bool(self.rows["strict"].notna().any())

    def answered_by_both(
        self, condition: str, of: Literal["scores", "form"] = "scores"
    ) -> tuple[Float[np.ndarray, " example"], Float[np.ndarray, " example"], np.ndarray]:
        """Return intact values, ablated values and clusters of examples where both are known.

        Args:
            condition: the name of the condition.
            of: the table to read: `scores`, or `form` (1 or 0).
        """
        values, rows = self._tables[of]
        intact, ablated = values[rows[INTACT]], values[rows[condition]]
        known = ~(np.isnan(intact) | np.isnan(ablated))
        return intact[known], ablated[known], self._clusters[known]

    def differences(
        self, conditions: Sequence[Hashable], examples: Sequence[Hashable]
    ) -> Float[np.ndarray, "condition example"]:
        """Return scores under each condition minus the intact ones; NaN if either is unknown."""
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
        """Return a weighted sum of harms of conditions, over the examples scored under all of them.

        Unknown (NaN) if the cell lacks a condition, a condition is not known to ablate tokens (see
        `ablates_tokens`), or the intact score is not shown to lie above chance.

        Args:
            weights: the weight of each condition, by name.
            examples: the examples to use; None for all.
            level: the confidence level that the intervals of all looks of the sweep have together.
            guessed: if false and the cell `measures_chance`, chance is taken to be `random_choice`,
                so the skill of an answer that is not chosen is the whole score.
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
        if not all(map(self.ablates_tokens, weights)):
            return stats.NO_CONTRAST
        n_asked = self.n_asked(weights)
        if not stats.is_above(intact, chance, clusters=clusters, level=self.looks.level(n_asked)):
            return stats.NO_CONTRAST
        if self.measures_chance and not guessed:
            chance = np.full(len(intact), self.random_choice)
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
            level=self.looks.level(n_asked, level),
        )

    def chances_of(self, examples: Sequence[Hashable]) -> Float[np.ndarray, " example"]:
        """Return the score of guessing on each of these examples."""
        return np.array([self.guesses.get(str(each), self.chance) for each in examples])

    def clusters_of(self, examples: Sequence[Hashable]) -> np.ndarray:
        """Return the cluster of each example; an example in no cluster forms its own."""
        return np.array([self.clusters.get(str(e), f"{self.task}\n{e}") for e in examples], object)

    @functools.cached_property
    def _array(self) -> tuple[Float[np.ndarray, "row column"], dict[str, int], dict[str, int]]:
        """The scores as an array, row indices by condition, and column indices by example."""
        scores = self.scores
        rows, columns = (
            {str(name): place for place, name in enumerate(names)}
            for names in (scores.index, scores.columns)
        )
        return scores.to_numpy(float), rows, columns

    @functools.cached_property
    def _tables(self) -> dict[str, tuple[Float[np.ndarray, "row column"], dict[str, int]]]:
        """`scores` and `form` as arrays with the same columns, each with row indices by name."""
        tables = {"scores": self.scores, "form": self.form.reindex(columns=self.scores.columns)}
        return {
            name: (table.to_numpy(float), {str(row): n for n, row in enumerate(table.index)})
            for name, table in tables.items()
        }

    @functools.cached_property
    def _asked_array(self) -> tuple[Bool[np.ndarray, "row column"], dict[str, int], np.ndarray]:
        """Whether each example was asked under each condition; row indices by name; example ids."""
        rows, conditions, columns, examples = self._positions
        asked = np.zeros((len(conditions), len(examples)), dtype=bool)
        asked[rows, columns] = True
        return asked, {str(name): row for row, name in enumerate(conditions)}, examples

    @functools.cached_property
    def _positions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The row and column of each answer in a table condition x example, and the table's labels.

        Four arrays: the row of each answer, the condition of each row (in order of occurrence), the
        column of each answer, and the example id of each column (sorted).

        Raises:
            InputError: an example has two rows under one condition.
        """
        rows, conditions = pd.factorize(self.rows["condition"].to_numpy(object))
        columns, examples = pd.factorize(self.rows["example"].to_numpy(object), sort=True)
        _, first = np.unique(rows * len(examples) + columns, return_index=True)
        if len(first) < len(rows):
            twice = self.rows.iloc[np.setdiff1d(np.arange(len(rows)), first)[0]]
            raise InputError(
                f"example {twice['example']!r} of {self.task} ({self.protocol}) has two rows under "
                f"{twice['condition']!r}: results of one run, not joined, have one each"
            )
        return rows, conditions, columns, examples

    def _is_asked_by_all(self, conditions: Iterable[str]) -> Bool[np.ndarray, " column"]:
        """Return whether each example was asked intact and under all these conditions."""
        asked, rows, examples = self._asked_array
        names = [INTACT, *conditions]
        if not all(name in rows for name in names):
            return np.zeros(len(examples), dtype=bool)
        by_all: Bool[np.ndarray, " column"] = np.all(asked[[rows[name] for name in names]], axis=0)
        return by_all

    @functools.cached_property
    def _chances(self) -> Float[np.ndarray, " example"]:
        return self.chances_of(list(self.scores.columns))

    @functools.cached_property
    def _clusters(self) -> np.ndarray:
        return self.clusters_of(list(self.scores.columns))

    @functools.cached_property
    def _questions(self) -> np.ndarray:
        """The name of each example's question, in the order of the examples."""
        names = [self.questions.get(str(example), str(example)) for example in self.scores.columns]
        return np.array(names, dtype=object)

    @functools.cached_property
    def _ablates_tokens(self) -> dict[str, bool]:
        ats, counts = self.conditions["at"], self.n_changed
        return {str(name): ablates_tokens(str(at), int(counts[name])) for name, at in ats.items()}

    @property
    def has_skill(self) -> bool:
        """Whether the intact score is shown to lie above chance."""
        scores = self.scores.loc[INTACT].dropna()
        examples = list(scores.index)
        return stats.is_above(
            scores.to_numpy(float),
            self.chances_of(examples),
            clusters=self.clusters_of(examples),
            level=self.looks.level(self.n_asked([])),
        )

    def ablates_tokens(self, condition: str) -> bool:
        """Return whether a condition is known to ablate tokens; see `cells.ablates_tokens`."""
        return self._ablates_tokens[condition]

    def rng(self, *names: str) -> np.random.Generator:
        """Return a new random generator, seeded by the run's seed, the cell and `names`."""
        text = "\n".join([*names, self.task, self.protocol]).encode()
        return np.random.default_rng([self.seed, zlib.crc32(text)])

    def _table(self, values: "pd.Series[Any]") -> pd.DataFrame:
        """Return values as a table, condition x example; NaN where a value is missing."""
        rows, conditions, columns, examples = self._positions
        table = np.full((len(conditions), len(examples)), np.nan)
        # Converted through a nullable dtype, since `astype(float)` alone fails on NA.
        table[rows, columns] = values.astype("Float64").to_numpy(float, na_value=np.nan)
        index = pd.Index(conditions, name="condition")
        # As objects, like the ids in `rows`.
        frame = pd.DataFrame(table, index, pd.Index(examples, dtype=object, name="example"))
        return frame.reindex([INTACT, *self.conditions.index])


def ablates_tokens(at: str, n_changed: int) -> bool:
    """Return whether a condition is known to ablate tokens.

    It is if it changed a write, or if its `at` is "all" or "after_first". A write is what a site
    adds to the residual stream. These two `at` select tokens in every text, so a condition that
    changes no write there has a harm of 0. Other `at` may select no token, such as "evidence" in a
    text without evidence; if no write was changed, the harm is not measured.

    Args:
        at: the positions that the condition ablates, such as "all".
        n_changed: the number of examples in which the condition changed a write.
    """
    return n_changed > 0 or at in _EVERYWHERE


def make_cells(frame: pd.DataFrame, manifest: dict[str, Any], examples: pd.DataFrame) -> list[Cell]:
    """Return a sweep's cells in the order of its rows; for the arguments, see `SweepResult`."""
    manifest_cells = {(cell["task"], cell["protocol"]): cell for cell in manifest.get("cells", [])}
    noise = {
        (line["task"], line["protocol"]): line["n_changed"] / line["n"]
        for line in manifest.get("noise_floor") or []
        if line["n"]
    }
    # As objects: iteration over strings in Arrow's memory, below, is slow.
    frame = frame.assign(example=frame["example"].astype(str).astype(object))
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
                looks=stats.Looks(tuple(manifest.get("looks", {}).get(task, ()))),
                random_choice=float(cell.get("random_choice", 0.0)),
                shuffled_is_chance=cell.get("chance_from") == "shuffled answers",
            )
        )
    return cells


def nearer_of_both_chances(
    difference: Callable[..., stats.Contrast], cells: Iterable[Cell]
) -> stats.Contrast:
    """Return a difference of harms between two cells, computed with either chance.

    With measured chance (`Cell.measures_chance`), harm is overestimated, since a broken model
    scores below a guess, and the more so, the nearer chance is to the intact score. With the
    chance of a random choice (0 if answers are not chosen), harm is underestimated. Of the
    two differences, the one nearer 0 is returned, with an interval that covers both intervals. So
    a layer without which two cells score 0 is not said to harm one of them more.

    Args:
        difference: a function that returns the difference, from `guessed` (see `Cell.harm`).
        cells: the cells whose harms are compared.
    """
    with_chance = difference(guessed=True)
    if not any(cell.measures_chance for cell in cells):
        return with_chance
    return stats.spanning(with_chance, difference(guessed=False))


def _read_guesses_and_clusters(
    examples: pd.DataFrame, task: str, protocol: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the scores of guessing, and the clusters, by example; each only where it is known."""
    if not {"task", "guesses", "cluster"} <= set(examples.columns):  # made by hand
        return {}, {}
    rows = examples[examples["task"] == task]
    ids = rows["example"].astype(str)
    guesses_by_id = zip(ids, map(json.loads, rows["guesses"]), strict=True)
    guesses = {id: float(scores[protocol]) for id, scores in guesses_by_id if protocol in scores}
    clusters_by_id = zip(ids, rows["cluster"], strict=True)
    return guesses, {id: f"{task}\n{cluster}" for id, cluster in clusters_by_id if cluster}


def records(frame: pd.DataFrame) -> list[Any]:
    """Return the rows as named tuples, typed `Any` since type checkers do not know the columns."""
    columns = [frame[name].tolist() for name in frame]
    return list(itertools.starmap(_row_type(*frame.columns), zip(*columns, strict=True)))


@functools.cache
def _row_type(*columns: str) -> Any:
    """Return a named tuple with these fields, made once, since making one takes a millisecond."""
    return namedtuple("Row", columns, rename=True)
