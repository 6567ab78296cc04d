"""What the twins of `distill.py` are taught: stories and their solutions.

The stories have sentences and words of their own. None of them occurs in `word_problems`, which is
what the twins are examined on: only numbers, operations, and the form of question and answer are
the same. So are the kinds of stories: a number that changes, one in two parts, and one that is
compared with another.
"""

import random
from dataclasses import dataclass
from typing import Any

import layerroles as lr

NAMES = """Amir Bella Chen Dora Elif Felix Gita Hugo Ines Jonas Kofi Lena Marek Nadia Omar Petra
    Quinn Rania Stefan Tara Umar Vera Wanda Xavier Yara Zoe""".split()
THINGS = """anchors badges bricks bulbs chairs chestnuts coats combs drums feathers forks gloves
    hammers helmets jackets kettles ladders lamps magnets maps mirrors nails necklaces paddles
    pebbles pillows puzzles ribbons ropes sacks saddles scarves spoons tiles towels vases whistles
    wheels""".split()
PLACES = "bakery balcony cabin castle chapel cottage forest harbor inn orchard palace zoo".split()
OPENINGS = (
    "There are {a} {things} on a shelf that belongs to {name}.",
    "{name} starts the week with {a} {things}.",
    "In the {place}, {name} counts {a} {things}.",
    "Today {a} {things} lie in front of {name}.",
)
GAINS = (
    "Later, {b} further {things} arrive.",
    "{other} brings along another {b} {things}.",
    "The next day {b} extra {things} are added.",
    "An additional {b} {things} come from the {place}.",
)
LOSSES = (
    "After that, {b} of the {things} break.",
    "{other} carries away {b} of the {things}.",
    "As many as {b} {things} are sent to the {place}.",
)
PARTS = (
    "{name} keeps {a} {things} at the {place}, and {b} at the {elsewhere}.",
    "Of the {things} that belong to {name}, {a} lie in the {place} and {b} in the {elsewhere}.",
)
BEYOND = (
    "{other} owns just as many and another {b} on top.",
    "What {other} owns is {b} {things} beyond that.",
)
JOINT = (
    "The two then collect another {b} {things}.",
    "After that, {b} {things} reach the two of them.",
)
QUESTIONS = (
    "What is the number of {things} in the end?",
    "How large is the collection of {name} in the end?",
    "What number of {things} is that in all?",
)
OWNED = ("What number of {things} does {other} own?",)
BOTH = (
    "What number of {things} do {name} and {other} own between them?",
    "How large are both collections in all?",
)

SHOTS = 3


@dataclass(frozen=True)
class Lesson:
    """A prompt, and the target that a model learns to write after it and one space.

    Attributes:
        prompt: the prompt.
        target: the text that is learned.
        kind: kind of story and number of steps; the lessons of one training text have the same.
    """

    prompt: str
    target: str
    kind: str = ""


def make_problems(n: int, seed: int) -> list[lr.Example]:
    """Word problems of one to three steps with the solutions of an exact solver, no two alike.

    Their `id` is their kind and number of steps.
    """
    rng, found = random.Random(f"lessons:{seed}"), {}
    while len(found) < n:
        one = _make_problem(rng, rng.choice((1, 2, 2, 3)))
        found[one.prompt] = one
    return list(found.values())


def make_solution_lesson(problem: lr.Example) -> Lesson:
    """A problem with the solver's solution."""
    return Lesson(problem.prompt, problem.solution, problem.id)


def make_story_lesson(problem: lr.Example) -> Lesson:
    """A problem's story without question and solution."""
    ((start, end),) = problem.evidence
    return Lesson("Story:", problem.prompt[start:end], problem.id)


def make_own_lessons(base: Any, problems: list[lr.Example]) -> list[Lesson]:
    """Return the model's right greedy solutions; three solved problems of a kind are its shots."""
    shown: dict[str, list[lr.Example]] = {}
    asked: list[tuple[str, lr.Example]] = []
    for one in problems:
        shots = shown.setdefault(one.id, [])
        if len(shots) < SHOTS:
            shots.append(one)
        else:
            before = "".join(f"{shot.prompt} {shot.solution}\n\n" for shot in shots)
            asked.append((before + one.prompt, one))
    options = {"until": ["\n\n", "Question:"], "max_gen_toks": 64}
    (texts,) = lr.Engine(base).generate_until([(text, options) for text, _ in asked])
    grade = lr.task("word_problems").grade
    return [
        Lesson(one.prompt, text.strip(), one.id)
        for (_, one), text in zip(asked, texts, strict=True)
        if grade(text, one).strict
    ]


def _make_problem(rng: random.Random, steps: int) -> lr.Example:
    name, other = rng.sample(NAMES, 2)
    given: dict[str, Any] = {"name": name, "other": other, "things": rng.choice(THINGS)}
    # No place comes twice, so that nothing is brought to where other things lie already.
    given["places"] = rng.sample(PLACES, len(PLACES))
    kind = rng.choice(tuple(KINDS))
    story, worked, asked = KINDS[kind](rng, given, steps)
    text = " ".join(story)
    answer = worked[-1].rstrip(".").split()[-1]
    return lr.Example(
        id=f"{kind}, {steps}",
        prompt=f"Question: {text} {asked}\nAnswer:",
        answer=answer,
        evidence=((len("Question: "), len("Question: ") + len(text)),),
        solution=" ".join([*worked, f"The answer is {answer}."]),
    )


_Story = tuple[list[str], list[str], str]  # the story, what is worked out, the question


def _make_change_story(rng: random.Random, given: dict[str, Any], steps: int) -> _Story:
    """A number that grows and shrinks."""
    number = rng.randint(2, 9)
    return _continue_story(
        rng, given, steps, [_fill_template(rng, OPENINGS, given, a=number)], [], number
    )


def _make_parts_story(rng: random.Random, given: dict[str, Any], steps: int) -> _Story:
    """A number in two parts, which then changes."""
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    story = [_fill_template(rng, PARTS, given, a=a, b=b)]
    return _continue_story(rng, given, steps, story, [f"{a} + {b} = {a + b}."], a + b)


def _make_comparison_story(rng: random.Random, given: dict[str, Any], steps: int) -> _Story:
    """A number and one that is larger; then both; then more of both."""
    a, b, more = (rng.randint(2, 9) for _ in range(3))
    story = [_fill_template(rng, OPENINGS, given, a=a), _fill_template(rng, BEYOND, given, b=b)]
    worked = [f"{a} + {b} = {a + b}.", f"{a} + {a + b} = {a + a + b}."]
    worked.append(f"{a + a + b} + {more} = {a + a + b + more}.")
    if steps == 3:
        story.append(_fill_template(rng, JOINT, given, b=more))
    return story, worked[:steps], _fill_template(rng, OWNED if steps == 1 else BOTH, given)


def _continue_story(
    rng: random.Random,
    given: dict[str, Any],
    steps: int,
    story: list[str],
    worked: list[str],
    number: int,
) -> _Story:
    """Continue a story from `number` with gains and losses until `steps` steps are worked out."""
    while len(worked) < steps:
        by = rng.randint(2, 9)
        loses = by < number and rng.random() < 0.25
        story.append(_fill_template(rng, LOSSES if loses else GAINS, given, b=by))
        after = number - by if loses else number + by
        worked.append(f"{number} {'-' if loses else '+'} {by} = {after}.")
        number = after
    return story, worked, _fill_template(rng, QUESTIONS, given)


def _fill_template(
    rng: random.Random, templates: tuple[str, ...], given: dict[str, Any], **numbers: Any
) -> str:
    template = rng.choice(templates)
    for role in ("place", "elsewhere"):
        if f"{{{role}}}" in template:
            numbers |= {role: given["places"].pop()}
    return template.format(**given, **numbers)


KINDS = {
    "changed": _make_change_story,
    "in parts": _make_parts_story,
    "compared": _make_comparison_story,
}
