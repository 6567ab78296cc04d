"""Any task of lm-evaluation-harness, asked and scored as it asks and scores.

Its documents become requests by its own templates and few-shot sampler, and the model's answers
become scores by its own filters and metrics (Gao et al., "The Language Model Evaluation Harness").
Only the answering is ours, so that a whole sweep shares its work. A name may be that of a task, of
a group or of a tag; a group is one task here, its members taking turns.

Example:
    task("lm_eval:arc_easy", num_fewshot=5)
    task("lm_eval:mmlu_generative", data="mmlu/")             # a copy of the data set's repository
    task("lm_eval:my_task", include_path="my_tasks/")         # a YAML file of one's own
"""

import functools
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from layerroles.errors import InputError
from layerroles.registry import nearest
from layerroles.tasks.base import FAMILIES, Example, Task, register
from layerroles.tasks.parameters import one_of, whole

log = logging.getLogger(__name__)

OUTPUT_TYPES = ("generate_until", "multiple_choice", "loglikelihood")
# The families of well-known tasks, by how their names begin; the longest beginning counts.
_FAMILIES = MappingProxyType(
    {
        "arc": "knowledge",
        "babi": "retrieval",
        "boolq": "commonsense",
        "commonsense_qa": "commonsense",
        "copa": "commonsense",
        "drop": "retrieval",
        "gsm8k": "reasoning",
        "gsm_plus": "reasoning",
        "hellaswag": "commonsense",
        "hendrycks_math": "reasoning",
        "lambada": "language",
        "leaderboard_math": "reasoning",
        "longbench": "retrieval",
        "mathqa": "reasoning",
        "minerva_math": "reasoning",
        "mmlu": "knowledge",
        "nq_open": "knowledge",
        "openbookqa": "commonsense",
        "piqa": "commonsense",
        "ruler": "retrieval",
        "niah": "retrieval",
        "sciq": "knowledge",
        "social_iqa": "commonsense",
        "squad": "retrieval",
        "triviaqa": "knowledge",
        "truthfulqa": "knowledge",
        "winogrande": "commonsense",
    }
)
_OF_THE_NAME = "of the name"


@register("lm_eval")
@dataclass(frozen=True)
class LmEval(Task):
    """Ask a task, group or tag of lm-evaluation-harness.

    It is asked as lm-eval asks it, whichever protocols a sweep names: by the likelihood of choices
    (`continuation`, or `letter` where the choices are letters), by that of a given text
    (`continuation`), or by `generation`. The first `limit` documents are taken, as by lm-eval's own
    `--limit`, of a group's members in turn.

    Attributes:
        task: its name.
        num_fewshot: worked examples before each question; by default the task's own number.
        include_path: a folder with task files (YAML) of one's own.
        data: a folder with the data set, as its repository on the hub holds it, in its place.
        metric: which of its metrics is the score, as in `acc_norm`; by default the first of `acc`,
            `exact_match` and the others that say that higher is better.
        filter: whose reading of an answer is scored; by default `flexible-extract` if there is one,
            else the first.
        family: which family it belongs to; known for well-known tasks, else `language`.
        fewshot_seed: of the worked examples; lm-eval's default.
        chance: the mean score of guessing; by default one over the number of choices where there
            are choices, and estimated by shuffling answers where one is written.
    """

    argument: ClassVar[str] = "task"

    task: str
    num_fewshot: int | None = None
    include_path: str = ""
    data: str = ""
    metric: str = ""
    filter: str = ""
    family: str = _OF_THE_NAME
    fewshot_seed: int = 1234
    chance: float | None = None

    def __post_init__(self) -> None:
        """Load the task.

        Raises:
            InputError: it is unknown, its data cannot be reached, or it is of a kind that cannot be
                asked here.
        """
        if self.num_fewshot is not None:
            whole(self.name, "num_fewshot", self.num_fewshot, 0, 64)
        for option in ("include_path", "data"):
            folder = getattr(self, option)
            if folder and not Path(folder).is_dir():
                raise InputError(f"task {self.label!r}: {option}={folder!r} is not a folder")
        if self.family == _OF_THE_NAME:
            object.__setattr__(self, "family", _family(self.task))
        one_of(self.name, "family", self.family, FAMILIES)
        for member in self.members.values():
            _check(member, self.label)
            for option, known in (("metric", member.aggregation()), ("filter", _filters(member))):
                if getattr(self, option):
                    one_of(self.label, option, getattr(self, option), known)
        types = {member.OUTPUT_TYPE for member in self.members.values()}
        if len(types) > 1:
            raise InputError(
                f"lm-eval group {self.task!r} mixes {', '.join(sorted(types))}: ask its members "
                f"({', '.join(list(self.members)[:3])}, ...) as tasks of their own"
            )

    @property
    def label(self) -> str:
        """`lm_eval:NAME`, or with brackets where more is given; not where the data lie."""
        defaults = {
            name: field.default
            for name, field in self.__dataclass_fields__.items()
            if name not in ("task", "family", "include_path", "data")
        }
        given = [
            f"{name}={getattr(self, name)}"
            for name, default in defaults.items()
            if getattr(self, name) != default
        ]
        if self.family not in (_OF_THE_NAME, _family(self.task, tell=False)):
            given.append(f"family={self.family}")
        if not given:
            return f"{self.name}:{self.task}"
        return f"{self.name}[{','.join([f'task={self.task}', *given])}]"

    @functools.cached_property
    def members(self) -> dict[str, Any]:
        """lm-eval's own task objects by name; one, or those of the group or tag."""
        return _loaded(self)

    @property
    def output_type(self) -> str:
        """One of `OUTPUT_TYPES`."""
        kind: str = next(iter(self.members.values())).OUTPUT_TYPE
        return kind

    def documents(self, limit: int) -> list[tuple[str, int, Any]]:
        """The first `limit` documents: the member's name, the place in its data, the document."""
        turns = [_numbered(name, member) for name, member in self.members.items()]
        found: list[tuple[str, int, Any]] = []
        while turns and len(found) < limit:
            still = []
            for turn in turns:
                one = next(turn, None)
                if one is not None and len(found) < limit:
                    found.append(one)
                    still.append(turn)
            turns = still
        return found

    def instances(self, limit: int, template: Any = None) -> dict[str, list[Any]]:
        """lm-eval's requests for the first `limit` documents, by example id.

        Args:
            limit: documents.
            template: renders a list of messages as a text (`AblatedLM.apply_chat_template`); None
                asks without a chat template.
        """
        counts: dict[str, int] = {}
        for name, _, _ in self.documents(limit):
            counts[name] = counts.get(name, 0) + 1
        found: dict[str, list[Any]] = {}
        for name, n in counts.items():
            member = self.members[name]
            # Shots are drawn one document after the other.
            member.set_fewshot_seed(self.fewshot_seed)
            with _quiet():
                try:
                    member.build_all_requests(
                        limit=n,
                        apply_chat_template=template is not None,
                        fewshot_as_multiturn=template is not None,
                        chat_template=template,
                    )
                except (ValueError, AssertionError, KeyError) as error:  # too few shots, say
                    raise InputError(
                        f"lm-eval task {name!r} cannot make its prompts, with "
                        f"{member.config.num_fewshot} worked examples: {_first_line(error)}"
                    ) from error
            for instance in member.instances:
                found.setdefault(f"{name}/{instance.doc_id}", []).append(instance)
        return {
            id: sorted(found[id], key=lambda instance: instance.idx)
            for id in (f"{name}/{place}" for name, place, _ in self.documents(limit))
        }

    def examples(self, limit: int, seed: int) -> list[Example]:
        """The first `limit` documents; the seed changes nothing."""
        found = self.instances(limit)
        if not found:
            raise InputError(f"task {self.label!r} has no example")
        return [self._example(id, instances) for id, instances in found.items()]

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Contexts of the last `limit` documents, the last one first."""
        share = -(-limit // len(self.members))
        contexts = []
        for member in self.members.values():
            member.set_fewshot_seed(self.fewshot_seed)
            docs = member.eval_docs
            for place in range(len(docs) - 1, max(-1, len(docs) - 1 - share), -1):
                shots = member.config.num_fewshot or 0
                context = member.fewshot_context(docs[place], num_fewshot=shots)
                contexts.append(context if isinstance(context, str) else context[0])
        return contexts[:limit]

    def member(self, example: Example) -> Any:
        """The lm-eval task that an example is of."""
        return self.members[example.id.rpartition("/")[0]]

    def _example(self, id: str, instances: Sequence[Any]) -> Example:
        member = self.members[id.rpartition("/")[0]]
        doc, arguments = instances[0].doc, instances[0].arguments
        choices: tuple[str, ...] = ()
        if member.config.doc_to_choice is not None:
            choices = tuple(map(str, member.doc_to_choice(doc)))
        answer = member.doc_to_text(doc) if member.multiple_input else member.doc_to_target(doc)
        if isinstance(answer, list | tuple) and answer:
            answer = answer[0]
        if isinstance(answer, int) and 0 <= answer < len(choices):
            answer = choices[answer]
        return Example(id=id, prompt=arguments[0], answer=str(answer).strip(), choices=choices)


def _numbered(name: str, member: Any) -> Iterator[tuple[str, int, Any]]:
    """The documents of a member, with its name and their places."""
    for place, doc in enumerate(member.eval_docs):
        yield name, place, doc


def _family(name: str, *, tell: bool = True) -> str:
    known = [begin for begin in _FAMILIES if name.startswith(begin)]
    if known:
        return _FAMILIES[max(known, key=len)]
    if tell:
        log.warning("lm-eval task %r is counted as language: give family= to change that", name)
    return "language"


@functools.cache
def _manager(include_path: str) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path or None)


def _loaded(task: LmEval) -> dict[str, Any]:
    manager = _manager(task.include_path)
    if task.task not in manager.all_tasks:
        near = nearest(task.task, manager.all_tasks)
        hint = f"did you mean {near!r}? " if near else ""
        raise InputError(
            f"unknown lm-eval task {task.task!r}: {hint}lm-eval knows {len(manager.all_tasks)} "
            f"(lm-eval ls tasks); tasks of your own are found with include_path=FOLDER"
        )
    with _quiet():
        try:
            made: Any = task.task
            if task.data:  # what `load` calls for a name, which takes no other data
                made = manager._factory.build(
                    manager.task_index[task.task],
                    overrides={"dataset_path": task.data},
                    registry=manager.task_index,
                )
            made = made if isinstance(made, list) else [made]
            members: dict[str, Any] = manager.load(made)["tasks"]
        except Exception as error:
            raise InputError(_why(task, error)) from error
    if not members:
        raise InputError(f"lm-eval group {task.task!r} has no task")
    for member in members.values():
        fixed = member.config.num_fewshot
        # lm-eval never overrides a number of shots that a task sets to 0 itself.
        if task.num_fewshot is not None and fixed != 0:
            member.set_config("num_fewshot", task.num_fewshot)
        elif fixed is None:
            member.set_config("num_fewshot", 0)
    return dict(sorted(members.items()))


def _why(task: LmEval, error: Exception) -> str:
    """One line on why lm-eval could not load a task."""
    import datasets

    reason = _first_line(error)
    unreachable = (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, OSError)
    if isinstance(error, unreachable):
        return (
            f"lm-eval task {task.task!r}: its data set cannot be reached ({reason}): give a local "
            f"copy of its repository as data=FOLDER, or write a task file of your own with "
            f"dataset_path: json and dataset_kwargs: {{data_files: ...}} and give its folder as "
            f"include_path=FOLDER"
        )
    if isinstance(error, KeyError):
        return f"lm-eval task {task.task!r}: its data set has no split or field {reason}"
    return f"lm-eval task {task.task!r} cannot be loaded: {type(error).__name__}: {reason}"


def _check(member: Any, label: str) -> None:
    """Check that a task can be asked here.

    Raises:
        InputError: its output type, repeats, sampling or missing shots do not allow it.
    """
    name = member.task_name
    if not hasattr(member, "fewshot_cfg"):
        raise InputError(f"lm-eval task {name!r} is written in Python: only task files are asked")
    if member.OUTPUT_TYPE not in OUTPUT_TYPES:
        raise InputError(
            f"lm-eval task {name!r} is of output type {member.OUTPUT_TYPE!r}, which is not "
            f"supported: supported are {', '.join(OUTPUT_TYPES)}"
        )
    if getattr(member, "MULTIMODAL", False):
        raise InputError(f"lm-eval task {name!r} shows pictures or sound: only texts are asked")
    if getattr(member, "UNSAFE_CODE", False):
        raise InputError(f"lm-eval task {name!r} runs code that the model writes: it is not asked")
    if (member.config.repeats or 1) > 1:
        raise InputError(
            f"lm-eval task {name!r} asks each question {member.config.repeats} times: answers are "
            f"greedy here, so all would be the same"
        )
    shots = member.config.num_fewshot or 0
    if shots and not _has_shots(member):
        raise InputError(
            f"task {label!r}: num_fewshot={shots}, and lm-eval task {name!r} has no split to take "
            f"worked examples from: use num_fewshot=0"
        )
    if member.OUTPUT_TYPE == "generate_until":
        generation_options(member.config.generation_kwargs, f"lm-eval task {name!r}")


def _filters(member: Any) -> list[str]:
    return [str(one.name) for one in member._filters]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _has_shots(member: Any) -> bool:
    config = member.config
    shots = member.fewshot_cfg
    named = shots.split, config.training_split, config.validation_split
    return any(split is not None for split in named) or shots.samples is not None


def generation_options(given: Any, whose: str) -> dict[str, object]:
    """`until` and `max_gen_toks` of lm-eval's generation arguments; answers are greedy.

    Raises:
        InputError: they ask for sampling or for beams.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    options = normalize_gen_kwargs(dict(given or {}))
    if options.get("do_sample") or (options.get("num_beams") or 1) > 1:
        raise InputError(f"{whose} asks for sampling or beams: answers are greedy here")
    until = [text for text in options["until"] if text]
    return {"until": until, "max_gen_toks": options["max_gen_toks"]}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's notes and progress bars, and those of its data sets, from the terminal."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
