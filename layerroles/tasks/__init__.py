"""Named sources of questions, each of one family; importing this registers the package's own."""

import typing

from layerroles.tasks.base import FAMILIES as FAMILIES
from layerroles.tasks.base import TASKS as TASKS
from layerroles.tasks.base import Example as Example
from layerroles.tasks.base import Grade as Grade
from layerroles.tasks.base import Task as Task
from layerroles.tasks.base import register as register
from layerroles.tasks.base import task as task
from layerroles.tasks.knowledge import Facts as Facts
from layerroles.tasks.language import Copying as Copying
from layerroles.tasks.lm_eval import LmEval as LmEval
from layerroles.tasks.local import Local as Local
from layerroles.tasks.needle import Needle as Needle
from layerroles.tasks.reasoning import WordProblems as WordProblems
from layerroles.tasks.retrieval import KVRetrieval as KVRetrieval
from layerroles.tasks.texts import PlainText as PlainText

if typing.TYPE_CHECKING:
    from layerroles.tasks.audit import Audit as Audit
    from layerroles.tasks.audit import audit_task as audit_task
else:

    def __getattr__(name: str) -> object:
        """Import the audit when it is first used (PEP 562): pandas and scipy take their time."""
        if name not in ("Audit", "audit_task"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from layerroles.tasks import audit

        return getattr(audit, name)
