"""Compare how harm depends on depth between two ways of asking the same questions.

A cell is one task under one protocol. Two cells are compared if they share questions: two protocols
of a task, two contexts of the same questions under one protocol, or two tasks made of the same
documents, such as lm-eval's `mmlu` and `mmlu_generative`. The effects in the two cells are
correlated over sites (Spearman), and the two profiles of harm (one harm per site) are tested for a
difference. For each condition, the harm in the first cell is subtracted from that in the second.
Harm is a drop of the score divided by the cell's range from chance to intact, which makes cells
comparable. All comparisons are paired by question.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
from layerroles.results.condition_verdicts import count_deferred
from layerroles.results.task_protocol_cells import CONDITION, INTACT, Cell, nearer_of_both_chances

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
        one: the first cell.
        two: the second cell. If the model writes its answers in only one of the cells, and scores
            given answers in the other, `two` is the cell in which it writes.
        examples: the ids of the shared questions in `one` and in `two`, in the same order.
    """

    one: Cell
    two: Cell
    examples: tuple[Sequence[str], Sequence[str]]

    @property
    def cells(self) -> tuple[Cell, Cell]:
        """Both cells."""
        return self.one, self.two

    def harms(
        self, weights: Mapping[str, float], *, level: float = stats.LEVEL, guessed: bool = True
    ) -> tuple[stats.Contrast, stats.Contrast]:
        """Return each cell's weighted sum of the harms of conditions, over the shared questions.

        Args:
            weights: the weight of each condition, by name.
            level: the confidence level of the intervals.
            guessed: see `Cell.harm`.
        """
        one, two = (
            cell.harm(weights, examples, level=level, guessed=guessed)
            for cell, examples in zip(self.cells, self.examples, strict=True)
        )
        return one, two

    def effects(self, names: Sequence[str]) -> list[Float[np.ndarray, "condition question"]]:
        """Return ablated minus intact scores under the named conditions, an array for each cell.

        The columns are the shared questions; NaN where one of the two scores is unknown.
        """
        return [
            cell.differences(names, examples)
            for cell, examples in zip(self.cells, self.examples, strict=True)
        ]

    def differ_p(self, names: Sequence[str]) -> tuple[float, Float[np.ndarray, " condition"]]:
        """Test whether the two cells have equal profiles of harm over the named conditions.

        Returns the p value for all conditions together and an array of p values, one per condition
        (see `stats.profiles_differ_p`). The p values of single conditions are not corrected for the
        number of conditions. All p values account for the number of times that the sweep looks at
        its results (`stats.Looks`). A condition with an unknown harm gets NaN; the p value for all
        conditions is NaN if all harms are unknown.
        """
        changes = [harm_changes(*self.harms({name: 1.0})) for name in names]
        table = pd.concat(changes, axis=1, keys=range(len(names)))
        # A question without a score under one condition is left out for all conditions.
        table = table.loc[:, table.notna().any()].dropna()
        rng = self.one.rng(self.two.task, self.two.protocol, *names[:1])
        clusters = dict(zip(map(self._question, self.examples[0]), self.clusters, strict=True))
        profile_p, site_p = stats.profiles_differ_p(
            table.to_numpy(float).T, rng, clusters=[clusters[str(name)] for name in table.index]
        )
        p = np.full(len(names), np.nan)
        p[list(table.columns)] = site_p
        adjusted = np.array([self._adjust_p(each, names) for each in p])
        return self._adjust_p(profile_p, names), adjusted

    def difference(
        self, weights: Mapping[str, float], *, level: float = stats.LEVEL
    ) -> stats.Contrast:
        """Return a weighted sum of harms in the second cell minus that in the first.

        Computed under both chances (see `nearer_of_both_chances`). For the arguments, see `harms`.
        """

        def difference(*, guessed: bool) -> stats.Contrast:
            one, two = self.harms(weights, level=level, guessed=guessed)
            return stats.difference_of(two, one)

        return nearer_of_both_chances(difference, self.cells)

    def _adjust_p(self, p: float, names: Sequence[str]) -> float:
        return max(cell.looks.adjust_p(float(p), cell.n_asked(names)) for cell in self.cells)

    def select_asked(self, names: Sequence[str]) -> "CellPair":
        """Return the pair, limited to questions asked under all named conditions in both cells."""
        asked = [cell.asked_by_all(names) for cell in self.cells]
        both = [
            pair
            for pair in zip(*self.examples, strict=True)
            if all(example in of for example, of in zip(pair, asked, strict=True))
        ]
        return replace(self, examples=([one for one, _ in both], [two for _, two in both]))

    @property
    def clusters(self) -> np.ndarray:
        """The cluster of each shared question, as in `one` if that has clusters, else as in `two`.

        A cluster is a set of questions that are not independent; see `stats.clusters`.
        """
        one, two = (
            cell.clusters_of(examples)
            for cell, examples in zip(self.cells, self.examples, strict=True)
        )
        return one if stats.are_clusters(one) else two

    def _question(self, example: str) -> str:
        return self.one.questions.get(example, example)

    @property
    def identifying_columns(self) -> dict[str, str]:
        """The columns that identify the pair: both tasks, the family and both protocols."""
        return {
            "task": self.one.task,
            "task_b": self.two.task,
            "family": self.one.family,
            "protocol_a": self.one.protocol,
            "protocol_b": self.two.protocol,
        }

    def group_conditions(self) -> Iterator[tuple[dict[str, str], list[str]]]:
        """Yield the conditions that both cells have, grouped by ablation, `at` and part.

        Each group is a dict of these three (`at` says which positions are ablated), and a list of
        the names of its conditions.
        """
        kinds = self.one.conditions.groupby(["ablation", "at", "part"], sort=False)
        for (ablation, at, part), group in kinds:
            names = [str(name) for name in group.index if name in self.two.conditions.index]
            if names:
                yield {"ablation": str(ablation), "at": str(at), "part": str(part)}, names


def pairs_of(cells: Sequence[Cell]) -> Iterator[CellPair]:
    """Yield the pairs of cells that share questions and are worth comparing.

    Such a pair is a task under two protocols, two tasks under one protocol, or two tasks under two
    protocols if neither task was asked under the other's protocol. If the model writes its answers
    in only one of the cells, that cell comes second.
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
    """Return the table of `SweepResult.agreement`."""
    rows: list[dict[str, Any]] = []
    for pair in pairs_of(cells):
        for kind, names in pair.group_conditions():
            asked = pair.select_asked(names)
            effects = asked.effects(names)
            measured = np.all([(~np.isnan(changes)).any(axis=1) for changes in effects], axis=0)
            rng = pair.one.rng(pair.two.task, pair.two.protocol, *kind.values())
            rho, interval = stats.profile_agreement(
                effects[0][measured],
                effects[1][measured],
                rng,
                clusters=asked.clusters,
                level=max(cell.level(names) for cell in pair.cells),
            )
            rows.append(
                {
                    **kind,
                    **pair.identifying_columns,
                    "n_sites": int(measured.sum()),
                    "n": len(asked.examples[0]),
                    "spearman": rho,
                    "low": interval.low,
                    "high": interval.high,
                    "p": pair.differ_p(names)[0],
                }
            )
    return pd.DataFrame(rows, columns=AGREEMENT)


def tabulate_differences(cells: Sequence[Cell], manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of `SweepResult.differences`."""
    rows: list[dict[str, Any]] = []
    for pair in pairs_of(cells):
        in_both = set(pair.one.conditions.index) & set(pair.two.conditions.index)
        for kind, names in pair.group_conditions():
            _, p = pair.differ_p(names)
            of_kind = kind["ablation"], kind["at"], kind["part"]
            n_more = count_deferred(manifest, of_kind, in_both)
            adjusted = stats.holm(np.append(p, np.ones(n_more)))[: len(p)]
            for name, site_p, adjusted_p in zip(names, p, adjusted, strict=True):
                one, two = pair.harms({name: 1.0})
                difference, low, high = stats.difference_of(two, one).numbers
                rows.append(
                    {
                        **pair.one.conditions.loc[name].to_dict(),
                        **pair.identifying_columns,
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
    """Return each question's contribution to the difference between two harms, `two` minus `one`.

    If both harms were measured on the same questions, the mean of the contributions is the
    difference. Empty if one of the harms is unknown.
    """
    if not one.known or not two.known:
        return pd.Series(dtype=float)
    shared = one.influence.index.intersection(two.influence.index)
    change = two.influence[shared] * two.n - one.influence[shared] * one.n
    return change + (two.value - one.value)


def _shared_questions(one: Cell, two: Cell) -> tuple[list[str], list[str]]:
    """Return the example ids, in each cell, of the questions with intact scores in both.

    Entries of the two lists at one index are of the same question.
    """
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
