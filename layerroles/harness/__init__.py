"""lm-evaluation-harness (lm-eval): run its tasks in a sweep, or pass an ablated model to it.

This is the only package that imports `lm_eval`, an optional dependency. Functions import it when
they are called; the module of `AblatedLM`, whose base class is lm-eval's, is imported when that
class is first used.
"""

from typing import TYPE_CHECKING

from layerroles.lazy_names import lazy_getattr

if TYPE_CHECKING:
    from layerroles.harness.aggregation import lm_eval_metrics as lm_eval_metrics
    from layerroles.harness.model import AblatedLM as AblatedLM
    from layerroles.harness.protocol import Harness as Harness
    from layerroles.harness.tasks import LmEval as LmEval
else:
    __getattr__ = lazy_getattr(__name__)
