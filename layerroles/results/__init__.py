"""Results of sweeps: effects, harm, agreement of protocols, and the comparison of two runs.

    effect = mean over examples of (score under the condition - score of the intact model)
    harm   = -effect / (intact - chance)

Here `intact` is the intact model's mean score over the same examples, and `chance` the score of
guessing. A negative effect means that the ablation hurts. A harm of 1 means that the whole skill
above chance is lost, a negative harm that the ablation helps.
"""

from layerroles.notebook_display import detectable_line
from layerroles.results.cell_pairs import CellPair, pairs_of
from layerroles.results.cells import CELL, CONDITION, INTACT, Cell, acted, records
from layerroles.results.comparison import Comparison, Match, compare, match
from layerroles.results.condition_verdicts import (
    AFTER_FIRST,
    NOT_MEASURABLE,
    NOT_MEASURED,
    Decision,
    ablations_asked,
    decisions_of,
    describe_answers,
    describe_decisions,
    drops_by_half,
    find_deferred,
    find_waiting,
    judge,
    verdict_levels,
)
from layerroles.results.distinct_ablations import BUILT_IN, mechanisms
from layerroles.results.effects import NUMBERS, ambiguous_rows, check_unambiguous
from layerroles.results.effects import clustered_p as clustered_p
from layerroles.results.effects import estimate_paired_effect as estimate_paired_effect
from layerroles.results.effects import score_interval as score_interval
from layerroles.results.result import SweepResult, cells_of, check_result, conditions_of
from layerroles.results.verdict_thresholds import (
    CRITICAL,
    PARTIAL,
    REGIONS,
    SPARE,
    UNDECIDED,
    count_needed,
    judge_interval,
)

__all__ = [
    "AFTER_FIRST",
    "BUILT_IN",
    "CELL",
    "CONDITION",
    "CRITICAL",
    "INTACT",
    "NOT_MEASURABLE",
    "NOT_MEASURED",
    "NUMBERS",
    "PARTIAL",
    "REGIONS",
    "SPARE",
    "UNDECIDED",
    "Cell",
    "CellPair",
    "Comparison",
    "Decision",
    "Match",
    "SweepResult",
    "ablations_asked",
    "acted",
    "ambiguous_rows",
    "cells_of",
    "check_result",
    "check_unambiguous",
    "clustered_p",
    "compare",
    "conditions_of",
    "count_needed",
    "decisions_of",
    "describe_answers",
    "describe_decisions",
    "detectable_line",
    "drops_by_half",
    "estimate_paired_effect",
    "find_deferred",
    "find_waiting",
    "judge",
    "judge_interval",
    "match",
    "mechanisms",
    "pairs_of",
    "records",
    "verdict_levels",
]
