"""Base classes of tasks: `Generated` draws any number of questions, `Listed` has a fixed list.

A generated question is a function of (task, seed, index) alone, drawn by `random.Random` seeded
with text, so that it is the same on every machine. Questions are split in two parts by a hash of
their content: one in four is reserved for worked examples and held-out texts, the others are asked.
The two parts therefore share no question, under any seed and limit.

The worked examples before a question affect its score, in word problems by as much as ablating a
layer does. So each question has its own worked examples. Only questions of one cluster
(`Example.cluster`), such as those with the same template, share them, and intervals take clusters
into account.

Listed questions are put in an order that depends on the seed. The last ones are reserved: they are
never asked, at any limit, and serve as reference prompts (`held_out`), from which ablations such as
`Mean` take their values. The contexts of reserved questions, shots included, contain reserved
questions only, so that no reference contains the answer to a question that is asked.
"""

import dataclasses
import hashlib
import random
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, repeat

from layerroles.errors import InputError
from layerroles.tasks.base import (
    Example,
    Task,
    check_one_of,
    check_whole_number,
    normalize_text,
)

DrawExample = Callable[[random.Random, int], Example]
# Drawing stops after this many draws in a row without a new question.
_DRAWS = 1000
SHOT_ORDERS = ("drawn", "reversed")
_MOST_RESERVED, _SHARE = 64, 5
# References may state an asked question's answer only if this share of all questions have it.
_COMMON = 0.05


@dataclass(frozen=True, kw_only=True)
class FewShot(Task):
    """A task that shows worked examples before each question.

    Attributes:
        num_fewshot: worked examples before each question, 0 to 16.
        shot_order: the order of the worked examples: `drawn` or `reversed`.
    """

    num_fewshot: int = 0
    shot_order: str = "drawn"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `num_fewshot` is not a whole number from 0 to 16, or `shot_order` is
                unknown.
        """
        check_whole_number(self.name, "num_fewshot", self.num_fewshot, 0, 16)
        check_one_of(self.name, "shot_order", self.shot_order, SHOT_ORDERS)

    def reworded(self, example: Example) -> Example:
        """Return a question or a shot in the task's wording; by default unchanged.

        This method is called last, so that ids, shots and contexts do not depend on the wording.
        """
        return example

    def _as_asked(self, example: Example, shots: Sequence[Example]) -> Example:
        """Return an example with these shots, in the task's wording and order."""
        worded = [self.reworded(shot) for shot in shots]
        if self.shot_order == "reversed":
            worded.reverse()
        return dataclasses.replace(self.reworded(example), shots=tuple(worded))


@dataclass(frozen=True, kw_only=True)
class Generated(FewShot):
    """A task that generates its questions.

    Attributes:
        num_fewshot: worked examples before each question, 0 to 16. Each question has its own;
            questions of one cluster share them.
        shot_order: the order of the worked examples: `drawn` or `reversed`.
    """

    @property
    def kinds(self) -> int:
        """The number of kinds of questions, such as one for each answer position; by default 1.

        Kinds take turns: each block of `kinds` successive questions has one question of each kind,
        in random order.
        """
        return 1

    @abstractmethod
    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw one question, without shots, of the kind with index `kind` (see `kinds`).

        The caller sets its id.

        The method is called again with the same `rng` if the question repeats an earlier one or
        belongs to the other part of the questions (asked or reserved; see the module's docstring).
        """

    def shot(self, rng: random.Random, kind: int) -> Example:
        """Draw one worked example for questions of kind `kind` (an index; see `kinds`).

        By default, it is of the same kind.
        """
        return self.question(rng, kind)

    def suits(self, shot: Example, question: Example) -> bool:
        """Return whether a worked example may be shown before a question; by default True.

        Args:
            shot: the worked example, as `shot` draws it but with an id.
            question: the question, as `question` draws it but with an id.
        """
        return True

    def examples(self, limit: int, seed: int) -> list[Example]:
        """Return the first `limit` questions that `seed` draws.

        Raises:
            InputError: the parameters allow fewer than `limit` different questions, or too few
                different worked examples for `num_fewshot`.
        """
        sets = _ShotSets(self, seed)
        numbered = islice(self._number_questions("examples", seed), limit)
        shown = [sets.with_shots(*question) for question in numbered]
        return [self._as_asked(example, example.shots) for example in shown]

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Return contexts of `limit` reserved questions; no question is among its own shots."""
        sets, examples = _ShotSets(self, seed), list[Example]()
        numbered = self._number_questions("held out", seed)
        while len(examples) < limit:
            example = sets.with_shots(*next(numbered))
            if example.id not in {shot.id for shot in example.shots}:
                examples.append(example)
        return [self._as_asked(example, example.shots).context(worked=True) for example in examples]

    def _number_questions(self, part: str, seed: int) -> Iterator[tuple[int, int, Example]]:
        """Yield (index, kind, question) without end; `part` is `examples` (asked) or `held out`."""
        return _draw_distinct(self, part, seed, self.question, self._draw_kinds(part, seed))

    def _draw_kinds(self, part: str, seed: int) -> Iterator[int]:
        for turn in count():
            kinds = list(range(self.kinds))
            random.Random(f"{self.name}:{part}:{seed}:kinds:{turn}").shuffle(kinds)
            yield from kinds


class _ShotSets:
    """The sets of worked examples of a task under a seed; each set is drawn when first needed."""

    def __init__(self, task: Generated, seed: int) -> None:
        self._task = task
        self._seed = seed
        self._drawn: dict[str, list[Example]] = {}
        self._streams: dict[str, Iterator[tuple[int, int, Example]]] = {}

    def with_shots(self, place: int, kind: int, question: Example) -> Example:
        """Return the question with its shots; questions of one cluster share them.

        `place` is the index of the question. Questions of one cluster must be of one kind.
        """
        n_shots = self._task.num_fewshot
        if not n_shots:
            return question
        name = f"shots of {question.cluster}" if question.cluster else f"shots {place}"
        set_shots = self._drawn.setdefault(name, [])
        stream = self._streams.setdefault(
            name, _draw_distinct(self._task, name, self._seed, self._task.shot, repeat(kind))
        )
        while True:
            shots = [shot for shot in set_shots if self._task.suits(shot, question)]
            if len(shots) >= n_shots:
                return dataclasses.replace(question, shots=tuple(shots[:n_shots]))
            set_shots.append(next(stream)[2])


def shuffle_choices(answer: str, wrong: list[str], rng: random.Random) -> tuple[str, ...]:
    """Return the answer and the wrong choices in random order."""
    choices = [answer, *wrong]
    rng.shuffle(choices)
    return tuple(choices)


@dataclass(frozen=True, kw_only=True)
class Listed(FewShot):
    """A task with a fixed list of questions.

    A seed gives their order. The last 64 questions (or the last fifth, if there are fewer than 320)
    are reserved for references and never asked. The shots of a reserved question are reserved
    questions too, first from its group, then from others; if there are too few, it has fewer shots.

    References must not reveal answers. So a reserved question whose answer is also that of an asked
    question is not used as a shot, nor as a prompt if its context states the answer. Answers of 5%
    or more of all questions are exempt.

    Attributes:
        num_fewshot: worked examples before each question, 0 to 16: other questions of its group,
            drawn by seed and question.
        shot_order: the order of the worked examples: `drawn` or `reversed`.
    """

    @abstractmethod
    def groups(self) -> dict[str, list[Example]]:
        """Return the listed questions without shots, by group; there may be a single group."""

    def posed(self, example: Example, others: Sequence[Example]) -> Example:
        """Return a question as it is asked, for example after a context; by default unchanged.

        Args:
            example: the question.
            others: questions of its group, from which a context may be made.
        """
        return example

    def examples(self, limit: int, seed: int) -> list[Example]:
        """Return the first `limit` questions that are not reserved, in the order that `seed` gives.

        Every stretch of the order contains the groups about in proportion to their sizes.

        Raises:
            InputError: the task has no example, or too few questions for `num_fewshot`.
        """
        groups = self.groups()
        asked, _ = self._split_reserve(groups, seed)
        return [
            self._as_asked(
                self.posed(example, groups[group]),
                self._draw_shots(example, groups[group], seed),
            )
            for group, example in asked[:limit]
        ]

    def n_reserved(self, seed: int) -> int:
        """Return the number of reserved questions, the same under every seed."""
        return n_reserved(sum(map(len, self.groups().values())))

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Return contexts of up to `limit` reserved questions, from the end of the order."""
        asked, reserve = self._split_reserve(self.groups(), seed)
        prompts = {example.prompt for _, example in asked}
        reserve = [(group, example) for group, example in reserve if example.prompt not in prompts]
        answers_kept_out = self._find_answers_kept_out(
            [example for _, example in asked], [e for _, e in reserve]
        )
        usable = [
            (g, example)
            for g, example in reserve
            if _normalized_answer(example) not in answers_kept_out
        ]
        contexts = []
        for group, example in reserve[::-1]:
            posed = self.posed(example, [other for g, other in usable if g == group])
            if posed.prompt != example.prompt and _normalized_answer(example) in answers_kept_out:
                continue  # its context states the answer
            shots = self._draw_reserved_shots(group, example, usable, seed)
            contexts.append(self._as_asked(posed, shots).context(worked=True))
        return contexts[:limit]

    def _split_reserve(
        self, groups: dict[str, list[Example]], seed: int
    ) -> tuple[list[tuple[str, Example]], list[tuple[str, Example]]]:
        """Return asked and reserved questions, each as (group, question) in order."""
        order = self._draw_order(groups, seed)
        n_asked = len(order) - n_reserved(len(order))
        return order[:n_asked], order[n_asked:]

    def _draw_order(self, groups: dict[str, list[Example]], seed: int) -> list[tuple[str, Example]]:
        placed = []
        for group, examples in groups.items():
            rng = random.Random(f"{self.name}:{seed}:{group}")
            shuffled = rng.sample(examples, len(examples))
            placed += [
                ((at + rng.random()) / len(shuffled), group, example)
                for at, example in enumerate(shuffled)
            ]
        if not placed:
            raise InputError(f"task {self.label!r} has no example")
        placed.sort(key=lambda place: (place[0], place[2].id))
        return [(group, example) for _, group, example in placed]

    def _draw_shots(self, example: Example, group: list[Example], seed: int) -> tuple[Example, ...]:
        """Draw the shots of an asked question; their contexts do not contain the question."""
        others = _other_questions(example, group)
        if len(others) < self.num_fewshot:
            raise InputError(
                f"task {self.label!r}: num_fewshot={self.num_fewshot} is more than the "
                f"{len(others)} other questions that can be shown before {example.prompt!r}"
            )
        drawn = self._make_shot_rng(example, seed).sample(others, self.num_fewshot)
        not_asked = [other for other in group if other.id != example.id]
        return tuple(self.posed(shot, not_asked) for shot in drawn)

    def _draw_reserved_shots(
        self, group: str, example: Example, shown: Sequence[tuple[str, Example]], seed: int
    ) -> tuple[Example, ...]:
        """Draw the shots of a reserved question: from its group first, then from others, if needed.

        `shown` has the reserved questions that may be shots, as (group, question). If there are too
        few, fewer than `num_fewshot` shots are returned.
        """
        rng = self._make_shot_rng(example, seed)
        shots: list[tuple[str, Example]] = []
        for is_same_group in (True, False):
            others = [
                (g, e)
                for g, e in shown
                if (g == group) is is_same_group and _other_questions(example, [e])
            ]
            shots += rng.sample(others, min(self.num_fewshot - len(shots), len(others)))
        not_asked = [(g, other) for g, other in shown if other.id != example.id]
        return tuple(
            self.posed(shot, [e for g, e in not_asked if g == shot_group])
            for shot_group, shot in shots
        )

    def _make_shot_rng(self, example: Example, seed: int) -> random.Random:
        return random.Random(f"{self.name}:{seed}:shots:{example.id}")

    def _find_answers_kept_out(
        self, asked: Sequence[Example], reserve: Sequence[Example]
    ) -> set[str]:
        """Return the answers to asked questions, normalized, that references must not state.

        These are the answers and aliases that fewer than 5% of all questions have as their answer.
        """
        counts = Counter(map(_normalized_answer, [*asked, *reserve]))
        fewest = _COMMON * counts.total()
        asked_answers = {
            normalize_text(text)
            for question in asked
            for text in (question.answer, *question.aliases)
        }
        return {answer for answer in asked_answers if counts[answer] < fewest}


def n_reserved(n_questions: int) -> int:
    """Return how many of `n_questions` listed questions are reserved: a fifth, at most 64."""
    return min(_MOST_RESERVED, n_questions // _SHARE)


def _other_questions(example: Example, questions: Sequence[Example]) -> list[Example]:
    """Return the questions whose id and prompt both differ from the example's."""
    return [
        question
        for question in questions
        if question.id != example.id and question.prompt != example.prompt
    ]


def _normalized_answer(example: Example) -> str:
    return normalize_text(example.answer)


def _draw_distinct(
    task: Generated, part: str, seed: int, draw: DrawExample, kinds: Iterator[int]
) -> Iterator[tuple[int, int, Example]]:
    """Yield (index, kind, question) for distinct questions of one part of a task.

    A part is `examples` (the asked questions), `held out`, or a set of worked examples ("shots
    ..."). `examples` shares no question with the others.

    Raises:
        InputError: no new question was found in 1,000 draws.
    """
    seen_digests: set[str] = set()
    for index, kind in enumerate(kinds):
        rng = random.Random(f"{task.name}:{part}:{seed}:{index}")
        for _ in range(_DRAWS):
            example = draw(rng, kind)
            digest = hashlib.sha256(example.prompt.encode()).hexdigest()
            is_set_apart = int(digest[-1], 16) < 4
            if digest not in seen_digests and is_set_apart == (part != "examples"):
                break
        else:
            noun, remedy = "questions", "lower the limit to that"
            if part.startswith("shots"):
                noun, remedy = "worked examples", "lower num_fewshot"
            raise InputError(
                f"task {task.label!r} has only {index} different {noun}: "
                f"{remedy} or change the parameters"
            )
        seen_digests.add(digest)
        yield index, kind, dataclasses.replace(example, id=digest[:12])
