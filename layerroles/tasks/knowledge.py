"""Knowledge: simple facts asked as the beginning of a sentence that the answer ends.

The facts are written by hand in `facts.tsv`, chosen to be well known, to have one right answer and
to stay true. Wrong choices are the right answers of other facts of the same relation. The same
questions can be asked with the fact in the prompt, alone or among others, as retrieval augmentation
puts it there.
"""

import csv
import dataclasses
import hashlib
import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import ClassVar

from layerroles.errors import InputError
from layerroles.tasks.base import Example, register
from layerroles.tasks.generated import with_wrong
from layerroles.tasks.listed import Listed
from layerroles.tasks.parameters import one_of

CONTEXTS = ("none", "support", "distractors")
_DISTRACTORS = 4


@register("facts")
@dataclass(frozen=True, kw_only=True)
class Facts(Listed):
    """Complete a sentence that states a fact.

    Evidence is the subject of the fact; where a context tells the fact, it is the answer there. A
    question has the same id in every context.

    Attributes:
        relations: which relations to ask, joined by `+`, as in `capital+author`; all if empty.
        context: what stands before the question: `none`; `support`, the fact itself; or
            `distractors`, the fact among four others of its relation, in random order. Shots have
            contexts of their own, without the fact that is asked.
        num_fewshot: other facts of the same relation before each.

    Raises:
        InputError: a relation that is unknown, or no text.

    Example:
        >>> from layerroles.tasks import task
        >>> (example,) = task("facts", relations="capital", num_fewshot=0).examples(limit=1, seed=0)
        >>> example.context(), example.answer, len(example.choices)
        ('The capital of Syria is', 'Damascus', 4)
    """

    family: ClassVar[str] = "knowledge"
    max_gen_toks: ClassVar[int] = 12

    relations: str = ""
    context: str = "none"
    num_fewshot: int = 2

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: a relation or a context is unknown.
        """
        super().__post_init__()
        if not isinstance(self.relations, str):
            raise InputError(
                f"task {self.name!r}: relations={self.relations!r} is not a text: "
                f"join names by +, as in capital+author"
            )
        for relation in self._asked():
            one_of(self.name, "relations", relation, facts())
        one_of(self.name, "context", self.context, CONTEXTS)

    def groups(self) -> dict[str, list[Example]]:
        """The facts by relation."""
        asked = {relation: facts()[relation] for relation in self._asked()}
        if self.context == "none":
            return {relation: list(own) for relation, own in asked.items()}
        return {
            relation: [self._told(fact, own) for fact in own] for relation, own in asked.items()
        }

    def _shots(self, example: Example, group: list[Example], seed: int) -> tuple[Example, ...]:
        """The shots, none of which tells the fact that is asked."""
        shots = super()._shots(example, group, seed)
        if self.context != "distractors":
            return shots
        own = facts()[example.id.rpartition("-")[0]]
        by_id = {fact.id: fact for fact in own}
        untold = tuple(fact for fact in own if fact.id != example.id)
        return tuple(self._told(by_id[shot.id], untold) for shot in shots)

    def _told(self, fact: Example, own: tuple[Example, ...]) -> Example:
        """The question behind a context that tells the fact."""
        told = [fact]
        if self.context == "distractors":
            rng = random.Random(f"{self.name}:distractors:{fact.id}")
            # Nobody else's answer is the right one, and no other fact is asked in the same words.
            others = [o for o in own if o.answer != fact.answer and o.prompt != fact.prompt]
            told += rng.sample(others, min(_DISTRACTORS, len(others)))
            rng.shuffle(told)
        before = "".join(f"{_stated(one)} " for one in told[: told.index(fact)])
        start = len(before) + len(fact.prompt) + 1
        context = " ".join(map(_stated, told))
        return dataclasses.replace(
            fact,
            prompt=f"{context}\n{fact.prompt}",
            evidence=((start, start + len(fact.answer)),),
        )

    def _asked(self) -> list[str]:
        if not self.relations:
            return list(facts())
        return list(dict.fromkeys(name.strip() for name in self.relations.split("+")))


def _stated(fact: Example) -> str:
    return f"{fact.prompt} {fact.answer}."


@cache
def facts() -> MappingProxyType[str, tuple[Example, ...]]:
    """All facts by relation, in the order of the file."""
    source = files("layerroles.tasks").joinpath("facts.tsv")
    with source.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    relations = dict.fromkeys(row["relation"] for row in rows)
    return MappingProxyType(
        {
            relation: _examples([row for row in rows if row["relation"] == relation])
            for relation in relations
        }
    )


def _examples(rows: list[dict[str, str]]) -> tuple[Example, ...]:
    answers = sorted({row["answer"] for row in rows})
    return tuple(_example(row, answers) for row in rows)


def _example(row: dict[str, str], answers: list[str]) -> Example:
    name = f"{row['relation']}-{hashlib.sha256(row['prompt'].encode()).hexdigest()[:8]}"
    rng = random.Random(name)
    wrong = rng.sample([answer for answer in answers if answer != row["answer"]], 3)
    start = row["prompt"].casefold().index(row["subject"].casefold())
    return Example(
        id=name,
        prompt=row["prompt"],
        answer=row["answer"],
        choices=with_wrong(row["answer"], wrong, rng),
        evidence=((start, start + len(row["subject"])),),
    )
