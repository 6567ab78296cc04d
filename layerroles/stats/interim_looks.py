"""Intervals that stay valid if a sweep looks at its results several times and may stop each time.

An interval at 95% misses the truth in 5% of samples at a fixed number of questions. If a sweep
looks at its results after 32, 48, 64, ... questions and stops as soon as the interval decides a
verdict, the interval misses the truth more often. So each look spends a part of the error: the
intervals of all looks together, however many, contain the truth with probability 95% (repeated
confidence intervals: C. Jennison and B. W. Turnbull, JRSS B 51:305, 1989). The critical value of
each look is that of a normal process with independent increments (P. Armitage, C. K. McPherson and
B. C. Rowe, JRSS A 132:235, 1969), for an error that is spent as a function of the number of
questions (K. K. G. Lan and D. L. DeMets, Biometrika 70:659, 1983). The function never spends the
whole error, so that a larger limit may extend a run.

    >>> looks = Looks((32, 48, 64))
    >>> [round(looks.level(n), 4) for n in (32, 48, 64)]
    [0.9975, 0.9872, 0.988]
"""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

from layerroles.stats.intervals import LEVEL

# The share of the error that is left after the first look, and the exponent with which this share
# falls with the number of questions. Chosen by simulation with harms like those of a small model's
# layers, so that few questions are needed with a limit of 512, and error is left for a higher limit
# (`benchmarks/looks.py`).
_LEFT = 0.95
_POWER = 2 / 3
# The fewest nodes of an integral; more if a look adds few questions, since the density of what they
# add to the sum is narrow.
_NODES = 160


@dataclass(frozen=True)
class Looks:
    """The numbers of questions after which a sweep looks at its results; may be extended.

    Attributes:
        sizes: increasing numbers of questions; empty if the sweep does not look before its end.

    Raises:
        ValueError: sizes that do not increase, or one below 1.
    """

    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(before >= size for before, size in itertools.pairwise([0, *self.sizes])):
            raise ValueError(f"looks at {self.sizes} do not increase from 1")

    def level(self, n: int, level: float = LEVEL) -> float:
        """Return the confidence level, at least `level`, of an interval at `n` questions.

        The intervals of all looks together then have the confidence level `level`. If `n` is not a
        look, the result is that of the last look before it; if there is none, it is `level`.

        Args:
            n: the number of questions asked.
            level: the probability that the intervals of all looks contain the truth.
        """
        done = tuple(size for size in self.sizes if size <= n)
        if not done:
            return level
        return float(1 - 2 * stats.norm.sf(_critical_values(done, 1 - level)[-1]))

    def adjust_p(self, p: float, n: int) -> float:
        """Return a p value from `n` questions that is valid together with all other looks.

        It is `p` divided by the share of the error that the last look of at most `n` questions
        spends (Bonferroni's bound); `p` itself below the first look.
        """
        done = tuple(size for size in self.sizes if size <= n)
        return p if math.isnan(p) or not done else min(1.0, p / _shares(done)[-1])

    def complete(self, n: int) -> int:
        """Return the size of the last look with at most `n` questions; `n` if there is none."""
        return max((size for size in self.sizes if size <= n), default=n)

    def next(self, n: int) -> int | None:
        """Return the size of the first look with more than `n` questions; None if there is none."""
        return next((size for size in self.sizes if size > n), None)

    def extended(self, first: int, limit: int) -> "Looks":
        """Return these looks and further ones up to `limit`, each about 1.4 times the one before.

        Args:
            first: the first look, if there are none yet.
            limit: the last look.

        Raises:
            ValueError: `first` is below 1.

        Example:
            >>> Looks().extended(32, 200).sizes
            (32, 48, 64, 96, 128, 200)
        """
        if first < 1:
            raise ValueError(f"first={first}: the first look needs at least 1 question")
        sizes = list(self.sizes)
        regular = (first * 2**k * share // 2 for k in itertools.count() for share in (2, 3))
        for size in itertools.takewhile(lambda size: size * 1.25 < limit, regular):
            if not sizes or size > 1.25 * sizes[-1]:
                sizes.append(size)
        if not sizes or limit > sizes[-1]:
            sizes.append(limit)
        return Looks(tuple(sizes))


def _shares(sizes: tuple[int, ...]) -> list[float]:
    """Return the share of the error that each look spends."""
    spent = [1 - _LEFT * (sizes[0] / size) ** _POWER for size in sizes]
    return [now - before for before, now in itertools.pairwise([0.0, *spent])]


@functools.lru_cache(maxsize=64)
def _quadrature(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes and weights of Gauss-Legendre quadrature from -1 to 1 with `n` nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return nodes, weights


@functools.lru_cache(maxsize=4096)
def _critical_values(sizes: tuple[int, ...], error: float) -> tuple[float, ...]:
    """Return the two-sided critical value of each look, in standard deviations.

    They are such that, for a sum of independent normal values, the probability of exceeding the
    critical value at a look, and at no earlier look, is the error that the look spends. The density
    of the sums that have not exceeded a critical value yet is integrated numerically from look to
    look.

    Args:
        sizes: the number of questions of each look.
        error: the error of all looks together, such as 0.05.
    """
    values: list[float] = []
    nodes, masses = np.zeros(1), np.ones(1)  # of sums that have not yet exceeded a critical value
    looks = zip(itertools.pairwise([0, *sizes]), _shares(sizes), strict=True)
    for (before, size), share in looks:
        reach, step = math.sqrt(size), math.sqrt(size - before)
        excess = functools.partial(_exceeding, nodes, masses, reach, step, error * share)
        values.append(float(optimize.brentq(excess, 0.0, 40.0)))
        end = values[-1] * reach
        places, weights = _quadrature(max(_NODES, math.ceil(4 * end / step)))
        density = stats.norm.pdf((end * places[:, None] - nodes) / step) / step @ masses
        nodes, masses = end * places, end * weights * density
    return tuple(values)


def _exceeding(
    nodes: Float[np.ndarray, " node"],
    masses: Float[np.ndarray, " node"],
    reach: float,
    step: float,
    spent: float,
    z: float,
) -> float:
    """Return the probability of exceeding a critical value at a look, minus the error `spent`.

    It is the probability that the sum of `_critical_values` is more than `z * reach` away from 0;
    sums that exceeded an earlier critical value do not count. The look's critical value is the `z`
    for which the result is 0.

    Args:
        nodes: values of the sum at the look before, none beyond its critical value.
        masses: the probability mass of each node.
        reach: the standard deviation of the sum at this look.
        step: the standard deviation of what is added to the sum between the two looks.
        spent: the error that the look spends.
        z: a critical value, in standard deviations.
    """
    above = stats.norm.sf((z * reach - nodes) / step)
    below = stats.norm.cdf((-z * reach - nodes) / step)
    return float(masses @ (above + below)) - spent
