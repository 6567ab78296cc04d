"""Little stories in which a number changes step by step: the stuff of word problems.

A story starts with a number or with a first operation, goes on with gains and losses, and may end
with an equal share. Numbers stay whole, above zero and small.
"""

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from layerroles.tasks.words import NAMES, PLACES, THINGS

LARGEST = 100


@dataclass(frozen=True)
class Step:
    """One operation: `before op by`."""

    before: int
    op: str
    by: int

    @property
    def after(self) -> int:
        """What comes out; a division always comes out even."""
        return apply(self.before, self.op, self.by)

    def __str__(self) -> str:
        return f"{self.before} {self.op} {self.by} = {self.after}"


@dataclass(frozen=True)
class Story:
    """What is told, what is asked, how it is worked out.

    Attributes:
        who: whose story it is.
        other: a second one who holds things too, or nobody.
        unit: what is counted.
        start: the number before the first step.
        told: the sentences of the story.
        asked: the question.
        steps: the operations, each starting from what came out of the one before.
    """

    who: str
    unit: str
    start: int
    told: tuple[str, ...]
    asked: str
    other: str = ""
    steps: tuple[Step, ...] = ()


Opening = Callable[[random.Random], Story]


def apply(before: int, op: str, by: int) -> int:
    """Compute `before op by`, where op is one of `+ - * /`."""
    compute = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
    return int(compute[op](before, by))


def tell(rng: random.Random, opening: Opening, steps: int, *, sums_only: bool) -> Story:
    """Draw a story of exactly `steps` operations, all of them sums if `sums_only`."""
    while True:
        story: Story | None = opening(rng)
        while story is not None and len(story.steps) < steps:
            last = len(story.steps) == steps - 1
            story = _next(rng, story, last=last, sums_only=sums_only)
        if story is not None and max(step.after for step in story.steps) <= LARGEST:
            return story


def _holding(rng: random.Random) -> Story:
    who, things, start = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 9)
    return Story(
        who=who,
        told=(f"{who} has {start} {things}.",),
        asked=f"How many {things} does {who} have now?",
        unit=things,
        start=start,
    )


def _more_than(rng: random.Random) -> Story:
    (who, other), things = rng.sample(NAMES, 2), rng.choice(THINGS)
    start, more = rng.randint(2, 9), rng.randint(2, 9)
    return Story(
        who=who,
        told=(f"{who} has {start} {things}.", f"{other} has {more} {things} more than {who}."),
        asked=f"How many {things} does {other} have?",
        unit=things,
        start=start,
        other=other,
        steps=(Step(start, "+", more),),
    )


def _boxes(rng: random.Random) -> Story:
    who, things = rng.choice(NAMES), rng.choice(THINGS)
    holder = rng.choice(("bags", "baskets", "boxes", "jars"))
    many, each = rng.randint(2, 6), rng.randint(2, 9)
    return Story(
        who=who,
        told=(f"{who} has {many} {holder} with {each} {things} in each.",),
        asked=f"How many {things} does {who} have now?",
        unit=things,
        start=many,
        steps=(Step(many, "*", each),),
    )


def _two_places(rng: random.Random) -> Story:
    who, things = rng.choice(NAMES), rng.choice(THINGS)
    first, second = rng.sample(PLACES, 2)
    here, there = rng.randint(2, 9), rng.randint(2, 9)
    return Story(
        who=who,
        told=(f"{who} has {here} {things} in the {first} and {there} {things} in the {second}.",),
        asked=f"How many {things} does {who} have now?",
        unit=things,
        start=here,
        steps=(Step(here, "+", there),),
    )


def _shopping(rng: random.Random) -> Story:
    who, things = rng.choice(NAMES), rng.choice(THINGS)
    many, price = rng.randint(2, 8), rng.randint(2, 9)
    return Story(
        who=who,
        told=(f"{who} buys {many} {things} for {price} dollars each.",),
        asked=f"How many dollars does {who} spend?",
        unit="dollars",
        start=many,
        steps=(Step(many, "*", price),),
    )


# Those whose operation is a sum come first, so that a kind is the same story with and without
# the others.
SUMS: tuple[Opening, ...] = (_holding, _two_places, _more_than)
OPENINGS: tuple[Opening, ...] = (*SUMS, _boxes, _shopping)


def _next(rng: random.Random, story: Story, *, last: bool, sums_only: bool) -> Story | None:
    """The story with one operation more, or nothing if the draw does not fit."""
    now = story.steps[-1].after if story.steps else story.start
    if story.other:
        return _together(rng, story, now)
    if story.unit == "dollars":
        return _spend(rng, story, now, last=last)
    if not sums_only and last and story.steps and rng.random() < 0.25:
        return _share(rng, story, now)
    by = rng.randint(2, 9)
    if sums_only or rng.random() < 0.5:
        told, step = _gain(rng, story, by), Step(now, "+", by)
    elif by < now:
        told, step = _loss(rng, story, by), Step(now, "-", by)
    else:
        return None
    return replace(story, told=(*story.told, told), steps=(*story.steps, step))


def _together(rng: random.Random, story: Story, now: int) -> Story:
    if len(story.steps) == 1:
        return replace(
            story,
            asked=f"How many {story.unit} do they have together?",
            steps=(*story.steps, Step(story.start, "+", now)),
        )
    by, get = rng.randint(2, 9), rng.choice(("buy", "find", "get"))
    return replace(
        story,
        told=(*story.told, f"Then they {get} {by} more {story.unit}."),
        asked=f"How many {story.unit} do they have together now?",
        steps=(*story.steps, Step(now, "+", by)),
    )


def _gain(rng: random.Random, story: Story, by: int) -> str:
    other = rng.choice([name for name in NAMES if name != story.who])
    return rng.choice(
        (
            f"{story.who} buys {by} more {story.unit}.",
            f"{story.who} finds {by} more {story.unit}.",
            f"{other} gives {story.who} {by} more {story.unit}.",
        )
    )


def _loss(rng: random.Random, story: Story, by: int) -> str:
    other = rng.choice([name for name in NAMES if name != story.who])
    return rng.choice(
        (
            f"{story.who} loses {by} {story.unit}.",
            f"{story.who} sells {by} {story.unit}.",
            f"{story.who} gives {by} {story.unit} to {other}.",
        )
    )


def _spend(rng: random.Random, story: Story, now: int, *, last: bool) -> Story | None:
    if last and rng.random() < 0.5:
        paid = now + rng.randint(2, 20)
        return replace(
            story,
            told=(*story.told, f"{story.who} had {paid} dollars before."),
            asked=f"How many dollars does {story.who} have left?",
            steps=(*story.steps, Step(paid, "-", now)),
        )
    by, where = rng.randint(2, 9), rng.choice(PLACES)
    return replace(
        story,
        told=(*story.told, f"{story.who} also spends {by} dollars at the {where}."),
        steps=(*story.steps, Step(now, "+", by)),
    )


def _share(rng: random.Random, story: Story, now: int) -> Story | None:
    among = [friends for friends in range(2, 7) if now % friends == 0 and now > friends]
    if not among:
        return None
    friends = rng.choice(among)
    return replace(
        story,
        told=(*story.told, f"{story.who} shares them equally among {friends} friends."),
        asked=f"How many {story.unit} does each friend get?",
        steps=(*story.steps, Step(now, "/", friends)),
    )
