"""Designs are balanced: each level, and each pair of levels, as often as the others."""

import itertools
import math
from collections import Counter

import pytest

from layerroles.errors import InputError
from layerroles.stats import fractional_factorial

BALANCED = [
    [4, 2, 2, 2],
    [2, 4, 2, 4],
    [4, 4, 4],
    [4] * 5,
    [2] * 5,
    [2] * 15,
    [4] + [2] * 12,
    [4, 1, 2, 2, 2],
    [3, 5],
    [2, 2],
]


@pytest.mark.parametrize("n_levels", BALANCED, ids=str)
def test_every_pair_of_levels_occurs_equally_often(n_levels: list[int]) -> None:
    runs = fractional_factorial(n_levels)
    assert len(runs) == len(set(runs)) == min(16, math.prod(n_levels))
    assert runs[0] == (0,) * len(n_levels)
    for one, two in itertools.combinations(range(len(n_levels)), 2):
        counts = Counter((run[one], run[two]) for run in runs)
        assert len(counts) == n_levels[one] * n_levels[two]
        assert len(set(counts.values())) == 1


def test_three_levels_are_orthogonal_with_the_first_twice_as_often() -> None:
    runs = fractional_factorial([3, 2, 2, 2])
    assert Counter(run[0] for run in runs) == {0: 8, 1: 4, 2: 4}
    for factor in (1, 2, 3):
        assert Counter((run[0], run[factor]) for run in runs) == {
            (level, other): 4 if level == 0 else 2 for level in range(3) for other in range(2)
        }


def test_no_combination_is_returned_twice() -> None:
    for n_levels in ([3, 3, 3], [3, 3, 2], [3, 3, 4], [3, 3, 3, 3]):
        runs = fractional_factorial(n_levels)
        assert len(runs) == len(set(runs)) > 12
        for one, two in itertools.combinations(range(len(n_levels)), 2):
            assert len({(run[one], run[two]) for run in runs}) == n_levels[one] * n_levels[two]


def test_a_main_effect_is_no_interaction_of_two_others_where_that_is_possible() -> None:
    runs = fractional_factorial([4, 2, 2, 2])
    for one, two, three in itertools.permutations((1, 2, 3)):
        interaction = [run[one] ^ run[two] for run in runs]
        assert Counter(zip(interaction, [run[three] for run in runs], strict=True)) == {
            pair: 4 for pair in itertools.product((0, 1), repeat=2)
        }


@pytest.mark.parametrize(
    ("n_levels", "words"),
    [([5, 4], "5 levels is too many"), ([4] * 6, "6 factors"), ([2] * 16, "leave a factor")],
)
def test_what_does_not_fit_is_refused(n_levels: list[int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        fractional_factorial(n_levels)
