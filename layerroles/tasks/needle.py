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
from dataclasses import dataclass
from typing import ClassVar

from layerroles.tasks.base import Example, register
from layerroles.tasks.generated import Generated, with_wrong
from layerroles.tasks.parameters import one_of, whole
from layerroles.tasks.retrieval import POSITIONS, third
from layerroles.tasks.words import NAMES, NOUNS, PLACES

# A text is asked at so many depths, from before its first sentence to behind its last.
_DEPTHS = 9
# No thing is a place too: the answer occurs once.
_THINGS = tuple(noun for noun in NOUNS if noun not in PLACES)
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

    Wrong choices are other things that occur in the text. Evidence is the password, where the text
    gives it.

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

    @property
    def kinds(self) -> int:
        """One kind for each depth."""
        return len(third(self.position, _DEPTHS))

    def shot(self, rng: random.Random, kind: int) -> Example:
        """Draw a worked example; its depth tells nothing about the question's."""
        return self._at(rng, rng.randrange(_DEPTHS))

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw a text and hide the needle at the depth of this `kind`."""
        return self._at(rng, third(self.position, _DEPTHS)[kind])

    def _at(self, rng: random.Random, depth: int) -> Example:
        who, answer = rng.choice(NAMES), rng.choice(_THINGS)
        others = [noun for noun in _THINGS if noun != answer]
        sentences, seen = _prose(rng, self.words, who, others)
        place = round(depth / (_DEPTHS - 1) * len(sentences))
        before = "".join(f"{sentence} " for sentence in sentences[:place])
        asked = f"The password of {who} is"
        text = " ".join([*sentences[:place], f"{asked} {answer}.", *sentences[place:]])
        start = len(before) + len(asked) + 1
        return Example(
            id="",
            prompt=f"{text}\n{asked}",
            answer=answer,
            choices=with_wrong(answer, rng.sample(seen, 3), rng),
            evidence=((start, start + len(answer)),),
        )


def _end(example: Example) -> str:
    """The beginning of a sentence that asks for the password."""
    return example.prompt.rpartition("\n")[2]


def _prose(
    rng: random.Random, words: int, without: str, nouns: list[str]
) -> tuple[list[str], list[str]]:
    """Sentences of so many words in all, none about `without`, and the nouns in them."""
    names = [name for name in NAMES if name != without]
    # Every thing comes up once before one comes up again.
    deck = rng.sample(nouns, len(nouns))
    sentences: list[str] = []
    while sum(len(sentence.split()) for sentence in sentences) < words:
        # Every frame serves once before one serves again.
        at = len(sentences) % len(_FRAMES)
        if at == 0:
            frames = rng.sample(_FRAMES, len(_FRAMES))
        name, other = rng.sample(names, 2)
        noun = deck[len(sentences) % len(deck)]
        sentence = frames[at].format(name=name, other=other, noun=noun, place=rng.choice(PLACES))
        sentences.append(sentence)
    return sentences, deck[: len(sentences)]
