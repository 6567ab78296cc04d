"""Retrieval: find the answer in the prompt, in a JSON object or in a long text.

The answer is only in the prompt, so no knowledge and no reasoning is needed.

`kv_retrieval` looks up the value of a key in a JSON object. It is the key-value task of Liu et al.
2023, "Lost in the Middle" (arXiv 2307.03172), with far fewer and shorter pairs, so that a prompt
has few tokens and small models have a chance.

`needle` finds one fact in a long text on other subjects: a needle in a haystack (Kamradt 2023), the
task by which retrieval heads were found (Wu et al. 2024, arXiv 2404.15574). A sentence that gives
somebody's password, the needle, is inserted at one of nine depths: positions in the text from its
start to its end. The prompt ends with the beginning of that sentence. The prose is drawn from a few
sentence frames with gaps, so that a text can have any length and no model was trained on it.

Example:
    >>> from layerroles.tasks import task
    >>> example = task("kv_retrieval", pairs=4).examples(limit=1, seed=0)[0]
    >>> (start, end), *_ = example.evidence
    >>> f'"{example.prompt[start:end]}"' == example.answer
    True
    >>> example = task("needle", words=60, position="late").examples(limit=1, seed=0)[0]
    >>> (start, end), *_ = example.evidence
    >>> example.prompt[start:end] == example.answer
    True
"""

import json
import random
import re
import uuid
from dataclasses import dataclass
from itertools import cycle
from typing import ClassVar

from layerroles.tasks.base import (
    Example,
    Grade,
    check_one_of,
    check_whole_number,
    has_answer_length,
    normalize_text,
    register,
)
from layerroles.tasks.grade_retrieval import (
    find_asked_key,
    find_question,
    gives_password,
    gives_value,
    is_refusal,
)
from layerroles.tasks.task_base_classes import Generated, shuffle_choices
from layerroles.tasks.vocabulary import NAMES, NOUNS, PLACES
from layerroles.tasks.wordings import KV_RETRIEVAL, check_template, reword

POSITIONS = ("any", "early", "middle", "late")
KEY_STYLES = ("words", "hex", "uuid")
# Number of depths of a needle, from before the first sentence to after the last.
_DEPTHS = 9
# Nouns that are neither places nor in a frame, so that every choice occurs once in a text.
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


@register("kv_retrieval")
@dataclass(frozen=True, kw_only=True)
class KVRetrieval(Generated):
    """Look up a key in a JSON object.

    Wrong choices are values of other pairs at positions that the parameter `position` allows, so
    that the position in the object does not give the right value away. If `position` allows fewer
    than four (a third of fewer than 12 pairs), the nearest other positions are used too. Then the
    right value is the first of the choices in the object (`early`) or the last (`late`) more often
    than by chance, and always if only one position is allowed (4 or 5 pairs).

    Evidence is the value in the asked pair, without its quotes. The key is not evidence: it does
    not contain the answer.

    Attributes:
        pairs: number of pairs in the object, 4 to 60.
        position: position of the asked pair in the object: `early`, `middle` or `late` (a third of
            the positions each; the middle has the remainder), or `any`. Allowed positions are asked
            equally often; worked examples ask any position.
        key_style: `words`, `hex` (four hexadecimal digits) or `uuid`. Values are always words.
        num_fewshot: worked examples before each question, with the same number of pairs.
        shot_order: the order of the worked examples: `drawn` or `reversed`.
        template: the wording of the prompt, 0 to 3; see `tasks.wordings`.

    Example:
        >>> from layerroles.tasks import task
        >>> (example,) = task("kv_retrieval", pairs=4).examples(limit=1, seed=0)
        >>> start, end = example.evidence[0]
        >>> example.answer == f'"{example.prompt[start:end]}"'
        True
    """

    family: ClassVar[str] = "retrieval"
    # No value contains a comma or a brace, and in JSON one of them follows a value.
    until: ClassVar[tuple[str, ...]] = ("\n", ",", "}")
    version: ClassVar[int] = 2
    max_gen_toks: ClassVar[int] = 12

    pairs: int = 10
    position: str = "any"
    key_style: str = "words"
    template: int = 0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `pairs`, `position`, `key_style` or `template` has a value that is not
                allowed.
        """
        super().__post_init__()
        # The four choices are values of one object; 60 pairs take 120 different words.
        check_whole_number(self.name, "pairs", self.pairs, 4, 60)
        check_one_of(self.name, "position", self.position, POSITIONS)
        check_one_of(self.name, "key_style", self.key_style, KEY_STYLES)
        check_template(self.name, self.template, KV_RETRIEVAL)

    @property
    def kinds(self) -> int:
        """The number of kinds of questions: one for each position that `position` allows."""
        return len(open_places(self.position, self.pairs))

    def shot(self, rng: random.Random, kind: int) -> Example:
        """Draw a worked example; its position is independent of the question's."""
        return self._ask_for_place(rng, rng.randrange(self.pairs), range(self.pairs))

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw an object and ask for the pair at the allowed position with index `kind`."""
        places = open_places(self.position, self.pairs)
        return self._ask_for_place(rng, places[kind], widen_range(places, self.pairs))

    def _ask_for_place(self, rng: random.Random, place: int, compared: range) -> Example:
        """Return a question that asks for the pair at index `place`.

        Wrong choices are values at indices in `compared`.
        """
        words = rng.sample(NOUNS, 2 * self.pairs)
        values = words[self.pairs :]
        keys = words[: self.pairs] if self.key_style == "words" else _draw_keys(rng, self)
        head = "JSON data:\n{"
        pairs = [f'"{key}": "{value}"' for key, value in zip(keys, values, strict=True)]
        end = len(head + ", ".join(pairs[: place + 1])) - 1  # of the value, before its last quote
        other_values = [values[other_place] for other_place in compared if other_place != place]
        answer = json.dumps(values[place])
        return Example(
            id="",
            prompt=f'{head}{", ".join(pairs)}}}\n\nPair looked up: "{keys[place]}":',
            answer=answer,
            choices=shuffle_choices(
                answer, [json.dumps(word) for word in rng.sample(other_values, 3)], rng
            ),
            evidence=((end - len(values[place]), end),),
        )

    def reworded(self, example: Example) -> Example:
        """Return a question or a shot in the wording that `template` selects."""
        start, end = example.prompt.index("{"), example.prompt.index("}") + 1
        return reword(
            example, (start, end), KV_RETRIEVAL[self.template], key=find_asked_key(example.prompt)
        )

    def candidates(self, example: Example) -> list[str] | None:
        """Return all values of the object, with their quotes."""
        return re.findall(r': ("[^"]*")', example.prompt.partition("}")[0])

    def grade(self, response: str, example: Example) -> Grade:
        """Grade the value that the response gives.

        Flexible: the right value is the only value of the object that the response gives as its
        answer, in quotes or not, alone or in a sentence. Pairs with other keys, and the text after
        them, are ignored. Strict: flexible, and the text up to the first comma, brace or line break
        is exactly the value in quotes. Form: that text is some value in quotes. If generation stops
        at a comma (`until`), a list that begins with the right value counts as that value.
        """
        head = re.split(r"[,}\n]", response.strip(), maxsplit=1)[0].strip()
        flexible = gives_value(response, example)
        return Grade(
            strict=flexible and head == example.answer,
            flexible=flexible,
            answered=flexible or (bool(head.strip("\"'`. ")) and not is_refusal(response)),
            form=re.fullmatch(r'"[^"]+"', head) is not None,
        )


def _draw_keys(rng: random.Random, task: KVRetrieval) -> list[str]:
    if task.key_style == "hex":
        return [f"{number:04x}" for number in rng.sample(range(0x1000, 0x10000), task.pairs)]
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(task.pairs)]


@register("needle")
@dataclass(frozen=True, kw_only=True)
class Needle(Generated):
    """Find the password that a long text gives to somebody.

    Wrong choices are other things that occur once in the text, at depths that the needle (the
    sentence with the password) may have. `early`, `middle` and `late` allow only three depths, so
    the next depth is used too. The password is then the first of the choices in the text (`early`,
    `middle`) or the last (`late`) in a third of the questions, instead of a quarter. Evidence is
    the password in the text.

    Attributes:
        words: length in words of the text around the needle, 40 to 20000 (about 1.3 tokens per
            word). The text ends with the sentence that reaches this length.
        position: the third of the text that contains the needle: `early`, `middle` or `late`; or
            `any` of nine depths. Allowed depths are used equally often.
        num_fewshot: worked examples before each question: texts of the same length that ask for the
            passwords of other people.
        shot_order: the order of the worked examples: `drawn` or `reversed`.

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
            InputError: `words` or `position` has a value that is not allowed.
        """
        super().__post_init__()
        check_whole_number(self.name, "words", self.words, 40, 20_000)
        check_one_of(self.name, "position", self.position, POSITIONS)

    def suits(self, shot: Example, question: Example) -> bool:
        """Return whether a shot asks for the password of another person than the question."""
        return find_question(shot) != find_question(question)

    def grade(self, response: str, example: Example) -> Grade:
        """Grade the password that the response gives.

        Flexible: the first sentence that names a thing of the text names only the password. If it
        names people, the person in the question is among them. No list of other things follows.
        Strict: flexible, and the first line is the password. Form: the first line has no more words
        than a password.
        """
        line = response.strip().split("\n", 1)[0]
        flexible = gives_password(response, example)
        return Grade(
            strict=flexible and normalize_text(line) == normalize_text(example.answer),
            flexible=flexible,
            answered=flexible or (bool(normalize_text(line)) and not is_refusal(response)),
            form=has_answer_length(line, example),
        )

    @property
    def kinds(self) -> int:
        """The number of kinds of questions: one for each depth that `position` allows."""
        return len(open_places(self.position, _DEPTHS))

    def shot(self, rng: random.Random, kind: int) -> Example:
        """Draw a worked example; its depth is independent of the question's."""
        return self._hide_at(rng, rng.randrange(_DEPTHS), range(_DEPTHS))

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw a text, and insert the needle at the allowed depth with index `kind`."""
        depths = open_places(self.position, _DEPTHS)
        return self._hide_at(rng, depths[kind], widen_range(depths, _DEPTHS))

    def _hide_at(self, rng: random.Random, depth: int, compared: range) -> Example:
        """Return a question with the needle at `depth`; wrong choices are at depths in `compared`.

        Depths are 0 (before the first sentence) to 8 (after the last).
        """
        who, answer = rng.choice(NAMES), rng.choice(_THINGS)
        frames = _draw_frames(rng, self.words, who)
        place = _count_sentences_before(depth, len(frames))
        # Indices in the text without the needle: after its place, they are one less than with it.
        wrong_at = [
            other_place - (other_place > place)
            for other_place in rng.sample(_other_places(place, compared, len(frames)), 3)
        ]
        things = rng.sample([noun for noun in _THINGS if noun != answer], len(_THINGS) - 1)
        wrong_things = dict(zip(wrong_at, things[:3], strict=True))
        # Every other thing is used once before one is used again.
        further_things = cycle(things[3:])
        sentences = [
            frame.replace(
                "{noun}", wrong_things[at] if at in wrong_things else next(further_things)
            )
            for at, frame in enumerate(frames)
        ]
        question = f"The password of {who} is"
        text_before = " ".join([*sentences[:place], question])
        text = " ".join([text_before, f"{answer}.", *sentences[place:]])
        start = len(text_before) + 1
        return Example(
            id="",
            prompt=f"{text}\n{question}",
            answer=answer,
            choices=shuffle_choices(answer, things[:3], rng),
            evidence=((start, start + len(answer)),),
        )


def _draw_frames(rng: random.Random, words: int, without: str) -> list[str]:
    """Draw sentences of at least `words` words in all, each with the gap `{noun}`.

    No sentence contains the name `without`.
    """
    names = [name for name in NAMES if name != without]
    sentences: list[str] = []
    length = 0
    while length < words:
        # Every frame is used once before one is used again.
        at = len(sentences) % len(_FRAMES)
        if at == 0:
            frames = rng.sample(_FRAMES, len(_FRAMES))
        name, other = rng.sample(names, 2)
        place = rng.choice(PLACES)
        sentences.append(frames[at].format(name=name, other=other, noun="{noun}", place=place))
        length += len(sentences[-1].split())
    return sentences


def _count_sentences_before(depth: int, sentences: int) -> int:
    """Return how many of `sentences` other sentences precede a needle at `depth` (0 to 8)."""
    return round(depth / (_DEPTHS - 1) * sentences)


def _other_places(place: int, compared: range, sentences: int) -> list[int]:
    """Return at least three places for wrong choices, none of them the needle's `place`.

    A place is a sentence's index in the text with the needle. The result holds the places that a
    needle would have at the depths in `compared`. If these are too few, as in a short text, places
    around and between them are added.

    Args:
        place: the needle's place.
        compared: depths, 0 to 8.
        sentences: the number of sentences other than the needle.
    """
    places = sorted({_count_sentences_before(depth, sentences) for depth in compared})
    if len(places) < 4:  # in a short text, depths share places
        places = list(widen_range(range(places[0], places[-1] + 1), sentences + 1))
    return [other_place for other_place in places if other_place != place]


def open_places(position: str, n_places: int) -> range:
    """Return the indices below `n_places` that `position` allows.

    `any` allows all of them; `early`, `middle` and `late` allow a third each, `middle` the
    remainder too.
    """
    early, late = n_places // 3, n_places - n_places // 3
    return {
        "any": range(n_places),
        "early": range(early),
        "middle": range(early, late),
        "late": range(late, n_places),
    }[position]


def widen_range(inner: range, n_places: int, fewest: int = 4) -> range:
    """Return the shortest range that contains `inner` and has at least `fewest` indices.

    All its indices are below `n_places`.

    Example:
        >>> widen_range(range(0, 3), 10), widen_range(range(4, 8), 12)
        (range(0, 4), range(4, 8))
    """
    length = max(len(inner), fewest)
    start = max(inner.start - (length - len(inner)) // 2, 0)
    start = min(start, n_places - length)
    return range(start, start + length)
