"""Knowledge: simple facts, asked as the beginning of a sentence that the answer completes.

The facts are written by hand in `facts.tsv`, chosen to be well known and undisputed and to have one
right answer. Where a fact can change, the column `as_of` has the year in which it was checked; the
column `aliases` has other texts that are accepted, joined by `|`.

A relation is a type of fact, such as `capital`. The facts of a relation are divided into sets of
four with different answers. These answers are the choices of all four questions, so each choice is
right once and wrong three times, and the choices alone do not show which one is right. The wrong
choices of chemical symbols are written by hand, in the column `wrong`, so that every question has
one choice of each form: the first two letters of the name, its first and a later letter, its first
letter alone, and another symbol.

The same questions can be asked with the fact in the prompt, alone or among others, as in retrieval
augmentation.
"""

import csv
import dataclasses
import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import ClassVar

from layerroles.errors import InputError
from layerroles.tasks.base import Example, Grade, check_one_of, register
from layerroles.tasks.grade_names import grade_name
from layerroles.tasks.task_base_classes import Listed
from layerroles.tasks.wordings import FACTS, check_template, reword_fact

CONTEXTS = ("none", "support", "distractors")
_CHOICES = 4
_DISTRACTORS = 4
# Relations whose answers are countries.
_OF_COUNTRIES = ("city", "company", "landmark")


@register("facts")
@dataclass(frozen=True, kw_only=True)
class Facts(Listed):
    """Complete a sentence that states a fact.

    There are 872 facts of 19 relations: author, birthplace, capital, city (its country), class (of
    animals), company (its country), composer, continent, currency, film (its director), landmark
    (its country), language, painter, river (of a city), scientist, sport, symbol (of an element),
    unit and young (of an animal).

    A response is right if its first sentence names the answer or an alias before any other answer
    of the relation, and lists no other with it; see `grade`. Wrong choices are other answers of the
    relation, each a wrong choice three times as often as it is right. Those for chemical symbols
    are written by hand; see the module's docstring.

    Evidence is the subject of the fact; if a context states the fact, it is the answer in that
    context. The id of a question does not depend on the context.

    Attributes:
        relations: the relations to ask, joined by `+`, as in `capital+author`; all if empty.
        context: what precedes the question: `none`; `support`, the fact itself; or `distractors`,
            the fact among four others of its relation, in random order. Shots have their own
            contexts, which do not contain the fact that is asked.
        num_fewshot: worked examples before each question: other facts of the same relation.
        shot_order: the order of the worked examples: `drawn` or `reversed`.
        template: the wording of the prompt, 0 to 3; see `tasks.wordings`.

    Raises:
        InputError: an unknown relation or context, or `relations` that is not a text.

    Example:
        >>> from layerroles.tasks import task
        >>> (example,) = task("facts", relations="capital", num_fewshot=0).examples(limit=1, seed=0)
        >>> example.context(), example.answer, len(example.choices)
        ('The capital of Uruguay is', 'Montevideo', 4)
    """

    family: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 2
    grading: ClassVar[int] = 2
    max_gen_toks: ClassVar[int] = 12

    relations: str = ""
    context: str = "none"
    num_fewshot: int = 2
    template: int = 0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: a relation, the context or the template is unknown, or `relations` is not a
                text.
        """
        super().__post_init__()
        if not isinstance(self.relations, str):
            raise InputError(
                f"task {self.name!r}: relations={self.relations!r} is not a text: "
                f"join names by +, as in capital+author"
            )
        for relation in self._relation_names():
            check_one_of(self.name, "relations", relation, load_facts())
        check_one_of(self.name, "context", self.context, CONTEXTS)
        check_template(self.name, self.template, FACTS)

    def groups(self) -> dict[str, list[Example]]:
        """Return the facts by relation."""
        return {relation: list(load_facts()[relation]) for relation in self._relation_names()}

    def posed(self, example: Example, others: Sequence[Example]) -> Example:
        """Return the question, preceded by the context that the parameter `context` selects.

        Args:
            example: the question.
            others: facts of the same relation, from which distractors are drawn.
        """
        if self.context == "none":
            return example
        stated_facts = [example]
        if self.context == "distractors":
            rng = random.Random(f"{self.name}:distractors:{example.id}")
            # Distractors differ from the fact in both answer and prompt.
            distractors = [
                other
                for other in others
                if other.answer != example.answer and other.prompt != example.prompt
            ]
            stated_facts += rng.sample(distractors, min(_DISTRACTORS, len(distractors)))
            rng.shuffle(stated_facts)
        facts_before = stated_facts[: stated_facts.index(example)]
        text_before = "".join(f"{_as_sentence(fact)} " for fact in facts_before)
        start = len(text_before) + len(example.prompt) + 1
        context = " ".join(map(_as_sentence, stated_facts))
        return dataclasses.replace(
            example,
            prompt=f"{context}\n{example.prompt}",
            evidence=((start, start + len(example.answer)),),
        )

    def reworded(self, example: Example) -> Example:
        """Return a question or a shot in the wording that `template` selects."""
        return reword_fact(example, _relation_of(example), FACTS[self.template])

    def group(self, example: Example) -> str:
        """Return the relation of an example."""
        return _relation_of(example)

    def candidates(self, example: Example) -> list[str] | None:
        """Return the relation's answers that occur in a prompt with distractors.

        Without distractors, return an empty list: with `support`, repeating the stated fact is the
        tested skill.
        """
        if self.context != "distractors":
            return []
        return [
            answer
            for answer in sorted(_known_answers(_relation_of(example)))
            if answer in example.prompt
            and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", example.prompt)
        ]

    def grade(self, response: str, example: Example) -> Grade:
        """Grade the first sentence of the first line; accents, case and articles are ignored.

        Flexible: of the relation's answers in the sentence, the first is the right one or an alias,
        it is not denied, and no other is listed with it. A chemical symbol is accepted only at the
        start and in its own case. A surname is not accepted after the first name of another person
        ("Heinrich Mann"). A country is accepted after one place, as in "Paris, France". Strict: the
        line is the answer or an alias and nothing else. Form: strict, or no more words than an
        answer has.
        """
        relation = _relation_of(example)
        placed = relation in _OF_COUNTRIES
        known_names = _known_answers(relation) | (_known_countries() if placed else frozenset())
        alone = relation == "symbol"
        return grade_name(response, example, known_names, alone=alone, placed=placed)

    def _relation_names(self) -> list[str]:
        if not self.relations:
            return list(load_facts())
        return list(dict.fromkeys(name.strip() for name in self.relations.split("+")))


def _as_sentence(fact: Example) -> str:
    return f"{fact.prompt} {fact.answer}."


def _relation_of(example: Example) -> str:
    return example.id.rpartition("-")[0]


@cache
def _known_answers(relation: str) -> frozenset[str]:
    """Return all answers and aliases of a relation; empty if the relation is unknown.

    Those of `sport` include "American football", so that it does not count as football.
    """
    names = {
        text for fact in load_facts().get(relation, ()) for text in (fact.answer, *fact.aliases)
    }
    return frozenset(names | {"American football"} if relation == "sport" else names)


@cache
def _known_countries() -> frozenset[str]:
    """Return the countries whose capitals are asked, and the countries that are answers."""
    asked = frozenset(fact.prompt[slice(*fact.evidence[0])] for fact in load_facts()["capital"])
    return asked.union(*map(_known_answers, _OF_COUNTRIES))


@cache
def load_facts() -> MappingProxyType[str, tuple[Example, ...]]:
    """Return all facts of `facts.tsv` by relation, in the order of the file."""
    source = files("layerroles.tasks").joinpath("facts.tsv")
    with source.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    relations = dict.fromkeys(row["relation"] for row in rows)
    return MappingProxyType(
        {
            relation: _make_examples([row for row in rows if row["relation"] == relation])
            for relation in relations
        }
    )


def _make_examples(rows: list[dict[str, str]]) -> tuple[Example, ...]:
    choices = _deal_choices(rows)
    return tuple(_make_example(row, choices[row["prompt"]]) for row in rows)


def _deal_choices(rows: list[dict[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the choices of a relation's questions, by prompt.

    The facts are placed on a circle in random order, except that equal answers are neighbours. The
    choices of a fact are its answer and the answers one, two and three quarters of the circle away,
    unless the column `wrong` lists the wrong choices.
    """
    rng = random.Random(f"facts:choices:{rows[0]['relation']}")
    answers = sorted({row["answer"] for row in rows})
    place = {answer: at for at, answer in enumerate(rng.sample(answers, len(answers)))}
    circle = sorted(rng.sample(rows, len(rows)), key=lambda row: place[row["answer"]])
    quarter = len(circle) // _CHOICES
    choices = {}
    for at, row in enumerate(circle):
        wrong_places = range(at + quarter, at + _CHOICES * quarter, quarter)
        wrong = [circle[other % len(circle)]["answer"] for other in wrong_places]
        if row["wrong"]:
            wrong = row["wrong"].split("|")
            rng.shuffle(wrong)
        right_at = at // quarter % _CHOICES
        n_before = _CHOICES - 1 - right_at  # facts that share choices list them in one order
        choices[row["prompt"]] = (*wrong[n_before:], row["answer"], *wrong[:n_before])
    return choices


def _make_example(row: dict[str, str], choices: tuple[str, ...]) -> Example:
    start = row["prompt"].casefold().index(row["subject"].casefold())
    return Example(
        id=f"{row['relation']}-{hashlib.sha256(row['prompt'].encode()).hexdigest()[:8]}",
        prompt=row["prompt"],
        answer=row["answer"],
        choices=choices,
        evidence=((start, start + len(row["subject"])),),
        aliases=tuple(filter(None, row["aliases"].split("|"))),
    )
