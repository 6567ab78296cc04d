"""Tasks: named sources of questions, each of one family (what is tested, such as reasoning).

Importing this package registers the built-in tasks.
"""

from typing import TYPE_CHECKING

from layerroles.lazy_names import lazy_getattr
from layerroles.tasks.base import FAMILIES as FAMILIES
from layerroles.tasks.base import TASKS as TASKS
from layerroles.tasks.base import Example as Example
from layerroles.tasks.base import Grade as Grade
from layerroles.tasks.base import Task as Task
from layerroles.tasks.base import as_tasks as as_tasks
from layerroles.tasks.base import check_one_of as check_one_of
from layerroles.tasks.base import check_whole_number as check_whole_number
from layerroles.tasks.base import has_answer_length as has_answer_length
from layerroles.tasks.base import register as register
from layerroles.tasks.base import task as task
from layerroles.tasks.guessing import Guess as Guess
from layerroles.tasks.guessing import best_choice as best_choice
from layerroles.tasks.guessing import best_guess as best_guess
from layerroles.tasks.knowledge import Facts as Facts
from layerroles.tasks.language_controls import Copying as Copying
from layerroles.tasks.language_controls import PlainText as PlainText
from layerroles.tasks.local import Local as Local
from layerroles.tasks.reasoning import WordProblems as WordProblems
from layerroles.tasks.retrieval import KVRetrieval as KVRetrieval
from layerroles.tasks.retrieval import Needle as Needle
from layerroles.tasks.task_base_classes import Generated as Generated
from layerroles.tasks.task_base_classes import shuffle_choices as shuffle_choices
from layerroles.tasks.vocabulary import NAMES as NAMES
from layerroles.tasks.vocabulary import NOUNS as NOUNS

__all__ = [
    "FAMILIES",
    "TASKS",
    "Copying",
    "Example",
    "Facts",
    "Grade",
    "KVRetrieval",
    "LmEval",
    "Local",
    "Needle",
    "PlainText",
    "Task",
    "WordProblems",
    "register",
    "task",
]

# The task `lm_eval` is defined in a package that imports this one: import it on first use.
TASKS.register_module("lm_eval", "layerroles.harness.tasks")

# The audit and the harness are imported when they are first used.
if TYPE_CHECKING:
    from layerroles.harness import LmEval as LmEval
    from layerroles.tasks.audit import Audit as Audit
    from layerroles.tasks.audit import audit_task as audit_task
else:
    __getattr__ = lazy_getattr(__name__)
