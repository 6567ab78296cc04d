"""Word problems: right by an independent reading, and not to be solved without the story."""

import itertools
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest

from layerroles.errors import InputError
from layerroles.tasks import WordProblems, task
from layerroles.tasks.base import Example
from layerroles.tasks.story_templates import load_templates

SETTINGS = list(itertools.product((1, 2, 3), (1, 2, 3)))
QUESTIONS = 600


def bound(share: float) -> float:
    """What a true share of at most so much exceeds in 2 of 100 samples."""
    return share + 2 * (share * (1 - share) / QUESTIONS) ** 0.5


# A guess among four is right in 0.25.
AT_MOST = bound(0.25 + 0.05)
# For a formula over the numbers of a prompt, where the story has two or three steps.
SOLVED = bound(0.2)


@cache
def asked(level: int, steps: int) -> list[Example]:
    return WordProblems(level=level, steps=steps, num_fewshot=0).examples(QUESTIONS, seed=0)


@cache
def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def evidence(example: Example) -> str:
    return " ".join(example.prompt[start:end] for start, end in example.evidence)


def steps_of(example: Example) -> list[tuple[int, str, int, int]]:
    found = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", example.solution)
    return [(int(left), op, int(right), int(after)) for left, op, right, after in found]


def share(examples: list[Example], preference: Callable[[str, Example], float]) -> float:
    """How often the most preferred choice is right, ties broken at random."""
    total = 0.0
    for example in examples:
        values = [preference(choice, example) for choice in example.choices]
        best = [c for c, v in zip(example.choices, values, strict=True) if v == max(values)]
        total += (example.answer in best) / len(best)
    return total / len(examples)


def by_rank(rank: int) -> Callable[[str, Example], float]:
    return lambda choice, example: sorted(example.choices, key=int)[rank] == choice


def adjacent(choice: str, example: Example) -> int:
    """How many other choices differ by one or ten."""
    return sum(abs(int(choice) - int(other)) in (1, 10) for other in example.choices)


def distance(choice: str, example: Example) -> int:
    return sum(abs(int(choice) - int(other)) for other in example.choices)


def digits(choice: str, example: Example) -> int:
    """How many digits a choice has in common with the others, place by place."""
    places = [zip(choice.zfill(3), other.zfill(3), strict=True) for other in example.choices]
    return sum(one == two for pairs in places for one, two in pairs)


def strategies(examples: list[Example]) -> dict[str, Callable[[str, Example], float]]:
    answers = Counter(example.answer for example in examples)
    return {
        "longest": lambda choice, example: len(choice),
        "shortest": lambda choice, example: -len(choice),
        "first": lambda choice, example: -example.choices.index(choice),
        "last": lambda choice, example: example.choices.index(choice),
        "smallest": by_rank(0),
        "second smallest": by_rank(1),
        "second largest": by_rank(2),
        "largest": by_rank(3),
        "most frequent answer": lambda choice, example: (
            answers[choice] - (choice == example.answer)
        ),
        "shared with the prompt": lambda choice, example: int(choice) in numbers(example.prompt),
        "not shared": lambda choice, example: int(choice) not in numbers(example.prompt),
        "most digits of the others": digits,
        "fewest digits of the others": lambda choice, example: -digits(choice, example),
        "most neighbors": adjacent,
        "in the middle": lambda choice, example: -distance(choice, example),
        "far from the others": distance,
    }


@pytest.mark.parametrize(("level", "steps"), SETTINGS)
def test_choices_without_the_story_do_not_give_the_answer(level: int, steps: int) -> None:
    examples = asked(level, steps)
    found = {name: share(examples, prefer) for name, prefer in strategies(examples).items()}
    assert {name: value for name, value in found.items() if value > AT_MOST} == {}


def formulas() -> dict[str, Callable[[tuple[int, ...]], int]]:
    found: dict[str, Callable[[tuple[int, ...]], int]] = {
        "sum": sum,
        "largest": max,
        "first": lambda given: given[0],
        "last": lambda given: given[-1],
        "largest minus the others": lambda given: 2 * max(given) - sum(given),
        "product of the first two, and the others": lambda given: (
            given[0] * given[1] + sum(given[2:])
        ),
        "product of the first two without the others": lambda given: (
            given[0] * given[1] - sum(given[2:])
        ),
    }
    for one, two in ((0, 1), (0, -1), (-2, -1), (1, 2)):
        for sign in (1, -1):
            found[f"{one} and {two}, {sign}"] = lambda given, one=one, two=two, sign=sign: (
                abs(given[one] + sign * given[two]) if len(given) > 2 else 0
            )
    for count in (2, 3, 4):
        for signs in itertools.product((1, -1), repeat=count):
            found[f"signs {signs}"] = lambda given, signs=signs: (
                sum(sign * number for sign, number in zip(signs, given, strict=True))
                if len(given) == len(signs)
                else 0
            )
    return found


@pytest.mark.parametrize(("level", "steps"), list(itertools.product((2, 3), (2, 3))))
def test_no_formula_over_the_numbers_of_a_prompt_solves_many(level: int, steps: int) -> None:
    examples = asked(level, steps)
    found = {}
    for name, formula in formulas().items():
        right = [formula(numbers(one.prompt)) == int(one.answer) for one in examples]
        found[name] = sum(right) / len(right)
    assert {name: value for name, value in found.items() if value > SOLVED} == {}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_level_1_is_adding_up(steps: int) -> None:
    examples = asked(1, steps)
    assert {op for one in examples for _, op, _, _ in steps_of(one)} == {"+"}
    added = [sum(numbers(one.prompt)) == int(one.answer) for one in examples]
    assert sum(added) / len(added) > 0.9


@pytest.mark.parametrize(("level", "steps"), SETTINGS)
def test_solutions_are_right_and_use_what_the_evidence_shows(level: int, steps: int) -> None:
    compute = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    seen = set()
    for example in asked(level, steps):
        worked = steps_of(example)
        assert len(worked) == steps
        for left, op, right, after in worked:
            assert compute[op](left, right) == after
            assert op != "/" or left % right == 0
            assert 0 < after <= 100
            seen.add(op)
        # Each step takes up the result of the one before.
        assert all(before[3] in (after[0], after[2]) for before, after in pairwise(worked))
        assert str(worked[-1][3]) == example.answer
        assert example.solution.endswith(f" The answer is {example.answer}.")
        used = {number for left, _, right, _ in worked for number in (left, right)}
        assert {*numbers(evidence(example))} <= used
        # What is used and not shown is a result, or a number in words.
        results = {after for *_, after in worked}
        assert used - {*numbers(evidence(example))} - results <= {2, 3}
        assert len(example.choices) == 4 == len({*example.choices})
        assert all(int(choice) > 0 for choice in example.choices)
        assert "{" not in example.prompt and "  " not in example.prompt
        if level < 3:
            assert max(numbers(example.prompt)) <= 100
    assert seen == {1: {"+"}, 2: {"+", "-"}, 3: {"+", "-", "*", "/"}}[level]


# How a reader adds and subtracts the numbers of a story of level 2 in the order of telling; where
# one counts twice it stands twice.
LEVEL_2 = {
    "collection": "0-1+2-3",
    "bus": "0+1-2-3",
    "novel": "3-0-1-2",
    "fewer": "0+0-1-2",
    "wallet": "0+1+2-3",
    "lift": "0+1-2+3",
    "shelves": "1-0+2-3",
    "thermometer": "0+1+2-3",
    "older and younger": "2+2+1-0",
    "given away": "0+1-2-3",
    "team points": "0+1+2-3",
    "ship": "0-1+2-3",
    "blue and green": "0+1-2-3",
    "water tank": "0-1+2-3",
    "class": "0+1+2-3",
    "race": "0-1-2+3",
    "had before": "0-1+2-3",
    "hen house": "0-1+2-3",
    "orchestra": "0+1+2-3",
    "hot air balloon": "0+1+2-3",
    "work and dog": "1-0+2-3",
    "phone": "0+1-2-3",
    "guests": "0-1-2-3",
    "sticker album": "0-1-2+3",
    "days at sea": "1-0+2+3",
    "stall": "0+0+1-2",
    "trail": "0+0+1-2",
    "candles": "0+0-1+2",
    "seedlings": "0-1-2+3",
    "allowance": "2+1-0-3",
    "two owners": "0-1+2-3",
    "playground": "0+1-2-3",
    "bicycle": "1-0-2+3",
    "weights": "0+0+1-2",
}


def test_stories_of_level_2_come_out_as_a_reader_works_them_out() -> None:
    assert {*LEVEL_2} == {template.name for template in load_templates(2)}
    for example in asked(2, 3):
        values = numbers(example.prompt)
        terms = re.findall(r"([-+]?)(\d)", LEVEL_2[example.cluster.split(" ", 2)[2]])
        total = sum(values[int(place)] * (-1 if sign == "-" else 1) for sign, place in terms)
        assert total == int(example.answer), example.prompt


# For level 3, where sentences may come in another order: what to look for, and what to do with it.
LEVEL_3 = {
    "bags": (
        r"has? (\d+) bags with (\d+) |had (\d+) bags with (\d+) ",
        r"finds (\d+) more|borrows (\d+)",
        lambda a, b, c, d: a * b + c - d,
    ),
    "notebooks": (
        r"buys (\d+) notebooks for (\d+)",
        r"pen costs (\d+)|pays with (\d+)",
        lambda a, b, c, d: d - (a * b + c),
    ),
    "pears": (
        r"picks (\d+) pears from|picked (\d+)\.",
        r"among (\d+) children|gets (\d+) plums|eats (\d+) pieces",
        lambda a, b, c, d: a // b + c - d,
    ),
    "half get off": (
        r"with (\d+) passengers",
        r"bridge (\d+) people|all, (\d+) people",
        lambda a, b, c: a // 2 + b - c,
    ),
    "groups": (
        r"(\d+) pupils (?:come|had come)",
        r"(\d+) pupils have to go|groups of (\d+)|are (\d+) groups",
        lambda a, b, c, d: (a - b) // c + d,
    ),
    "crates": (
        r"A truck brings (\d+)",
        r"second truck brings (\d+)|are (\d+) melons|(\d+) melons are sold",
        lambda a, b, c, d: (a + b) * c - d,
    ),
    "three times": (
        r"has (\d+) (?!photos)\w+\.",
        r"has (\d+) \w+ fewer",
        lambda a, b: a + 3 * a - b,
    ),
}


def test_stories_of_level_3_come_out_as_a_reader_works_them_out() -> None:
    read = Counter()
    for example in asked(3, 3):
        name = example.cluster.split(" ", 2)[2]
        if name in LEVEL_3:
            first, then, work_out = LEVEL_3[name]
            found = [
                int(number)
                for pattern in (first, then)
                for match in re.finditer(pattern, example.prompt)
                for number in match.groups()
                if number
            ]
            assert work_out(*found) == int(example.answer), example.prompt
            read[name] += 1
    assert {*read} == {*LEVEL_3} and min(read.values()) > 15


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_level_3_has_numbers_without_a_part_and_stories_out_of_order(steps: int) -> None:
    late = 0
    for example in asked(3, steps):
        story = example.prompt.removeprefix("Question: ").split("\n")[0]
        assert len(numbers(story)) > len(numbers(evidence(example)))
        first = steps_of(example)[0]
        shown = numbers(evidence(example))
        late += shown[0] not in (first[0], first[2])
    assert (late > 100) == (steps > 1)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_there_are_thirty_templates_and_each_is_asked_in_turn(level: int) -> None:
    made = WordProblems(level=level, num_fewshot=0)
    names = [template.name for template in load_templates(level)]
    assert made.kinds == len(names) == len({*names}) >= 30
    openings = {template.lines[0].text for template in load_templates(level)}
    assert len(openings) == len(names)
    examples = made.examples(2 * made.kinds, seed=1)
    for stretch in (examples[: made.kinds], examples[made.kinds :]):
        assert len({example.cluster for example in stretch}) == made.kinds
    assert {example.cluster.split(" ", 2)[2] for example in examples} == {*names}
    for template in load_templates(level):
        assert len(template.slots) == 3
        assert bool(template.idle) == (level == 3)
        # However many numbers a story has, one more is left.
        assert all(high - low >= 5 for _, (low, high) in template.idle)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_shots_come_from_other_templates(level: int) -> None:
    made = WordProblems(level=level)
    alone = WordProblems(level=level, num_fewshot=0).examples(2 * made.kinds, seed=0)
    examples = made.examples(2 * made.kinds, seed=0)
    assert len({example.cluster for example in examples}) == made.kinds
    for example, question in zip(examples, alone, strict=True):
        assert example.id == question.id
        assert len(example.shots) == 3
        for shot in example.shots:
            assert shot.cluster != question.cluster  # of both, the template
            assert made.suits(shot, question)
        assert not made.suits(question, question)


def test_solutions_fit_the_length_that_is_generated() -> None:
    for level, steps in SETTINGS:
        made = WordProblems(level=level, steps=steps)
        # Digits, signs and words are a token each, at worst.
        longest = max(
            len(re.findall(r"\d|\w+|[^\w\s]", one.solution)) for one in asked(level, steps)
        )
        assert longest <= made.max_gen_toks


def test_the_parameter_of_version_1_is_refused() -> None:
    with pytest.raises(InputError, match="operations"):
        task("word_problems", operations="all")
    with pytest.raises(InputError, match="version 3"):
        task("word_problems@1")
    assert WordProblems(level=3, steps=1).label == "word_problems@3[steps=1,level=3]"
