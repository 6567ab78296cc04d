"""What a task is: a named source of questions, all of one family.

A task knows its questions, how its answers are recognized in free text and how long an answer may
be. It does not know how a question is asked: that is the protocol's business, so that one question
can be asked in several ways.

    >>> from layerroles.tasks import task
    >>> task("kv_retrieval", pairs=4).label
    'kv_retrieval@2[pairs=4]'
"""

import dataclasses
import hashlib
import json
import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from layerroles import display
from layerroles.errors import InputError
from layerroles.registry import Registry, label_of, read_label

FAMILIES = ("retrieval", "knowledge", "reasoning", "commonsense", "language")
_SHORT = reprlib.Repr()
_SHORT.maxstring = 60


@dataclass(frozen=True, repr=False)
class Example:
    """One question.

    Attributes:
        id: names the example within its task; the same question has the same id everywhere.
        prompt: the question as it is asked, up to where the answer follows after one space.
        answer: the right answer, without the leading space.
        choices: possible answers, the right one among them; empty if there are none.
        evidence: character spans `[start, end)` of `prompt` that hold what the answer needs.
        solution: a worked solution that ends in the answer; shown in the worked examples of
            protocols that generate, and what `chain_logprob` scores. Empty where there is none.
        shots: worked examples shown before the question.
        question: names the question where another task asks it under another id, as a digest of an
            lm-eval document does; empty where the id does.
        aliases: other texts that are accepted as the answer where the model writes it.
        cluster: names what the example shares with others of its task, such as a set of shots or a
            template; examples of one cluster are not independent. Empty where it shares nothing.

    Example:
        >>> import layerroles as lr
        >>> shot = lr.Example(id="1", prompt="2 + 2 =", answer="4")
        >>> lr.Example(id="2", prompt="3 + 5 =", answer="8", shots=(shot,)).context().splitlines()
        ['2 + 2 = 4', '', '3 + 5 =']
    """

    id: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    evidence: tuple[tuple[int, int], ...] = ()
    solution: str = ""
    shots: tuple["Example", ...] = ()
    question: str = ""
    aliases: tuple[str, ...] = ()
    cluster: str = ""

    def __repr__(self) -> str:
        counts = [
            f"{len(self.choices)} choices" if self.choices else "",
            f"{len(self.evidence)} evidence" if self.evidence else "",
            f"{len(self.shots)} shots" if self.shots else "",
        ]
        question = f"{_SHORT.repr(self.prompt)} -> {_SHORT.repr(self.answer)}"
        return f"Example({', '.join(filter(None, [repr(self.id), question, *counts]))})"

    def _repr_html_(self) -> str:
        details = [f"Answer: {self.answer}", f"Choices: {', '.join(self.choices)}"]
        if self.shots:
            details.append(f"Before it stand {len(self.shots)} worked examples: example.shots")
        return display.html_block(
            display.html_paragraph(f"Example {self.id}; what the answer needs is marked"),
            display.html_marked(self.prompt, self.evidence),
            display.html_list(details if self.choices else [details[0], *details[2:]]),
        )

    def context(self, *, worked: bool = False) -> str:
        """The prompt behind its shots; `worked` shows their solutions instead of bare answers."""
        shot_texts = [
            f"{shot.prompt} {shot.solution if worked and shot.solution else shot.answer}"
            for shot in self.shots
        ]
        return "\n\n".join([*shot_texts, self.prompt])


@dataclass(frozen=True)
class Grade:
    """How a generated response was read.

    Attributes:
        strict: the answer stands where and how the worked examples put it.
        flexible: the right answer was given in some form.
        answered: some answer could be read from the response, right or wrong.
        form: the answer, right or wrong, stands where and how the worked examples put theirs; None
            where the task cannot tell that of wrong ones.

    Example:
        >>> from layerroles.tasks import task
        >>> facts = task("facts")
        >>> (example,) = facts.examples(limit=1, seed=0)
        >>> facts.grade(f" {example.answer}.", example)
        Grade(strict=True, flexible=True, answered=True, form=True)
    """

    strict: bool
    flexible: bool
    answered: bool
    form: bool | None = None


@dataclass(frozen=True)
class Task(ABC):
    """A named source of examples. Subclasses are frozen dataclasses; their fields are parameters.

    A subclass sets `family`, and where it has to `until`, `max_gen_toks` and `protocol`, as class
    attributes; a task whose parameters decide makes them fields or properties.

    Class attributes:
        argument: the parameter that stands behind a colon, as the path in `local:FILE.jsonl`.
        version: of the questions and their grading; part of the label from 2 on, so that runs of
            different versions are never mixed.
        grading: the version of the grading alone, for tasks of a user's own questions: a run folder
            that was graded by another is refused.
        packages: distributions whose version decides what the task asks, for a run's manifest.

    Example:
        >>> import layerroles as lr
        >>> task = lr.task("kv_retrieval", pairs=4)
        >>> task.family, task.label, len(task.examples(limit=3, seed=0))
        ('retrieval', 'kv_retrieval@2[pairs=4]', 3)
    """

    argument: ClassVar[str] = ""
    version: ClassVar[int] = 1
    grading: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def family(self) -> str:
        """One of `FAMILIES`."""

    @property
    def protocol(self) -> object | None:
        """The one protocol that this task uses, regardless of a sweep's protocols.

        A label such as `"text_logprob"`, or a `Protocol`, which need not be registered; None for a
        task that is asked under all of the sweep's.
        """
        return None

    @property
    def until(self) -> tuple[str, ...]:
        """Strings that end a generated answer."""
        return ("\n",)

    @property
    def max_gen_toks(self) -> int:
        """Tokens after which a generated answer is cut."""
        return 32

    @abstractmethod
    def examples(self, limit: int, seed: int) -> list[Example]:
        """The first `limit` examples of the task's order under `seed`.

        A larger limit extends the list and changes none of what was there.

        Raises:
            InputError: the task has no example at all.
        """

    @abstractmethod
    def held_out(self, limit: int, seed: int) -> list[str]:
        """Up to `limit` contexts of examples that `examples(..., seed)` never gives.

        They serve as a reference (means of what the model writes on such prompts).
        """

    @property
    def skill(self) -> str:
        """What the questions take, where that is less than the family says; else empty.

        Claims on the family name it, such as "adding numbers" for sums that are called reasoning.
        """
        return ""

    def group(self, example: Example) -> str:
        """The group of an example within the task, such as its relation; empty where it has none.

        Who sees the worked examples knows the group, and so may guess by it.
        """
        return ""

    def candidates(self, example: Example) -> list[str] | None:
        """Texts in the prompt among which one may guess; none where repeating one is the skill.

        None leaves it to the form of the answers to other questions: texts in quotes, numbers, or
        those answers themselves.
        """
        return None

    def n_reserved(self, seed: int) -> int:
        """How many questions `examples(..., seed)` leaves out so that `held_out` has some."""
        return 0

    def grade(self, response: str, example: Example) -> Grade:
        """Read a generated response; the default suits answers that are a short text.

        Strict: the first line is the answer. Flexible: the answer occurs in it as whole words.
        Form: it has no more words than an answer takes.
        """
        return grade_text(response.strip().split("\n", 1)[0], example)

    @property
    def name(self) -> str:
        """The registered name, such as `kv_retrieval`."""
        return TASKS.name_of(type(self))

    @property
    def label(self) -> str:
        """Name, version and every parameter that is not the default: `facts@2[num_fewshot=4]`.

        Version 1 is not named.
        """
        name = f"{self.name}@{self.version}" if self.version > 1 else self.name
        return label_of(name, self)

    def fingerprint(self, limit: int, seed: int) -> str:
        """A hash of the examples asked for: changes when the task's content changes."""
        examples = [dataclasses.asdict(example) for example in self.examples(limit, seed)]
        for example in examples:
            for fields in (example, *example["shots"]):
                # What an example shares with others, and which task asks it too, is no content.
                del fields["question"], fields["cluster"]
                if not fields["aliases"]:  # tasks of an earlier version had none
                    del fields["aliases"]
        text = json.dumps(examples, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


TASKS: Registry[Task] = Registry("task", Task)
register = TASKS.register


def task(name: str, **parameters: object) -> Task:
    """Make a task by its name: `task("kv_retrieval", pairs=20)`, `task("local:questions.jsonl")`.

    A label works too: `task("kv_retrieval[pairs=20]")`, `task("facts@2")`.

    Raises:
        InputError: unknown task or parameter, a value that the task does not take, or another
            version of the task than there is.

    Example:
        >>> import layerroles as lr
        >>> (example,) = lr.task("facts", relations="capital").examples(limit=1, seed=0)
        >>> example.prompt, example.answer
        ('The capital of Uruguay is', 'Montevideo')
    """
    name, label_parameters = read_label("task", name)
    parameters = {**label_parameters, **parameters}
    name, colon, argument = name.partition(":")
    name, at, version = name.partition("@")
    if at and version != str(TASKS[name].version):
        raise InputError(
            f"task {name!r} has version {TASKS[name].version} here, not {version}: runs of another "
            f"version can be read, and not extended"
        )
    if colon:
        if not TASKS[name].argument:
            raise InputError(f"task {name!r} takes nothing behind a colon, not {argument!r}")
        parameters = {TASKS[name].argument: argument, **parameters}
    return TASKS.make(name, parameters)


def as_tasks(given: Iterable[Task]) -> list[Task]:
    """Tasks that a user gave, in their order.

    Raises:
        InputError: one alone, or something that is no task.
    """
    if isinstance(given, str | Task) or not isinstance(given, Iterable):
        raise InputError(f"tasks={given!r} is one, not several: write [{given!r}]")
    tasks = list(given)
    for item in tasks:
        if not isinstance(item, Task):
            raise InputError(f"{item!r} is no task: lr.task({item!r}) makes one")
    return tasks


def grade_text(line: str, example: Example) -> Grade:
    """Read a line as a short text; see `Task.grade`."""
    response, answer = normalize_text(line), normalize_text(example.answer)
    return Grade(
        strict=response == answer,
        flexible=re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", response) is not None,
        answered=bool(response),
        form=is_short(line, example),
    )


def is_short(line: str, example: Example) -> bool:
    """Whether a line has no more words than the longest of answer, choices and shots' answers."""
    answers = [example.answer, *example.choices, *(shot.answer for shot in example.shots)]
    return 0 < len(line.split()) <= max(len(text.split()) for text in answers)


def normalize_text(text: str) -> str:
    """Lower case, without surrounding quotes, full stops and repeated white space."""
    return " ".join(text.split()).strip(" .\"'`").casefold()


def check_whole_number(
    name: str, parameter: str, value: object, low: int, high: int, *, kind: str = "task"
) -> None:
    """Require a whole number from `low` to `high`, both included.

    Raises:
        InputError: it is not one.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(
            f"{kind} {name!r}: {parameter}={value!r} is not a whole number from {low} to {high}"
        )


def check_one_of(
    name: str, parameter: str, value: object, allowed: Iterable[str], *, kind: str = "task"
) -> None:
    """Require one of the known words.

    Raises:
        InputError: it is none of them.
    """
    names = list(allowed)
    if value not in names:
        raise InputError(
            f"{kind} {name!r}: {parameter}={value!r} is unknown: known are {', '.join(names)}"
        )
