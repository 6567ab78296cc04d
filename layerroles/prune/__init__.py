"""Prune layers: find those that chosen skills need least, and write the smaller checkpoint.

Example:
    plan = plan_pruning(model, drop=2, keep=["reasoning"], path="runs/plan")
    export(model, drop=plan.layers, path="pruned/")
"""

from layerroles.prune.checkpoint import check_empty as check_empty
from layerroles.prune.checkpoint import check_exportable as check_exportable
from layerroles.prune.checkpoint import export as export
from layerroles.prune.layer_search import plan_pruning as plan_pruning
from layerroles.prune.plan import METHODS as METHODS
from layerroles.prune.plan import Candidate as Candidate
from layerroles.prune.plan import PruningPlan as PruningPlan
from layerroles.prune.plan import Step as Step
from layerroles.prune.plan_comparison import compare_plans as compare_plans
