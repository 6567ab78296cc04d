"""Results of sweeps: effects, harm, agreement of protocols, and the comparison of two runs.

    effect = mean over examples of (score under the condition - score of the intact model)
    harm   = -effect / (intact - chance)

Here `intact` is the intact model's mean score over the same examples, and `chance` the score of
guessing. A negative effect means that the ablation hurts. A harm of 1 means that the whole skill
above chance is lost, a negative harm that the ablation helps.
"""

from layerroles.notebook_display import detectable_line as detectable_line
from layerroles.results.comparison import Comparison as Comparison
from layerroles.results.comparison import compare as compare
from layerroles.results.condition_verdicts import AFTER_FIRST as AFTER_FIRST
from layerroles.results.condition_verdicts import NOT_MEASURABLE as NOT_MEASURABLE
from layerroles.results.condition_verdicts import NOT_MEASURED as NOT_MEASURED
from layerroles.results.condition_verdicts import Decision as Decision
from layerroles.results.condition_verdicts import ablations_asked as ablations_asked
from layerroles.results.condition_verdicts import decisions_of as decisions_of
from layerroles.results.condition_verdicts import describe_answers as describe_answers
from layerroles.results.condition_verdicts import describe_decisions as describe_decisions
from layerroles.results.condition_verdicts import drops_by_half as drops_by_half
from layerroles.results.condition_verdicts import find_deferred as find_deferred
from layerroles.results.condition_verdicts import find_waiting as find_waiting
from layerroles.results.condition_verdicts import group_by_family as group_by_family
from layerroles.results.condition_verdicts import harm_where_asked as harm_where_asked
from layerroles.results.condition_verdicts import judge as judge
from layerroles.results.condition_verdicts import mean_harm as mean_harm
from layerroles.results.condition_verdicts import verdict_levels as verdict_levels
from layerroles.results.effects import ambiguous_rows as ambiguous_rows
from layerroles.results.effects import check_unambiguous as check_unambiguous
from layerroles.results.effects import clustered_p as clustered_p
from layerroles.results.effects import estimate_paired_effect as estimate_paired_effect
from layerroles.results.effects import score_interval as score_interval
from layerroles.results.equivalent_ablations import BUILT_IN as BUILT_IN
from layerroles.results.equivalent_ablations import mechanisms as mechanisms
from layerroles.results.matching import Match as Match
from layerroles.results.matching import match as match
from layerroles.results.protocol_comparison import CellPair as CellPair
from layerroles.results.protocol_comparison import pairs_of as pairs_of
from layerroles.results.read_run_folder import EXAMPLE as EXAMPLE
from layerroles.results.read_run_folder import ROW as ROW
from layerroles.results.read_run_folder import check_not_cut_off as check_not_cut_off
from layerroles.results.read_run_folder import read_manifest as read_manifest
from layerroles.results.result import SweepResult as SweepResult
from layerroles.results.result import cells_of as cells_of
from layerroles.results.result import check_result as check_result
from layerroles.results.result import conditions_of as conditions_of
from layerroles.results.result_loading import deferred_names as deferred_names
from layerroles.results.result_loading import read as read
from layerroles.results.task_protocol_cells import INTACT as INTACT
from layerroles.results.task_protocol_cells import Cell as Cell
from layerroles.results.task_protocol_cells import ablates_tokens as ablates_tokens
from layerroles.results.task_protocol_cells import nearer_of_both_chances as nearer_of_both_chances
from layerroles.results.task_protocol_cells import records as records
from layerroles.results.verdict_thresholds import CRITICAL as CRITICAL
from layerroles.results.verdict_thresholds import REGIONS as REGIONS
from layerroles.results.verdict_thresholds import SPARE as SPARE
from layerroles.results.verdict_thresholds import UNDECIDED as UNDECIDED
from layerroles.results.verdict_thresholds import count_needed as count_needed
from layerroles.results.verdict_thresholds import judge_interval as judge_interval
