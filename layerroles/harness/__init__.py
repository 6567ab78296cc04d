"""The only home of lm-evaluation-harness: its tasks in a sweep, and an ablated model in it.

Imported when a task or a protocol of the harness is first asked for: `lm_eval` is an extra.
"""

from layerroles.harness.metrics import lm_eval_metrics as lm_eval_metrics
from layerroles.harness.model import AblatedLM as AblatedLM
from layerroles.harness.protocol import Harness as Harness
from layerroles.harness.tasks import LmEval as LmEval
