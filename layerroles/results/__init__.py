"""What sweeps give back, and what they say: effects, harm, agreement of protocols, two runs.

    effect = mean over examples of (score under the condition - score of the intact model)
    harm   = -effect / (intact - chance)

Both are taken over the same examples. A negative effect means that the ablation hurts; a harm of 1
that the whole skill above chance is gone, a negative harm that the ablation helps.
"""

from layerroles.results.cells import CELL, CONDITION, INTACT, acted, records
from layerroles.results.comparison import Comparison, compare
from layerroles.results.effects import NUMBERS
from layerroles.results.result import SweepResult, check_result
from layerroles.results.settings import refuse_twins, twins
from layerroles.results.shown import detectable_line

__all__ = [
    "CELL",
    "CONDITION",
    "INTACT",
    "NUMBERS",
    "Comparison",
    "SweepResult",
    "acted",
    "check_result",
    "compare",
    "detectable_line",
    "records",
    "refuse_twins",
    "twins",
]
