"""Sweeps: ask the same questions under every condition, and store the answers in a run folder."""

from typing import TYPE_CHECKING

from layerroles.lazy_names import lazy_getattr

if TYPE_CHECKING:
    from layerroles.sweep.claim_robustness_sweeps import robustness as robustness
    from layerroles.sweep.estimation import Estimate as Estimate
    from layerroles.sweep.estimation import TaskEstimate as TaskEstimate
    from layerroles.sweep.estimation import estimate as estimate
    from layerroles.sweep.result_subset import name_in_result as name_in_result
    from layerroles.sweep.result_subset import select_asked as select_asked
    from layerroles.sweep.status import Status as Status
    from layerroles.sweep.status import describe_unfinished as describe_unfinished
    from layerroles.sweep.status import read_status as read_status
    from layerroles.sweep.stopping_rule import Decided as Decided
    from layerroles.sweep.sweep import Sweep as Sweep
    from layerroles.sweep.text_harm_map import layer_strips as layer_strips
    from layerroles.sweep.text_harm_map import strip_lines as strip_lines
else:
    __getattr__ = lazy_getattr(__name__)
