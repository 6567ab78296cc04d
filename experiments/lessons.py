"""What the twins of `distill.py` are taught: stories and their solutions.

The stories have sentences and words of their own. None of them occurs in `word_problems`, which is
what the twins are examined on: only numbers, and the form of question and answer, are the same.
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
QUESTIONS = (
    "What is the number of {things} in the end?",
    "How large is the collection of {name} in the end?",
    "What number of {things} is that in all?",
)


@dataclass(frozen=True)
class Lesson:
    """A text of which `target`, which follows after one space, is learned."""

    prompt: str
    target: str


def problems(n: int, seed: int) -> list[lr.Example]:
    """Word problems of one to three steps with the solutions of an exact solver, no two alike."""
    rng, found = random.Random(f"lessons:{seed}"), {}
    while len(found) < n:
        one = _problem(rng, rng.choice((1, 2, 2, 3)))
        found[one.prompt] = one
    return list(found.values())


def told(problem: lr.Example) -> Lesson:
    """A problem's story without question and solution."""
    ((start, end),) = problem.evidence
    return Lesson("Story:", problem.prompt[start:end])


def own_solutions(base: Any, problems: list[lr.Example]) -> list[Lesson]:
    """The model's own greedy solutions that came out right, asked behind worked examples."""
    *asked, one, two, three = problems
    shots = "".join(f"{shot.prompt} {shot.solution}\n\n" for shot in (one, two, three))
    options = {"until": ["\n\n", "Question:"], "max_gen_toks": 64}
    (texts,) = lr.Engine(base).generate_until([(shots + one.prompt, options) for one in asked])
    grade = lr.task("word_problems").grade
    return [
        Lesson(one.prompt, text.strip())
        for one, text in zip(asked, texts, strict=True)
        if grade(text, one).strict
    ]


def _problem(rng: random.Random, steps: int) -> lr.Example:
    name, other = rng.sample(NAMES, 2)
    given = {"name": name, "other": other, "things": rng.choice(THINGS)}
    given["place"] = rng.choice(PLACES)
    number = rng.randint(2, 9)
    story, worked = [rng.choice(OPENINGS).format(a=number, **given)], []
    for _ in range(steps):
        by = rng.randint(2, 9)
        loses = by < number and rng.random() < 0.25
        story.append(rng.choice(LOSSES if loses else GAINS).format(b=by, **given))
        after = number - by if loses else number + by
        worked.append(f"{number} {'-' if loses else '+'} {by} = {after}.")
        number = after
    text = " ".join(story)
    return lr.Example(
        id="",
        prompt=f"Question: {text} {rng.choice(QUESTIONS).format(**given)}\nAnswer:",
        answer=str(number),
        evidence=((len("Question: "), len("Question: ") + len(text)),),
        solution=" ".join([*worked, f"The answer is {number}."]),
    )
