"""Connect to lm-evaluation-harness: its tasks in a sweep, and an ablated model for its functions.

It is imported when a task or protocol of the harness is first used, since `lm_eval` is an extra.
"""

from layerroles.harness.metrics import lm_eval_metrics as lm_eval_metrics
from layerroles.harness.model import AblatedLM as AblatedLM
from layerroles.harness.protocol import Harness as Harness
from layerroles.harness.tasks import LmEval as LmEval
