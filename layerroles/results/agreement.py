"""Do two ways of asking the same questions tell the same story of depth?

Two cells of a result are compared where they share questions: two protocols of a task, two
contexts of the same questions under one protocol, or two tasks made of the same documents, such as
lm-eval's `mmlu` and `mmlu_generative`. Over sites: Spearman's correlation between the effects that
one finds and those that the other does, and a test that their profiles of harm differ at all. At
each condition: the harm in one minus that in the other. Harm is an effect divided by the cell's own
range from intact to chance, so that the two can be compared. All of it is paired by question.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
from layerroles.results.cells import CONDITION, INTACT, Cell

PAIR = ["task", "task_b", "family", "protocol_a", "protocol_b"]
AGREEMENT = ["ablation", "at", "part", *PAIR, "n_sites", "n", "spearman", "low", "high", "p"]
DIFFERENCES = [
    *(*CONDITION, *PAIR, "n"),
    *("harm_a", "harm_b", "difference", "low", "high", "p", "p_adjusted"),
]


@dataclass(frozen=True, eq=False)
class CellPair:
    """Two cells that ask the same questions.

    Attributes:
        one: where given answers are scored, if only one of the two does.
        two: the other.
        examples: ids of the shared questions in each of them, in the same order.
    """

    one: Cell
    two: Cell
    examples: tuple[Sequence[str], Sequence[str]]

    def harms(
        self, weights: Mapping[str, float], *, level: float = stats.LEVEL
    ) -> tuple[stats.Contrast, stats.Contrast]:
        """A weighted sum of the harms of conditions in both, over the shared questions."""
        one, two = (
            cell.harm(weights, examples, level=level)
            for cell, examples in zip((self.one, self.two), self.examples, strict=True)
        )
        return one, two

    def effects(self, names: Sequence[str]) -> list[Float[np.ndarray, "condition question"]]:
        """Ablated minus intact scores of conditions in both."""
        return [
            cell.differences(names, examples)
            for cell, examples in zip((self.one, self.two), self.examples, strict=True)
        ]

    def differ_p(self, names: Sequence[str]) -> tuple[float, Float[np.ndarray, " condition"]]:
        """The p values that the two profiles of harm differ, at all and at each condition.

        By random signs of the questions (`stats.profiles_differ_p`); the second not corrected.
        """
        changes = [harm_changes(*self.harms({name: 1.0})) for name in names]
        table = pd.concat(changes, axis=1, keys=range(len(names)))
        # A question that failed under one condition counts for none.
        table = table.loc[:, table.notna().any()].dropna()
        rng = self.one.rng(self.two.task, self.two.protocol, *names[:1])
        clusters = dict(zip(map(self._question, self.examples[0]), self.clusters, strict=True))
        profile_p, site_p = stats.profiles_differ_p(
            table.to_numpy(float).T, rng, clusters=[clusters[str(name)] for name in table.index]
        )
        p = np.full(len(names), np.nan)
        p[list(table.columns)] = site_p
        return profile_p, p

    @property
    def clusters(self) -> np.ndarray:
        """The clusters of the shared questions: those of the first cell if it has any."""
        one, two = (
            cell.clusters_of(examples)
            for cell, examples in zip((self.one, self.two), self.examples, strict=True)
        )
        return one if stats.are_clusters(one) else two

    def _question(self, example: str) -> str:
        return self.one.questions.get(example, example)

    @property
    def named(self) -> dict[str, str]:
        """What tells the pair from others."""
        return {
            "task": self.one.task,
            "task_b": self.two.task,
            "family": self.one.family,
            "protocol_a": self.one.protocol,
            "protocol_b": self.two.protocol,
        }

    def profiles(self) -> Iterator[tuple[dict[str, str], list[str]]]:
        """Each ablation, `at` and part, with the names of its conditions that both have."""
        kinds = self.one.conditions.groupby(["ablation", "at", "part"], sort=False)
        for (ablation, at, part), group in kinds:
            names = [str(name) for name in group.index if name in self.two.conditions.index]
            if names:
                yield {"ablation": str(ablation), "at": str(at), "part": str(part)}, names


def pairs_of(cells: Sequence[Cell]) -> Iterator[CellPair]:
    """Every two cells that ask the same questions and differ in one respect.

    Two protocols of a task; two tasks under one protocol; and two tasks under two protocols where
    neither task was asked under the other's. Cells in which the model writes come second.
    """
    cell_keys = {(cell.task, cell.protocol) for cell in cells}
    ordered_cells = sorted(cells, key=lambda cell: cell.written)
    for one, two in itertools.combinations(ordered_cells, 2):
        crossed = {(one.task, two.protocol), (two.task, one.protocol)} & cell_keys
        if one.task != two.task and one.protocol != two.protocol and crossed:
            continue
        examples = _shared_questions(one, two)
        if examples[0]:
            yield CellPair(one, two, examples)


def tabulate_agreement(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per kind of condition and pair of cells; see `SweepResult.agreement`."""
    rows: list[dict[str, Any]] = []
    for pair in pairs_of(cells):
        for kind, names in pair.profiles():
            effects = pair.effects(names)
            measured = np.all([(~np.isnan(changes)).any(axis=1) for changes in effects], axis=0)
            rng = pair.one.rng(pair.two.task, pair.two.protocol, *kind.values())
            rho, interval = stats.profile_agreement(
                effects[0][measured],
                effects[1][measured],
                rng,
                clusters=pair.clusters,
            )
            rows.append(
                {
                    **kind,
                    **pair.named,
                    "n_sites": int(measured.sum()),
                    "n": len(pair.examples[0]),
                    "spearman": rho,
                    "low": interval.low,
                    "high": interval.high,
                    "p": pair.differ_p(names)[0],
                }
            )
    return pd.DataFrame(rows, columns=AGREEMENT)


def tabulate_differences(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per condition and pair of cells; see `SweepResult.differences`."""
    rows: list[dict[str, Any]] = []
    for pair in pairs_of(cells):
        for _, names in pair.profiles():
            _, p = pair.differ_p(names)
            for name, site_p, adjusted_p in zip(names, p, stats.holm(p), strict=True):
                one, two = pair.harms({name: 1.0})
                difference, low, high = stats.difference_of(two, one).numbers
                rows.append(
                    {
                        **pair.one.conditions.loc[name].to_dict(),
                        **pair.named,
                        "n": one.n or len(pair.examples[0]),
                        "harm_a": one.value,
                        "harm_b": two.value,
                        "difference": difference,
                        "low": low,
                        "high": high,
                        "p": site_p,
                        "p_adjusted": adjusted_p,
                    }
                )
    frame = pd.DataFrame(rows, columns=DIFFERENCES)
    return frame.astype({"layer": "Int64", "head": "Int64", "n": int})


def harm_changes(one: stats.Contrast, two: stats.Contrast) -> "pd.Series[float]":
    """By question, the second harm minus the first; their mean is the difference of the harms."""
    if not one.known or not two.known:
        return pd.Series(dtype=float)
    shared = one.influence.index.intersection(two.influence.index)
    change = two.influence[shared] * two.n - one.influence[shared] * one.n
    return change + (two.value - one.value)


def _shared_questions(one: Cell, two: Cell) -> tuple[list[str], list[str]]:
    """The questions that the intact model answered in both, as examples of each."""
    answered = [
        {
            cell.questions.get(str(example), str(example)): str(example)
            for example in cell.scores.columns[cell.scores.loc[INTACT].notna()]
        }
        for cell in (one, two)
    ]
    shared = [question for question in answered[0] if question in answered[1]]
    one_examples, two_examples = ([examples[name] for name in shared] for examples in answered)
    return one_examples, two_examples
