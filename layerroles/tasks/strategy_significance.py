"""Test whether strategies that ignore the questions' meaning find right choices beyond chance.

Under the null hypothesis the right answer is equally likely to be each of a question's choices: if
t of its k choices tie for the highest score of a strategy, the question counts 1/t with probability
t/k, else 0. The p value is the exact one-sided tail of the sum of these counts, corrected for the
number of strategies (Holm 1979).
A strategy that learns is fitted on each half of the questions and tested on the other. The two
tests are not independent, so the p value is twice the smaller of the two, which is valid under any
dependence.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import signal, stats

from layerroles.stats import holm
from layerroles.tasks.base import Example
from layerroles.tasks.choice_strategies import ChoiceScores, find_second_half, strategies

_LEVEL = 0.05
# Scores are rounded to this many decimals: smaller differences are rounding errors.
_DIGITS = 9
# If the exact distribution has more values than this, a normal approximation is used.
_LARGEST_GRID = 2_000_000
_COLUMNS = ("strategy", "n", "share", "chance", "excess", "p", "p_adjusted", "flagged")


def strategy_frame(examples: Sequence[Example]) -> pd.DataFrame:
    """Return the table `Audit.frame` for some questions.

    It has a row for each strategy that applies to at least one question; the strategy that exceeds
    chance most comes first. Questions with fewer than two choices, or whose answer is not among
    them, are left out. Copies of a question (same prompt, choices and answer) count once: a
    strategy gets all of them right or all wrong, so they are not independent evidence. For
    strategies that depend on the order of the choices, only copies in the same order do so.
    """
    rows = []
    for strategy in strategies():
        distinct = {
            (e.prompt, e.choices if strategy.by_place else frozenset(e.choices), e.answer): e
            for e in examples
            if len(e.choices) > 1 and e.answer in e.choices
        }
        with_choices = list(distinct.values())
        second = find_second_half(with_choices)
        scores = strategy.score(with_choices)
        overall = _tally(with_choices, scores)
        if not overall.n:
            continue
        parts = [overall]
        if strategy.learns:
            parts = [
                _tally(
                    with_choices,
                    [s if is_in == half else None for s, is_in in zip(scores, second, strict=True)],
                )
                for half in (False, True)
            ]
        rows.append(
            {
                "strategy": strategy.name,
                "n": overall.n,
                "share": overall.right / overall.n,
                "chance": overall.chance / overall.n,
                "excess": (overall.right - overall.chance) / overall.n,
                "p": min(1.0, len(parts) * min(part.p_value() for part in parts)),
            }
        )
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    if rows:
        frame["p_adjusted"] = holm(frame["p"].to_numpy())
        frame["flagged"] = frame["p_adjusted"] < _LEVEL
        frame = frame.sort_values("excess", ascending=False, kind="stable", ignore_index=True)
    return frame


@dataclass(frozen=True)
class _Tally:
    """How many questions a strategy gets right, with the counts that its p value needs.

    Attributes:
        right: number of questions that the strategy gets right. A question counts 1/t if t choices
            tie for the highest score and the right one is among them, else 0.
        groups: maps (number of choices that tie for the highest score, number of choices) to the
            number of such questions.
    """

    right: float
    groups: Counter[tuple[int, int]]

    @property
    def n(self) -> int:
        return self.groups.total()

    @property
    def chance(self) -> float:
        return sum(number / k for (_, k), number in self.groups.items())

    def p_value(self) -> float:
        """Return the one-sided p value of `right` if every choice is equally likely to be right."""
        step = math.lcm(*(tied for tied, _ in self.groups))
        if step * self.n > _LARGEST_GRID:
            variance = sum(n * (1 / (t * k) - 1 / k**2) for (t, k), n in self.groups.items())
            return float(stats.norm.sf(self.right, self.chance, math.sqrt(variance)))
        # Sums are counted in units of 1/step.
        distribution = np.ones(1)
        for (tied, k), number in self.groups.items():
            pmf = np.zeros(number * (step // tied) + 1)
            pmf[:: step // tied] = stats.binom.pmf(np.arange(number + 1), number, tied / k)
            distribution = signal.fftconvolve(distribution, pmf)
        return float(np.clip(distribution[round(self.right * step) :].sum(), 0, 1))


def _tally(examples: Sequence[Example], scores: ChoiceScores) -> _Tally:
    right, groups = 0.0, Counter[tuple[int, int]]()
    for example, choice_scores in zip(examples, scores, strict=True):
        if choice_scores is None:
            continue
        rounded = np.round(np.asarray(choice_scores, float), _DIGITS)
        top = rounded == rounded.max()
        tied = int(top.sum())
        right += top[example.choices.index(example.answer)] / tied
        groups[tied, len(top)] += 1
    return _Tally(float(right), groups)
