"""Ablate any part of a language model and see which depth does what, with error bars.

Load a model, choose what to ablate, ask the same questions under one or more protocols (ways to
ask a question and to score the answer), and read which layers each skill needs::

    import layerroles as lr

    model = lr.load("smollm2-135m")
    conditions = lr.each_layer(model, lr.Skip())
    tasks = [lr.task("kv_retrieval"), lr.task("facts"), lr.task("word_problems")]
    sweep = lr.Sweep(model, tasks, conditions, protocols=["generation"], limit=32)
    print(lr.localize(sweep.run("runs/first")).verdict)

Every public name is here, and each is imported from its module only when it is first used, so that
`import layerroles` is fast.

Example:
    >>> import layerroles
    >>> layerroles.Site(3, "attn")
    Site('L3.attn')
"""

from typing import TYPE_CHECKING

from layerroles.lazy_names import lazy_getattr, modules_of_names

if TYPE_CHECKING:
    from layerroles import figures as figures
    from layerroles import probes as probes
    from layerroles import protocols as protocols
    from layerroles import tasks as tasks
    from layerroles.ablations import Ablation as Ablation
    from layerroles.ablations import Condition as Condition
    from layerroles.ablations import EditContext as EditContext
    from layerroles.ablations import Mean as Mean
    from layerroles.ablations import Noise as Noise
    from layerroles.ablations import Prompt as Prompt
    from layerroles.ablations import Reference as Reference
    from layerroles.ablations import Resample as Resample
    from layerroles.ablations import Skip as Skip
    from layerroles.ablations import Swap as Swap
    from layerroles.ablations import Zero as Zero
    from layerroles.ablations import ablated as ablated
    from layerroles.ablations import ablation as ablation
    from layerroles.ablations import cumulative as cumulative
    from layerroles.ablations import each_head as each_head
    from layerroles.ablations import each_kv_group as each_kv_group
    from layerroles.ablations import each_layer as each_layer
    from layerroles.ablations import each_span as each_span
    from layerroles.ablations import pairs as pairs
    from layerroles.ablations import random_heads as random_heads
    from layerroles.engine import Engine as Engine
    from layerroles.errors import InputError as InputError
    from layerroles.harness import AblatedLM as AblatedLM
    from layerroles.harness import lm_eval_metrics as lm_eval_metrics
    from layerroles.models import load as load
    from layerroles.models import model_folder as model_folder
    from layerroles.models import prepare as prepare
    from layerroles.page import report as report
    from layerroles.plants import planted as planted
    from layerroles.prune import PruningPlan as PruningPlan
    from layerroles.prune import compare_plans as compare_plans
    from layerroles.prune import export as export
    from layerroles.prune import plan_pruning as plan_pruning
    from layerroles.results import Comparison as Comparison
    from layerroles.results import SweepResult as SweepResult
    from layerroles.results import compare as compare
    from layerroles.results import read as read
    from layerroles.roles import HeadSearch as HeadSearch
    from layerroles.roles import Robustness as Robustness
    from layerroles.roles import Roles as Roles
    from layerroles.roles import localize as localize
    from layerroles.roles import probe_agreement as probe_agreement
    from layerroles.roles import rank_stability as rank_stability
    from layerroles.sites import Site as Site
    from layerroles.sweep import Decided as Decided
    from layerroles.sweep import Estimate as Estimate
    from layerroles.sweep import Sweep as Sweep
    from layerroles.sweep import estimate as estimate
    from layerroles.sweep import robustness as robustness
    from layerroles.tasks import Example as Example
    from layerroles.tasks import Task as Task
    from layerroles.tasks import task as task

__version__ = "0.1.0"

_MODULES = ("figures", "probes", "protocols", "tasks")

__all__ = sorted([*modules_of_names(__name__), *_MODULES, "__version__"])

if not TYPE_CHECKING:  # hidden from type checkers, so that they report unknown names
    __getattr__ = lazy_getattr(__name__, _MODULES)


def __dir__() -> list[str]:
    """Return the public names, including those not imported yet."""
    return list(__all__)
