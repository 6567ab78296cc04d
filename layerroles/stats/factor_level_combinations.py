"""Fractional factorial designs: which combinations of the factors' levels to measure.

Four templates, two numbers of shots, two kinds of ablation and two dtypes have 32 combinations.
Half of them are enough to estimate each factor's main effect, if the half is balanced: every level
occurs equally often, and so does every pair of levels of two factors (an orthogonal array of
strength 2; Plackett and Burman, Biometrika 33:305, 1946). Each of 16 runs (combinations to measure)
is a vector of four bits. The level of a two-level factor in a run is the sum, modulo 2, of some of
these bits; a nonzero vector over GF(2) says which bits. A factor of four levels uses two such
vectors and their sum; the three are called a line. Factors that use different vectors are
orthogonal (Addelman, Technometrics 4:21, 1962). Interactions of factors are not estimated.

    >>> fractional_factorial([4, 2, 2, 2])[:3]
    [(0, 0, 0, 0), (2, 0, 0, 1), (1, 0, 0, 0)]
"""

import itertools
import math
from collections.abc import Sequence

from layerroles.errors import InputError

_N_RUNS = 16
_MOST_LEVELS = 4
# Five lines, no two of which share a vector; together they hold all 15 nonzero vectors of 4 bits.
_LINES = ((1, 2, 3), (4, 8, 12), (5, 10, 15), (6, 11, 13), (7, 9, 14))


def fractional_factorial(n_levels: Sequence[int]) -> list[tuple[int, ...]]:
    """Return at most 16 combinations to measure, each a tuple with one 0-based level per factor.

    All combinations if there are at most 16 of them, else an orthogonal array of 16. The first
    combination has the first level of every factor. In an orthogonal array, the first level of a
    factor with three levels occurs twice as often as each of the other two. With several such
    factors some combinations may repeat; each is returned once, so there may be fewer than 16, and
    the array is then only about balanced.

    Args:
        n_levels: the number of levels of each factor, 1 or more.

    Raises:
        InputError: there are more than 16 combinations, and a factor has more than four levels or
            there are too many factors for 16 runs.
    """
    if math.prod(n_levels) <= _N_RUNS:
        return list(itertools.product(*(range(n) for n in n_levels)))
    if max(n_levels) > _MOST_LEVELS:
        raise InputError(
            f"a factor with {max(n_levels)} levels is too many for {_N_RUNS} set-ups with other "
            f"factors: use at most {_MOST_LEVELS}"
        )
    vectors = _assign_vectors(n_levels)
    runs = (
        tuple(_level(vectors[at], run) % n for at, n in enumerate(n_levels))
        for run in range(_N_RUNS)
    )
    return list(dict.fromkeys(runs))


def _assign_vectors(n_levels: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the vectors over GF(2) that define the levels of each factor (see the module).

    There are two vectors for a factor of three or four levels, one for two levels, none for one. A
    factor of two levels gets, if possible, a vector that is not the sum of vectors of two other
    factors, so that its main effect is not confounded with their interaction.
    """
    lines = iter(_LINES)
    assigned: dict[int, tuple[int, ...]] = {}
    owner: dict[int, int] = {}
    for at in sorted(range(len(n_levels)), key=lambda at: (n_levels[at] < 3, at)):
        if n_levels[at] < 2:
            assigned[at] = ()
            continue
        line: tuple[int, ...]
        if n_levels[at] > 2:
            line = next(lines, ())
        else:
            free = [vector for vector in range(1, _N_RUNS) if vector not in owner]
            mixed = {
                one ^ two
                for one, two in itertools.combinations(owner, 2)
                if owner[one] != owner[two]
            }
            line = tuple([vector for vector in free if vector not in mixed] or free)[:1]
        assigned[at] = line[:2]
        if not line:
            raise InputError(
                f"{len(n_levels)} factors of {', '.join(map(str, n_levels))} levels are too many "
                f"for {_N_RUNS} set-ups: leave a factor or levels out"
            )
        owner |= dict.fromkeys(line, at)
    return [assigned[at] for at in range(len(n_levels))]


def _level(vectors: Sequence[int], run: int) -> int:
    level = 0
    for vector in vectors:
        level = 2 * level + (vector & run).bit_count() % 2
    return level
