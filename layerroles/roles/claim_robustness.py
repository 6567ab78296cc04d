"""In how many set-ups a claim holds, and which factors change the number that it is about.

A verdict from one template, one set of shots, one kind of ablation and one dtype holds for that
set-up only. `judge_setups` takes the claim's number and interval in every set-up and says in how
many the claim holds. The verdict on a set-up is

- holds: the 95% interval lies above the claim's smallest effect;
- contradicted: the interval lies below the smallest effect;
- undecided: the interval includes the smallest effect;
- not measurable: there is no number, since the intact model is not shown to be above chance.

Part of the spread of the numbers is sampling error, which `stats.heterogeneity` subtracts. Set-ups
that ask the same questions have correlated errors, so their differences are more certain than two
separate intervals suggest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import norm

from layerroles import stats
from layerroles.notebook_display import as_html, as_text
from layerroles.results import NOT_MEASURABLE, UNDECIDED, records
from layerroles.roles.sentence_parts import format_bounds, format_estimate

HOLDS, CONTRADICTED = "holds", "contradicted"


@dataclass(frozen=True, eq=False, repr=False)
class Robustness:
    """A claim's number in several set-ups, such as other templates, seeds or dtypes.

    Intervals are 95%, each for its own set-up.

    Attributes:
        claim: the claim, in words.
        smallest: the smallest effect of interest, which the number has to exceed.
        frame: a row per set-up: the level of each factor; n (questions), intact and chance
            (scores), number, low, high, and verdict (holds, contradicted, undecided, or not
            measurable).
        spread: a row per factor: means (of the number, by level), range (of the means),
            range_by_chance (a range that sampling error alone exceeds in 5% of cases) and share
            (of the variance between set-ups, without what sampling error adds). Two more rows have
            the shares of sampling error and of the rest (interactions of factors).
        observed_sd: the standard deviation of the number between set-ups.
        sampling_sd: the standard deviation that sampling error alone would give.
        between_sd: the standard deviation of the true numbers between set-ups, with its interval.

    Example:
        robustness = lr.robustness(model, tasks[0], {"seed": [0, 1]}, "runs/seeds", limit=8)
        print(robustness.sentence)
        robustness.spread
    """

    claim: str
    smallest: float
    frame: pd.DataFrame
    spread: pd.DataFrame
    observed_sd: float
    sampling_sd: float
    between_sd: stats.IntervalEstimate

    @property
    def sentence(self) -> str:
        """Text on how many set-ups the claim holds in, and how its number differs between them.

        For example "... holds in 15 of 16 reasonable set-ups", where 16 set-ups were tried.
        """
        counts = self.frame["verdict"].value_counts()
        n, n_holds = len(self.frame), int(counts.get(HOLDS, 0))
        text = (
            f"{self.claim} (above {self.smallest:g}): holds in {n_holds} of {n} reasonable set-ups"
        )
        others = [
            f"{verdict} in {int(counts[verdict])}"
            for verdict in (CONTRADICTED, UNDECIDED, NOT_MEASURABLE)
            if verdict in counts
        ]
        if others:
            text += f" ({', '.join(others)})"
        return f"{text}. {self._describe_spread()}".strip()

    def _describe_spread(self) -> str:
        value, interval = self.between_sd
        if math.isnan(value):
            return "The spread between set-ups is not known: it takes two with an interval."
        bounds = format_bounds(interval.low, interval.high, 2)
        text = (
            f"Beyond sampling error, set-ups differ by a standard deviation of {value:.2f}{bounds}"
            if interval.low > 0
            else "Set-ups are not shown to differ beyond sampling error (standard deviation "
            f"{value:.2f}{bounds})"
        )
        named = self.spread.iloc[:-2]  # the last two are sampling error and the rest
        factors = named.dropna(subset=["range"])
        if factors.empty:
            return f"{text}."
        widest = records(factors.nlargest(1, "range"))[0]
        which, one_of = "the widest factor", "for one factor, "
        if len(named) == 1:
            which, one_of = "the only factor", ""
        elif len(factors) < len(named):
            which = f"the widest of the {len(factors)} factors that the set-ups separate"
        return (
            f"{text}; {which} is {widest.factor}, whose level means range over {widest.range:.2f} "
            f"({one_of}sampling error alone gives up to {widest.range_by_chance:.2f} in 95% of "
            "cases)."
        )

    def __repr__(self) -> str:
        return as_text(self.sentence, self._table(), self._next_steps())

    def _repr_html_(self) -> str:
        return as_html(self.sentence, self._table(), self._next_steps())

    def _next_steps(self) -> str:
        return "Next: robustness.spread has the spread by factor, robustness.frame every set-up."

    def _table(self) -> pd.DataFrame:
        """Return the frame with the number and its interval as one column."""
        numbers = [format_estimate(row.number, row.low, row.high) for row in records(self.frame)]
        shown = self.frame.drop(columns=["number", "low", "high"])
        shown.insert(shown.columns.get_loc("verdict"), "number [95%]", numbers)
        return shown


def judge_setups(
    setups: pd.DataFrame,
    factors: Sequence[str],
    *,
    claim: str,
    smallest: float,
    correlation: Float[np.ndarray, "setup setup"] | None = None,
) -> Robustness:
    """Say in how many set-ups a claim holds, and how its number varies between them.

    Args:
        setups: a row per set-up, with a column for each factor and the columns number, low and high
            (the 95% interval; NaN if not measurable). Other columns are kept.
        factors: the columns that are factors; those with one level do not enter `spread`.
        claim: the claim, in words.
        smallest: the smallest effect of interest.
        correlation: the correlations of the numbers' errors; None if they are independent.
    """
    verdicts = [_judge(row.number, row.low, row.high, smallest) for row in records(setups)]
    frame = setups.assign(verdict=pd.Series(verdicts, index=setups.index, dtype=object))
    errors = (frame["high"] - frame["low"]).to_numpy(float) / (2 * norm.ppf((1 + stats.LEVEL) / 2))
    known = np.isfinite(errors)
    rho = np.eye(len(frame)) if correlation is None else correlation
    covariance = rho[np.ix_(known, known)] * np.outer(errors[known], errors[known])
    values = frame["number"].to_numpy(float)[known]
    levels = {
        name: [str(level) for level in frame.loc[known, name]]
        for name in factors
        if frame[name].astype(str).nunique() > 1
    }
    n = len(values)
    centring = np.eye(n) - 1 / max(n, 1)
    return Robustness(
        claim=claim,
        smallest=smallest,
        frame=frame,
        spread=stats.factor_spread(values, covariance, levels),
        observed_sd=float(values.std(ddof=1)) if n > 1 else math.nan,
        sampling_sd=math.sqrt(float(np.trace(centring @ covariance)) / (n - 1))
        if n > 1
        else math.nan,
        between_sd=stats.between_sd(values, covariance),
    )


def _judge(number: float, low: float, high: float, smallest: float) -> str:
    if math.isnan(number) or math.isnan(low):
        return NOT_MEASURABLE
    if low > smallest:
        return HOLDS
    return CONTRADICTED if high < smallest else UNDECIDED
