"""What a task is: a named source of questions, all of one family.

A task knows its questions, how its answers are recognised in free text and how long an answer may
be. It does not know how it is asked: that is the protocol's business, so that one question can be
put in several ways.
"""

import dataclasses
import hashlib
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from layerroles.errors import InputError
from layerroles.registry import Registry

FAMILIES = ("retrieval", "knowledge", "reasoning", "commonsense", "language")


@dataclass(frozen=True)
class Example:
    """One question.

    Attributes:
        id: names the example within its task; the same question has the same id everywhere.
        prompt: the question as it is asked, up to where the answer follows after one space.
        answer: the right answer, without the leading space.
        choices: possible answers, the right one among them; empty if there are none.
        evidence: character spans `[start, end)` of `prompt` that hold what the answer needs.
        solution: a worked solution that ends in the answer; shown in the worked examples of
            protocols that generate. Empty where the answer alone is shown.
        shots: worked examples shown before the question.
    """

    id: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    evidence: tuple[tuple[int, int], ...] = ()
    solution: str = ""
    shots: tuple["Example", ...] = ()

    def context(self, *, worked: bool = False) -> str:
        """The prompt behind its shots; `worked` shows their solutions instead of bare answers."""
        shown = [
            f"{shot.prompt} {shot.solution if worked and shot.solution else shot.answer}"
            for shot in self.shots
        ]
        return "\n\n".join([*shown, self.prompt])


@dataclass(frozen=True)
class Grade:
    """How a generated response was read.

    Attributes:
        strict: the answer stands where and how the worked examples put it.
        flexible: the right answer was given in some form.
        answered: some answer could be read from the response, right or wrong.
    """

    strict: bool
    flexible: bool
    answered: bool


@dataclass(frozen=True)
class Task(ABC):
    """A named source of examples. Subclasses are frozen dataclasses; their fields are parameters.

    A subclass sets `family`, and where it has to `max_gen_toks`, as a class attribute; a task whose
    parameters decide makes it a field or a property.

    Class attributes:
        until: strings that end a generated answer.
        argument: the parameter that stands behind a colon, as the path in `local:FILE.jsonl`.
    """

    until: ClassVar[tuple[str, ...]] = ("\n",)
    argument: ClassVar[str] = ""

    @property
    @abstractmethod
    def family(self) -> str:
        """One of `FAMILIES`."""

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
        """Up to `limit` contexts of examples that `examples(..., seed)` gives last or never.

        They serve as a reference (means of what the model writes on such prompts).
        """

    def grade(self, response: str, example: Example) -> Grade:
        """Read a generated response; the default suits answers that are a short text.

        Strict: the first line is the answer. Flexible: the answer occurs in it as whole words.
        """
        line = normalised(response.strip().split("\n", 1)[0])
        answer = normalised(example.answer)
        return Grade(
            strict=line == answer,
            flexible=re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", line) is not None,
            answered=bool(line),
        )

    @property
    def name(self) -> str:
        """The registered name, such as `kv_retrieval`."""
        return TASKS.name_of(type(self))

    @property
    def label(self) -> str:
        """The name with every parameter that is not the default, as in `kv_retrieval[pairs=20]`."""
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}[{','.join(changed)}]" if changed else self.name

    def fingerprint(self, limit: int, seed: int) -> str:
        """A hash of the examples asked for: changes when the task's content changes."""
        asked = [dataclasses.asdict(example) for example in self.examples(limit, seed)]
        text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


TASKS: Registry[Task] = Registry("task", Task)
register = TASKS.register


def task(name: str, **parameters: object) -> Task:
    """Make a task by its name: `task("kv_retrieval", pairs=20)`, `task("local:questions.jsonl")`.

    A label works too: `task("kv_retrieval[pairs=20]")`.

    Raises:
        InputError: unknown task or parameter, or a value that the task does not take.
    """
    match = re.fullmatch(r"(?P<name>[^\[\]]+)\[(?P<given>.*)\]", name)
    if match:
        name = match["name"]
        parameters = {**_given(name, match["given"]), **parameters}
    name, colon, argument = name.partition(":")
    cls = TASKS[name]
    if colon:
        if not cls.argument:
            raise InputError(f"task {name!r} takes nothing behind a colon, not {argument!r}")
        parameters = {cls.argument: argument, **parameters}
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for given in parameters:
        if given not in fields:
            known = ", ".join(fields) or "none"
            raise InputError(f"task {name!r} has no parameter {given!r}: known are {known}")
    try:
        return cls(**parameters)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"task {name!r}: {error}") from error


def normalised(text: str) -> str:
    """Lower case, without surrounding quotes, full stops and repeated white space."""
    return " ".join(text.split()).strip(" .\"'`").casefold()


def _given(name: str, text: str) -> dict[str, object]:
    parameters: dict[str, object] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"task {name!r}: parameter {pair!r} is not of the form key=value")
        try:
            parameters[key.strip()] = int(value)
        except ValueError:
            parameters[key.strip()] = value.strip()
    return parameters
