"""Retrieval: find one fact in a long text about other things.

A needle in a haystack (Kamradt 2023), as retrieval heads were found with it (Wu et al. 2024, arXiv
2404.15574): a sentence that gives somebody a password stands at some depth in prose without end or
point, and the beginning of that sentence asks for it. The prose is drawn from a few frames, so that
a text can have any length and no model has seen it.

Example:
    >>> from layerroles.tasks import task
    >>> example = task("needle", words=60, position="late").examples(limit=1, seed=0)[0]
    >>> (start, end), *_ = example.evidence
    >>> example.prompt[start:end] == example.answer
    True
"""

import random
import re
from dataclasses import dataclass
from itertools import cycle
from typing import ClassVar

from layerroles.tasks.base import Example, Grade, is_short, normalised, register
from layerroles.tasks.generated import Generated, with_wrong
from layerroles.tasks.mentions import asserted, first_paragraph, named, refuses, straight
from layerroles.tasks.parameters import one_of, whole
from layerroles.tasks.retrieval import POSITIONS, around, third
from layerroles.tasks.words import NAMES, NOUNS, PLACES

# A text is asked at so many depths, from before its first sentence to behind its last.
_DEPTHS = 9
# No thing is a place too, or in the frames: every choice occurs once.
_THINGS = tuple(noun for noun in NOUNS if noun not in (*PLACES, "window"))
_FRAMES = (
    "{name} walked past the {place} and saw a {noun} near the door.",
    "In the morning somebody had left a {noun} in the {place}.",
    "Nobody at the {place} could say where the {noun} came from.",
    "{name} and {other} talked about the {noun} for more than an hour.",
    "It rained all day, and the {place} looked smaller than the {noun} in the old picture.",
    "Later {name} carried the {noun} back to the {place} without a word.",
    "There was a {noun} in the window, which {name} had never liked.",
    "When {name} came home, the {noun} still stood behind the {place}.",
)


@register("needle")
@dataclass(frozen=True, kw_only=True)
class Needle(Generated):
    """Find the password that a long text gives to somebody.

    Wrong choices are things that occur once in the text, as the password does, at depths where a
    needle may stand. `early`, `middle` and `late` have three such depths and take in a fourth: the
    password then is the first of the choices (`early`, `middle`) or the last (`late`) in a third of
    the questions instead of a quarter. Evidence is the password, where the text gives it.

    Attributes:
        words: length of the text around the needle in words, 40 to 20000; a word takes 1.3 tokens
            or so. It ends with the sentence that reaches the length.
        position: in which third of the text the needle stands: `early`, `middle`, `late`, or `any`
            of nine depths, each equally often.
        num_fewshot: worked examples before each question, texts as long, about others than who is
            asked for.

    Example:
        >>> from layerroles.tasks import task
        >>> (example,) = task("needle", words=60, position="late").examples(limit=1, seed=0)
        >>> start, end = example.evidence[0]
        >>> example.prompt[start:end] == example.answer
        True
    """

    family: ClassVar[str] = "retrieval"
    until: ClassVar[tuple[str, ...]] = ("\n", ".", ",")
    max_gen_toks: ClassVar[int] = 8
    version: ClassVar[int] = 2

    words: int = 100
    position: str = "any"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `words` or `position` is not one of those above.
        """
        super().__post_init__()
        whole(self.name, "words", self.words, 40, 20_000)
        one_of(self.name, "position", self.position, POSITIONS)

    def suits(self, shot: Example, question: Example) -> bool:
        """No shot gives a password to who is asked for."""
        return _end(shot) != _end(question)

    def grade(self, response: str, example: Example) -> Grade:
        """Strict: the first line is the password. Form: it has no more words than a password.

        Flexible: the first sentence that names a thing of the text names the password alone, and
        nobody but who is asked for; no list of other things follows.
        """
        line = response.strip().split("\n", 1)[0]
        flexible = _is_given(straight(response), example)
        return Grade(
            strict=flexible and normalised(line) == normalised(example.answer),
            flexible=flexible,
            answered=flexible or (bool(normalised(line)) and not refuses(response)),
            form=is_short(line, example),
        )

    @property
    def kinds(self) -> int:
        """One kind for each depth."""
        return len(third(self.position, _DEPTHS))

    def shot(self, rng: random.Random, kind: int) -> Example:
        """Draw a worked example; its depth tells nothing about the question's."""
        return self._at(rng, rng.randrange(_DEPTHS), range(_DEPTHS))

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw a text and hide the needle at the depth of this `kind`."""
        depths = third(self.position, _DEPTHS)
        return self._at(rng, depths[kind], around(depths, _DEPTHS))

    def _at(self, rng: random.Random, depth: int, compared: range) -> Example:
        """Hide the needle at a depth, among choices at the depths that are compared."""
        who, answer = rng.choice(NAMES), rng.choice(_THINGS)
        frames = _prose(rng, self.words, who)
        place = _place(depth, len(frames))
        # With the needle there is a sentence more; those after it move on.
        wrong_at = [
            other - (other > place)
            for other in rng.sample(_others(place, compared, len(frames)), 3)
        ]
        things = rng.sample([noun for noun in _THINGS if noun != answer], len(_THINGS) - 1)
        wrong = dict(zip(wrong_at, things[:3], strict=True))
        # Every other thing comes up once before one comes up again.
        rest = cycle(things[3:])
        sentences = [
            frame.replace("{noun}", wrong[at] if at in wrong else next(rest))
            for at, frame in enumerate(frames)
        ]
        before = "".join(f"{sentence} " for sentence in sentences[:place])
        asked = f"The password of {who} is"
        text = " ".join([*sentences[:place], f"{asked} {answer}.", *sentences[place:]])
        start = len(before) + len(asked) + 1
        return Example(
            id="",
            prompt=f"{text}\n{asked}",
            answer=answer,
            choices=with_wrong(answer, things[:3], rng),
            evidence=((start, start + len(answer)),),
        )


def _is_given(response: str, example: Example) -> bool:
    """Whether the password, and nothing else, is given as that of who is asked for."""
    answer = example.answer.casefold()
    things = {answer, *example.choices, *named(example.prompt, (*NOUNS, *PLACES))}
    paragraph = first_paragraph(response, things)
    sentences = [asserted(each) for each in re.split(r"[.!?;\n]+", paragraph)]
    claims = [sentence for sentence in sentences if named(sentence, things)]
    # Behind the answer, a thing alone is one more of a list; a sentence is a text that goes on.
    listed = [claim for claim in claims[1:] if len(claim.split()) < 3]
    if not claims or named(" ".join([claims[0], *listed]), things) != {answer}:
        return False
    who = named(_end(example), NAMES)
    others = named(claims[0], NAMES) - who
    return not others or bool(named(claims[0], who))


def _end(example: Example) -> str:
    """The beginning of a sentence that asks for the password."""
    return example.prompt.rpartition("\n")[2]


def _place(depth: int, sentences: int) -> int:
    """How many of the other sentences stand before a needle at this depth."""
    return round(depth / (_DEPTHS - 1) * sentences)


def _others(place: int, compared: range, sentences: int) -> list[int]:
    """Places, the needle's own left out, at the depths that are compared; three or more."""
    places = sorted({_place(depth, sentences) for depth in compared})
    if len(places) < 4:  # in a short text, depths share places
        places = list(around(range(places[0], places[-1] + 1), sentences + 1))
    return [other for other in places if other != place]


def _prose(rng: random.Random, words: int, without: str) -> list[str]:
    """Sentences of so many words in all, none about `without`, each with a gap for a thing."""
    names = [name for name in NAMES if name != without]
    sentences: list[str] = []
    length = 0
    while length < words:
        # Every frame serves once before one serves again.
        at = len(sentences) % len(_FRAMES)
        if at == 0:
            frames = rng.sample(_FRAMES, len(_FRAMES))
        name, other = rng.sample(names, 2)
        place = rng.choice(PLACES)
        sentences.append(frames[at].format(name=name, other=other, noun="{noun}", place=place))
        length += len(sentences[-1].split())
    return sentences
