"""The base class of tasks: named sources of questions, each of one family (see `FAMILIES`).

A task provides questions, grades free-text answers and limits their length. How a question is asked
is left to the protocol, so that one question can be asked in several ways.

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

from layerroles import notebook_display
from layerroles.errors import InputError
from layerroles.registry import Registry, label_of, read_label

FAMILIES = ("retrieval", "knowledge", "reasoning", "commonsense", "language")
_STRIPPED = " .\"'`"
# Where the letter {0} counts as an answer: at the start, if it is no article or pronoun; before
# ")", "." or the end; or after "answer is".
_AS_LETTER = (
    r"^\W*{0}(?:(?<![AI])(?![\w'\u2019])|(?=[^\w\s'\u2019]|\s+(?:is|because|since)\b))"
    r"|(?<!\w){0}(?=[.)]|\W*$)"
    r"|(?i:\banswer(?: is\b)?:?)\W*{0}(?!\w)"
)
_SHORT = reprlib.Repr()
_SHORT.maxstring = 60


@dataclass(frozen=True, repr=False)
class Example:
    """One question.

    Attributes:
        id: identifies the example within its task, under every seed and limit.
        prompt: the question; the answer follows it after one space.
        answer: the right answer, without a leading space.
        choices: possible answers, including the right one; empty if there are none.
        evidence: character spans `[start, end)` of `prompt` that contain what the answer depends
            on.
        solution: a worked solution that ends in the answer; shown in the worked examples of
            protocols that generate, and scored by `chain_logprob`. Empty if there is none.
        shots: worked examples shown before the question.
        question: an identifier shared by tasks that ask the same question under different ids, such
            as a digest of an lm-eval document; empty if `id` is enough.
        aliases: other texts that the protocols `generation` and `exact` accept as the answer.
        cluster: names a set of shots or a template that the example shares with others of its task;
            examples of one cluster are not independent. Empty if it shares none.

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
        details = [f"Answer: {self.answer}"]
        if self.choices:
            details.append(f"Choices: {', '.join(self.choices)}")
        if self.shots:
            details.append(f"Before it stand {len(self.shots)} worked examples: example.shots")
        return notebook_display.html_block(
            notebook_display.html_paragraph(f"Example {self.id}; what the answer needs is marked"),
            notebook_display.html_marked(self.prompt, self.evidence),
            notebook_display.html_list(details),
        )

    def context(self, *, worked: bool = False) -> str:
        """Return shots and prompt as one text.

        With `worked`, a shot shows its solution, if it has one, instead of the bare answer.
        """
        shot_texts = [
            f"{shot.prompt} {shot.solution if worked and shot.solution else shot.answer}"
            for shot in self.shots
        ]
        return "\n\n".join([*shot_texts, self.prompt])


@dataclass(frozen=True)
class Grade:
    """The grading of a generated response.

    Attributes:
        strict: the right answer was given in the place and form that the worked examples show.
        flexible: the right answer was given, in any form that the task accepts.
        answered: an answer, right or wrong, could be read from the response.
        form: the answer, right or wrong, has the place and form that the worked examples show; None
            if the task cannot tell this for wrong answers.

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

    A subclass sets `family`, and if needed `until`, `max_gen_toks` and `protocol`, as class
    attributes, or as fields or properties if they depend on parameters.

    Class attributes:
        argument: the name of the parameter that `task` reads after a colon, such as `path` in
            `local:FILE.jsonl`; empty if there is none.
        version: version of the questions and their grading; part of the label from 2 on, so that
            runs of different versions are never mixed.
        grading: version of the grading alone. It is not part of the label, but a run folder that
            was graded by another version is refused.
        question_packages: Python packages whose versions determine the questions; recorded in a
            run's manifest.

    Example:
        >>> import layerroles as lr
        >>> task = lr.task("kv_retrieval", pairs=4)
        >>> task.family, task.label, len(task.examples(limit=3, seed=0))
        ('retrieval', 'kv_retrieval@2[pairs=4]', 3)
    """

    argument: ClassVar[str] = ""
    version: ClassVar[int] = 1
    grading: ClassVar[int] = 1
    question_packages: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def family(self) -> str:
        """The family of the questions, one of `FAMILIES`."""

    @property
    def protocol(self) -> object | None:
        """The only protocol under which this task is asked; None to use the protocols of the sweep.

        A label such as `"text_logprob"`, or a `Protocol`, which need not be registered.
        """
        return None

    @property
    def until(self) -> tuple[str, ...]:
        """Strings that end a generated answer."""
        return ("\n",)

    @property
    def max_gen_toks(self) -> int:
        """The maximum number of tokens in a generated answer."""
        return 32

    @abstractmethod
    def examples(self, limit: int, seed: int) -> list[Example]:
        """Return the first `limit` examples, in the order that `seed` gives.

        A larger limit only appends to the list. A finite task may return fewer than `limit`.

        Raises:
            InputError: the task has no example.
        """

    @abstractmethod
    def held_out(self, limit: int, seed: int) -> list[str]:
        """Return up to `limit` contexts of examples that `examples(..., seed)` never returns.

        They are used as the prompts of a `Reference`, for example to measure a layer's mean output.
        """

    @property
    def skill(self) -> str:
        """The skill that the questions test, if it is narrower than the family name; else empty.

        For example "adding numbers", for sums in the family `reasoning`. If every task of a family
        names a skill, the evidence reported for claims about the family names these skills too.
        """
        return ""

    def group(self, example: Example) -> str:
        """Return the group of an example, such as `capital` for facts; empty without groups.

        Worked examples reveal the group, so guessing may depend on it.
        """
        return ""

    def candidates(self, example: Example) -> list[str] | None:
        """Return the texts in the prompt that may be guessed as the answer; by default None.

        They are used to measure chance (see `guessing`). An empty list forbids guesses from the
        prompt, because repeating its text is the tested skill. None allows any quoted text of the
        prompt if all answers are in quotes, any number if all answers are numbers, and otherwise
        any text that is the answer to another question.
        """
        return None

    def n_reserved(self, seed: int) -> int:
        """Return how many questions are reserved for `held_out`, and never asked; 0 by default.

        Tasks that generate questions reserve a share of all that they can draw, not a number.
        """
        return 0

    def grade(self, response: str, example: Example) -> Grade:
        """Grade a generated response; by default as a short text.

        Strict: the first line is the answer. Flexible: the first line contains the answer as whole
        words. Form: the first line has no more words than the longest of answer, choices and shots'
        answers.
        """
        return grade_text(response.strip().split("\n", 1)[0], example)

    @property
    def name(self) -> str:
        """The registered name, such as `kv_retrieval`."""
        return TASKS.name_of(type(self))

    @property
    def label(self) -> str:
        """Name, version and all parameters that differ from the default: `facts@2[num_fewshot=4]`.

        Version 1 is omitted.
        """
        name = f"{self.name}@{self.version}" if self.version > 1 else self.name
        return label_of(name, self)

    def fingerprint(self, limit: int, seed: int) -> str:
        """Return a hash of the first `limit` examples under `seed`.

        It covers all fields of the examples except `question` and `cluster`.
        """
        examples = [dataclasses.asdict(example) for example in self.examples(limit, seed)]
        for example in examples:
            for fields in (example, *example["shots"]):
                # These two fields only relate an example to others: they are not content.
                del fields["question"], fields["cluster"]
                if not fields["aliases"]:  # tasks of an earlier version had none
                    del fields["aliases"]
        text = json.dumps(examples, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


TASKS: Registry[Task] = Registry("task", Task)
register = TASKS.register


def task(name: str, **parameters: object) -> Task:
    """Make a task by its name: `task("kv_retrieval", pairs=20)`, `task("local:questions.jsonl")`.

    A label is accepted too: `task("kv_retrieval[pairs=20]")`, `task("facts@2")`.

    Raises:
        InputError: unknown task or parameter, a value that the task does not accept, or a version
            other than the installed one.

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
    if not colon and name.endswith((".jsonl", ".csv")):
        raise InputError(f"{name!r} is a file of questions: write local:{name}")
    if colon:
        if not TASKS[name].argument:
            raise InputError(f"task {name!r} takes nothing behind a colon, not {argument!r}")
        parameters = {TASKS[name].argument: argument, **parameters}
    return TASKS.make(name, parameters)


def as_tasks(given: Iterable[Task]) -> list[Task]:
    """Check that every item is a task; return the items as a list.

    Raises:
        InputError: a single task or name instead of several, or an item that is not a task.
    """
    if isinstance(given, str | Task) or not isinstance(given, Iterable):
        raise InputError(f"tasks={given!r} is one, not several: write [{given!r}]")
    tasks = list(given)
    for item in tasks:
        if not isinstance(item, Task):
            raise InputError(f"{item!r} is no task: lr.task({item!r}) makes one")
    return tasks


def grade_text(line: str, example: Example) -> Grade:
    """Grade a line as a short text, by the rules of `Task.grade`.

    If the answer is one capital letter, a longer line contains it only where the letter stands at
    the start of the line, before ")" or ".", at the end, or after "answer is" (see `_AS_LETTER`).
    At the start, "A" and "I" count only before punctuation, or before "is", "because" or "since",
    since they may be words. An answer that consists only of characters that `normalize_text` strips
    is right only as the whole line.
    """
    response, answer = normalize_text(line), normalize_text(example.answer)
    strict = response == answer if answer else line.strip() == example.answer.strip()
    if re.fullmatch("[A-Z]", letter := example.answer.strip(_STRIPPED)):
        found = re.search(_AS_LETTER.format(letter), line.strip())
    else:
        found = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", response) if answer else None
    return Grade(
        strict=strict,
        flexible=strict or found is not None,
        answered=strict or bool(response),
        form=has_answer_length(line, example),
    )


def has_answer_length(line: str, example: Example) -> bool:
    """Return whether a line is not empty and no longer than an answer.

    The line may have as many words as the longest of the example's answer, choices and shots'
    answers.
    """
    answers = [example.answer, *example.choices, *(shot.answer for shot in example.shots)]
    return 0 < len(line.split()) <= max(len(text.split()) for text in answers)


def normalize_text(text: str) -> str:
    """Return a text in lower case, with single spaces, without quotes and full stops around it.

    A decimal point at the start, as in ".5", is kept.
    """
    text = " ".join(text.split()).rstrip(_STRIPPED)
    return re.sub(r"^(?:[ \"'`]|\.(?!\d))+", "", text).casefold()


def check_whole_number(
    name: str, parameter: str, value: object, low: int, high: int, *, kind: str = "task"
) -> None:
    """Check that a value is a whole number from `low` to `high`, both included.

    Raises:
        InputError: it is not; the message names the `kind`, such as `task`, its `name` and the
            `parameter`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(
            f"{kind} {name!r}: {parameter}={value!r} is not a whole number from {low} to {high}"
        )


def check_one_of(
    name: str, parameter: str, value: object, allowed: Iterable[str], *, kind: str = "task"
) -> None:
    """Check that a value is one of `allowed`.

    Raises:
        InputError: it is not; the message names the `kind`, such as `task`, its `name` and the
            `parameter`.
    """
    names = list(allowed)
    if value not in names:
        raise InputError(
            f"{kind} {name!r}: {parameter}={value!r} is unknown: known are {', '.join(names)}"
        )
