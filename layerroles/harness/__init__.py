"""lm-evaluation-harness (lm-eval): run its tasks in a sweep, or pass an ablated model to it.

This is the only package that imports `lm_eval`, an optional dependency. Functions import it when
they are called; the module of `AblatedLM`, whose base class is lm-eval's, is imported when that
class is first used (PEP 562).
"""

import typing
from importlib import import_module

from layerroles.harness.aggregation import lm_eval_metrics as lm_eval_metrics
from layerroles.harness.protocol import Harness as Harness
from layerroles.harness.tasks import LmEval as LmEval

if typing.TYPE_CHECKING:
    from layerroles.harness.model import AblatedLM as AblatedLM
else:

    def __getattr__(name: str) -> object:
        if name != "AblatedLM":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module("layerroles.harness.model").AblatedLM
