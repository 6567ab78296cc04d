"""Results of sweeps: effects, harm, agreement of protocols, and the comparison of two runs.

    effect = mean over examples of (score under the condition - score of the intact model)
    harm   = -effect / (intact - chance)

Both are computed over the same examples. A negative effect means that the ablation hurts. A harm of
1 means that the whole skill above chance is lost, a negative harm that the ablation helps.
"""

from layerroles.display import detectable_line
from layerroles.results.agreement import CellPair, pairs_of
from layerroles.results.cells import CELL, CONDITION, INTACT, Cell, acted, records
from layerroles.results.comparison import Comparison, Match, compare, match
from layerroles.results.distinct_ablations import BUILT_IN, mechanisms
from layerroles.results.effects import NUMBERS, refuse_twins, twins
from layerroles.results.effects import clustered_p as clustered_p
from layerroles.results.effects import estimate_paired_effect as estimate_paired_effect
from layerroles.results.result import SweepResult, cells_of, check_result

__all__ = [
    "BUILT_IN",
    "CELL",
    "CONDITION",
    "INTACT",
    "NUMBERS",
    "Cell",
    "CellPair",
    "Comparison",
    "Match",
    "SweepResult",
    "acted",
    "cells_of",
    "check_result",
    "clustered_p",
    "compare",
    "detectable_line",
    "estimate_paired_effect",
    "match",
    "mechanisms",
    "pairs_of",
    "records",
    "refuse_twins",
    "twins",
]
