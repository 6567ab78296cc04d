"""Templates for the stories of word problems, and the drawing of stories from them.

`stories_1.txt`, `stories_2.txt` and `stories_3.txt` hold the templates of the three levels of
difficulty. A template is a story of three operations; the story can also end after the first or
second one. A template begins with its name, in brackets. Each further line is a mark and a
sentence:

- `0` gives the number at the start. `1+`, `2-`, `3*`, `3/` are the first to third operation, with
  the number in the sentence; `3~` subtracts the result so far from the number in the sentence;
  `01*` gives the start and the first operation in one sentence.
- `1*=2`: the sentence says the number in words ("twice"). `2+@0` adds the start to the result so
  far (`@1`: the result of operation 1) and needs no sentence.
- `<` before the mark: an alternative sentence for the same numbers, which replaces the other one
  and comes after all others on which the answer depends.
- `?` is the question, `?2` the question of a story of two operations.
- `.` is a sentence on which the answer does not depend.

`{}` stands for a number, `{5-20}` for one from that range.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from layerroles.tasks.story_operations import Operation, Story, compute, work_out
from layerroles.tasks.vocabulary import NAMES, PLACES, THINGS

LEVELS = (1, 2, 3)
LARGEST = 100

# Ranges of the answers, by level and number of steps: uniform, as far as a template allows.
_ANSWERS = {1: ((8, 32), (12, 34), (16, 38)), 2: ((8, 48),) * 3, 3: ((8, 48),) * 3}
_START = {1: (3, 24), 2: (10, 40), 3: (10, 40)}
_SUMMAND = {1: (2, 9), 2: (2, 15), 3: (2, 15)}
_FACTOR = (2, 9)
_DIVISOR = (3, 8)
_LEFT_OVER = (2, 30)
# Draws for one intended answer, before another answer is tried.
_TRIES = 20
# Stories drawn from each template to estimate how often a number is the answer.
_SAMPLE = 30

_SENTENCE_LINE = re.compile(r"(<?)(0?)((?:\d[-+*/~](?:=\d+|@\d)?)*)(\?\d?|\.)?(?: (.+))?")
_OPERATION = re.compile(r"(\d)([-+*/~])(?:=(\d+)|@(\d))?")
_HOLE = re.compile(r"\{(?:(\d+)-(\d+))?\}")

Bounds = tuple[int, int]


@dataclass(frozen=True)
class Sentence:
    """A sentence with gaps for numbers and words.

    Attributes:
        text: the sentence.
        places: indices of the numbers that it introduces, in digits or in words: 0 is the start, 1
            to 3 are the operations; empty if the answer does not depend on the sentence.
        shown: indices of the numbers that it shows in digits, in the order of its gaps; (0,) is the
            number of a sentence without `places`.
    """

    text: str
    places: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()

    def fill(self, numbers: dict[int, int], words: dict[str, str]) -> str:
        """Return the sentence with its gaps filled and a capital at the start."""
        digits = iter([str(numbers[place]) for place in self.shown])
        text = _HOLE.sub(lambda _: next(digits), self.text).format(**words)
        return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Slot:
    """One operation of a story template.

    Attributes:
        operation: the operation; if `bounds` is given, a story replaces its `by`.
        bounds: the least and the largest value of the operation's other number; for `~`, of the
            operation's result. None if the template fixes the other number, as a word ("twice")
            or as an earlier result.
    """

    operation: Operation
    bounds: Bounds | None


@dataclass(frozen=True)
class Template:
    """A story without its numbers, names and things.

    Attributes:
        name: the template's name in the file.
        level: 1 to 3.
        start: the range of the number at the start.
        slots: the three operations.
        lines: the sentences that give start and operations.
        late: alternative sentences. In a story of two or three operations, the first one whose
            operations are all in the story may replace the sentence of `lines` with the same
            numbers. It then comes after all other sentences of `lines`.
        idle: sentences on which the answer does not depend, each with the range of its number.
        questions: the question by number of operations; the key 0 has the default.
    """

    name: str
    level: int
    start: Bounds
    slots: tuple[Slot, ...]
    lines: tuple[Sentence, ...]
    late: tuple[Sentence, ...]
    idle: tuple[tuple[Sentence, Bounds], ...]
    questions: dict[int, str]

    def draw(self, rng: random.Random, steps: int) -> Story:
        """Draw a story of exactly `steps` operations."""
        low, high = _ANSWERS[self.level][steps - 1]
        while True:
            answer = rng.randint(low, high)
            for _ in range(_TRIES):
                numbers = self._draw_numbers(rng, steps, answer)
                if numbers is not None:
                    return self._write_story(rng, steps, numbers)

    def _draw_numbers(self, rng: random.Random, steps: int, answer: int) -> dict[int, int] | None:
        """Draw the numbers by index (0 for the start); return None if the draw is not suitable.

        It is suitable if the result is `answer`, and all numbers are distinct and within bounds.
        """
        numbers = {0: rng.randint(*self.start)}
        results = [numbers[0]]
        for place, slot in enumerate(self.slots[:steps], 1):
            op, now = slot.operation.op, results[-1]
            by: int | None
            if slot.bounds is None:
                by = slot.operation.by
                by = by if slot.operation.of is None else results[slot.operation.of]
            elif place == steps:
                by = _solve_for_number(op, now, answer)
            else:
                by = _draw_number(rng, op, now, slot.bounds)
            if by is None or (op == "/" and now % by):
                return None
            if slot.bounds is not None:
                low, high = slot.bounds
                # No number occurs twice: a slip with one would look like a slip with the other.
                if not low <= (by - now if op == "~" else by) <= high or by in numbers.values():
                    return None
                numbers[place] = by
            results.append(by - now if op == "~" else compute(now, op, by))
            if not 2 <= results[-1] <= LARGEST:
                return None
        return numbers if results[-1] == answer else None

    def _write_story(self, rng: random.Random, steps: int, numbers: dict[int, int]) -> Story:
        words = _draw_words(rng)
        lines = [line for line in self.lines if max(line.places) <= steps]
        late = [line for line in self.late if max(line.places) <= steps]
        if steps > 1 and late and rng.random() < 0.5:
            lines = [line for line in lines if line.places != late[0].places] + late[:1]
        sentences = [(line.fill(numbers, words), True) for line in lines]
        unused: list[int] = []
        for line, (low, high) in rng.sample(self.idle, rng.randint(1, 2)) if self.idle else ():
            taken = {*numbers.values(), *unused}
            unused.append(rng.choice([n for n in range(low, high + 1) if n not in taken]))
            sentence = line.fill({0: unused[-1]}, words)
            sentences.insert(rng.randint(1, len(sentences)), (sentence, False))
        return Story(
            sentences=tuple(sentence for sentence, _ in sentences),
            needed=tuple(needed for _, needed in sentences),
            asked=(self.questions.get(steps) or self.questions[0]).format(**words),
            start=numbers[0],
            operations=tuple(
                Operation(slot.operation.op, numbers.get(place, slot.operation.by))
                if slot.operation.of is None
                else slot.operation
                for place, slot in enumerate(self.slots[:steps], 1)
            ),
            unused=tuple(unused),
        )


@cache
def load_templates(level: int) -> tuple[Template, ...]:
    """Read the templates of a level, in the order of the file."""
    text = files("layerroles.tasks").joinpath(f"stories_{level}.txt").read_text(encoding="utf-8")
    return tuple(_parse_template(block, level) for block in text.strip().split("\n\n"))


@cache
def answer_counts(level: int, steps: int) -> Counter[int]:
    """Return how often each number is the answer in a fixed sample of stories."""
    rng = random.Random(f"answers:{level}:{steps}")
    drawn = (
        template.draw(rng, steps) for template in load_templates(level) for _ in range(_SAMPLE)
    )
    return Counter(work_out(story.start, story.operations) or 0 for story in drawn)


def _solve_for_number(op: str, now: int, answer: int) -> int | None:
    """Return the number that makes `op` turn `now` into `answer`; None if there is none."""
    match op:
        case "+":
            return answer - now
        case "-":
            return now - answer
        case "~":
            return now + answer
        case "*":
            return None if answer % now else answer // now
        case _:
            return None if now % answer else now // answer


def _draw_number(rng: random.Random, op: str, now: int, bounds: Bounds) -> int | None:
    low, high = bounds
    if op == "/":
        able = [by for by in range(low, high + 1) if now % by == 0]
        return rng.choice(able) if able else None
    if op == "-":
        high = min(high, now - 2)
    return rng.randint(low, high) + (now if op == "~" else 0) if low <= high else None


def _draw_words(rng: random.Random) -> dict[str, str]:
    who, other, third = rng.sample(NAMES, 3)
    place, place2 = rng.sample(PLACES, 2)
    words = {"who": who, "other": other, "third": third, "place": place, "place2": place2}
    return {**words, "things": rng.choice(THINGS)}


def _parse_template(block: str, level: int) -> Template:
    name, *rows = block.splitlines()
    start: Bounds | None = None
    slots: dict[int, Slot] = {}
    lines: dict[bool, list[Sentence]] = {False: [], True: []}
    idle, questions = [], {}
    for row in rows:
        match = _SENTENCE_LINE.fullmatch(row)
        assert match, row
        late, starts, marks, kind, text = match.groups(default="")
        holes = [(int(low), int(high)) if low else None for low, high in _HOLE.findall(text)]
        if kind == ".":
            ((low, high),) = filter(None, holes)
            idle.append((Sentence(text, shown=(0,)), (low, high)))
        elif kind:
            questions[int(kind[1:] or 0)] = text
        else:
            operations = _OPERATION.findall(marks)
            shown = [0] if starts else []
            shown += [
                int(place) for place, _, number, earlier in operations if not number and not earlier
            ]
            bounds = dict(zip(shown, holes, strict=bool(text)))
            places = ([0] if starts else []) + [int(place) for place, *_ in operations]
            if text:
                lines[bool(late)].append(Sentence(text, tuple(places), tuple(shown)))
            if starts:
                start = bounds[0] or (_FACTOR if "*" in marks else _START[level])
            for place, op, number, earlier in operations:
                operation = Operation(op, int(number or 0), int(earlier) if earlier else None)
                usual_bounds = {"*": _FACTOR, "/": _DIVISOR, "~": _LEFT_OVER}.get(
                    op, _SUMMAND[level]
                )
                slot_bounds = None if number or earlier else bounds[int(place)] or usual_bounds
                slots[int(place)] = Slot(operation, slot_bounds)
    assert start is not None
    return Template(
        name=name.strip("[]"),
        level=level,
        start=start,
        slots=tuple(slots[place] for place in sorted(slots)),
        lines=tuple(lines[False]),
        late=tuple(lines[True]),
        idle=tuple(idle),
        questions=questions,
    )
