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
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from layerroles.errors import InputError
from layerroles.tasks.base import FAMILIES, Example, Task, register
from layerroles.tasks.harness import check, family_of, filters, members, quiet, refuse_worse, told
from layerroles.tasks.parameters import one_of, whole

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

    Raises:
        InputError: a folder that does not exist, lm-eval is missing or has no such task, its data
            cannot be had, or a group whose members are asked in different ways.

    Example:
        arc = lr.task("lm_eval:arc_easy", num_fewshot=5)
        arc.examples(limit=8, seed=0)
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
        if isinstance(self.chance, str):  # of a label
            object.__setattr__(self, "chance", float(self.chance))
        named = self.family != _OF_THE_NAME
        if not named:
            object.__setattr__(self, "family", family_of(self.task, tell=False))
        one_of(self.name, "family", self.family, FAMILIES)
        self._check_members()
        if not named:
            family_of(self.task)  # says what it is counted as, once there is such a task

    def _check_members(self) -> None:
        for member in self.members.values():
            check(member, self.label)
            for option, known in (("metric", member.aggregation()), ("filter", filters(member))):
                if getattr(self, option):
                    one_of(self.label, option, getattr(self, option), known)
            if self.metric:
                refuse_worse(member, self.metric)
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
        if self.family not in (_OF_THE_NAME, family_of(self.task, tell=False)):
            given.append(f"family={self.family}")
        if not given:
            return f"{self.name}:{self.task}"
        return f"{self.name}[{','.join([f'task={self.task}', *given])}]"

    @functools.cached_property
    def members(self) -> dict[str, Any]:
        """lm-eval's own task objects by name; one, or those of the group or tag."""
        return members(
            self.task,
            num_fewshot=self.num_fewshot,
            include_path=self.include_path,
            data=self.data,
        )

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

    def instances(self, limit: int, template: Any = None, key: str = "") -> dict[str, list[Any]]:
        """lm-eval's requests for the first `limit` documents, by example id.

        Args:
            limit: documents.
            template: renders a list of messages as a text (`AblatedLM.apply_chat_template`); None
                asks without a chat template.
            key: names the template; requests are built once for each.
        """
        built: dict[str, dict[str, list[Any]]] = self._built
        ids = [f"{name}/{place}" for name, place, _ in self.documents(limit)]
        if not set(ids) <= set(built.get(key, {})):
            built[key] = self._build(limit, template)
        return {id: built[key][id] for id in ids}

    @functools.cached_property
    def _built(self) -> dict[str, dict[str, list[Any]]]:
        return {}

    def _build(self, limit: int, template: Any) -> dict[str, list[Any]]:
        counts: dict[str, int] = {}
        for name, _, _ in self.documents(limit):
            counts[name] = counts.get(name, 0) + 1
        found: dict[str, list[Any]] = {}
        for name, n in counts.items():
            member = self.members[name]
            # Shots are drawn one document after the other.
            member.set_fewshot_seed(self.fewshot_seed)
            shots = member.config.num_fewshot or 0
            with quiet(), told(name, f"cannot make its prompts, with {shots} worked examples"):
                member.build_all_requests(
                    limit=n,
                    apply_chat_template=template is not None,
                    fewshot_as_multiturn=template is not None,
                    chat_template=template,
                )
            for instance in member.instances:
                found.setdefault(f"{name}/{instance.doc_id}", []).append(instance)
        for instances in found.values():
            instances.sort(key=lambda instance: instance.idx)
        return found

    def place(self, examples: Sequence[Example]) -> int:
        """How many documents from the first on have these examples among them.

        Raises:
            InputError: an example that is not of this task.
        """
        wanted = {example.id for example in examples}
        limit = len(examples)
        while True:
            there = [f"{name}/{place}" for name, place, _ in self.documents(limit)]
            if wanted <= set(there):
                return limit
            if len(there) < limit:
                unknown = sorted(wanted - set(there))[0]
                raise InputError(f"task {self.label!r} has no example {unknown!r}")
            limit *= 2

    def examples(self, limit: int, seed: int) -> list[Example]:
        """The first `limit` documents; the seed changes nothing.

        Raises:
            InputError: there are none.
        """
        found = self.instances(limit)
        if not found:
            raise InputError(f"task {self.label!r} has no example")
        return [self._example(id, instances) for id, instances in found.items()]

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Contexts of the last `limit` documents, the last one first."""
        share = -(-limit // len(self.members))
        contexts = []
        for name, member in self.members.items():
            member.set_fewshot_seed(self.fewshot_seed)
            docs = member.eval_docs
            shots = member.config.num_fewshot or 0
            with told(name, f"cannot make its prompts, with {shots} worked examples"):
                for place in range(len(docs) - 1, max(-1, len(docs) - 1 - share), -1):
                    context = member.fewshot_context(docs[place], num_fewshot=shots)
                    contexts.append(context if isinstance(context, str) else context[0])
        return contexts[:limit]

    def share_right(self, example: Example) -> float | None:
        """Which share of an example's choices is right; None where the task scores by rules."""
        member = self.member(example)
        if callable(member.config.process_results):
            return None
        if member.multiple_target:
            doc = self.instances(self.place([example]))[example.id][0].doc
            right = member.doc_to_target(doc)
            return len(set(right)) / len(example.choices)
        return 1 / len(example.choices)

    def member_name(self, example: Example) -> str:
        """The name of the lm-eval task that an example is of."""
        return example.id.rpartition("/")[0]

    def member(self, example: Example) -> Any:
        """The lm-eval task that an example is of."""
        return self.members[self.member_name(example)]

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
        return Example(
            id=id,
            prompt=arguments[0],
            answer=str(answer).strip(),
            choices=choices,
            question=_digest(doc),
        )


def _digest(doc: Any) -> str:
    """What tells a document from others: tasks of the same documents ask the same questions."""
    text = json.dumps(doc, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _numbered(name: str, member: Any) -> Iterator[tuple[str, int, Any]]:
    """The documents of a member, with its name and their places."""
    for place, doc in enumerate(member.eval_docs):
        yield name, place, doc
