"""Retrieval: look up the value of a key in a JSON object that is in the prompt.

After the key-value task of Liu et al. 2023, "Lost in the Middle" (arXiv 2307.03172), with far fewer
pairs, and short ones, so that a prompt costs few tokens and small models have a chance. The answer
is nowhere but in the prompt: nothing has to be known or worked out.

Example:
    >>> from layerroles.tasks import task
    >>> example = task("kv_retrieval", pairs=4).examples(limit=1, seed=0)[0]
    >>> (start, end), *_ = example.evidence
    >>> f'"{example.prompt[start:end]}"' == example.answer
    True
"""

import json
import random
import re
import uuid
from dataclasses import dataclass
from typing import ClassVar

from layerroles.tasks.base import Example, Grade, register
from layerroles.tasks.generated import Generated, with_wrong
from layerroles.tasks.mentions import asserted, first_paragraph, named, refuses, straight
from layerroles.tasks.parameters import one_of, whole
from layerroles.tasks.words import NOUNS

KEY_STYLES = ("words", "hex", "uuid")
POSITIONS = ("any", "early", "middle", "late")
_QUOTED = r'"([^"]+)"'
_PAIR = re.compile(rf"{_QUOTED}\s*:\s*{_QUOTED}")


@register("kv_retrieval")
@dataclass(frozen=True, kw_only=True)
class KVRetrieval(Generated):
    """Look up a key in a JSON object.

    Wrong choices are values of other pairs at those places that may be asked, so that its place
    gives no value away. A third of fewer than four places takes in the nearest others: there the
    right value is the first of the choices (`early`) or the last (`late`) more often than by
    chance, and always where a third is a single place (4 or 5 pairs). With 12 pairs or more no
    third is so small.

    Evidence is the value in the asked pair, without its quotes: what has to be copied. The key's
    two places are left out, since looking at them finds nothing.

    Attributes:
        pairs: pairs in the object, 4 to 60.
        position: where the asked pair stands: `early`, `middle`, `late` (a third of the positions
            each, the middle has what is left over) or `any`. It takes every position that is
            allowed equally often; a worked example may stand anywhere.
        key_style: `words`, `hex` (four hexadecimal digits) or `uuid`. Values are words in all
            three.
        num_fewshot: worked examples before each question, of as many pairs.

    Example:
        >>> from layerroles.tasks import task
        >>> (example,) = task("kv_retrieval", pairs=4).examples(limit=1, seed=0)
        >>> start, end = example.evidence[0]
        >>> example.answer == f'"{example.prompt[start:end]}"'
        True
    """

    family: ClassVar[str] = "retrieval"
    # No value holds a comma or a brace, and both follow on a value in JSON.
    until: ClassVar[tuple[str, ...]] = ("\n", ",", "}")
    version: ClassVar[int] = 2
    max_gen_toks: ClassVar[int] = 12

    pairs: int = 10
    position: str = "any"
    key_style: str = "words"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `pairs`, `position` or `key_style` is not one of those above.
        """
        super().__post_init__()
        # The answer and its three wrong choices are values of one object; words serve once.
        whole(self.name, "pairs", self.pairs, 4, 60)
        one_of(self.name, "position", self.position, POSITIONS)
        one_of(self.name, "key_style", self.key_style, KEY_STYLES)

    @property
    def kinds(self) -> int:
        """One kind for each position that the asked pair may take."""
        return len(third(self.position, self.pairs))

    def shot(self, rng: random.Random, kind: int) -> Example:
        """Draw a worked example; its position tells nothing about the question's."""
        return self._asking(rng, rng.randrange(self.pairs), range(self.pairs))

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw an object and ask for the pair at the position of this `kind`."""
        places = third(self.position, self.pairs)
        return self._asking(rng, places[kind], around(places, self.pairs))

    def _asking(self, rng: random.Random, place: int, compared: range) -> Example:
        """Ask for the pair at a place, among choices from the places that are compared."""
        words = rng.sample(NOUNS, 2 * self.pairs)
        values = words[self.pairs :]
        keys = words[: self.pairs] if self.key_style == "words" else _keys(rng, self)
        head = "JSON data:\n{"
        before = ", ".join(f'"{key}": "{value}"' for key, value in zip(keys, values, strict=True))
        start = len(head) + sum(
            len(f'"{key}": "{value}", ')
            for key, value in zip(keys[:place], values[:place], strict=True)
        )
        start += len(f'"{keys[place]}": "')
        others = [values[other] for other in compared if other != place]
        answer = json.dumps(values[place])
        return Example(
            id="",
            prompt=f'{head}{before}}}\n\nPair looked up: "{keys[place]}":',
            answer=answer,
            choices=with_wrong(answer, [json.dumps(word) for word in rng.sample(others, 3)], rng),
            evidence=((start, start + len(values[place])),),
        )

    def candidates(self, example: Example) -> list[str] | None:
        """The values of the object."""
        return re.findall(r': ("[^"]*")', example.prompt.partition("}")[0])

    def grade(self, response: str, example: Example) -> Grade:
        """Strict: the value in its quotes and nothing else. Form: some value so.

        Flexible: it is the only value of the object that the response gives as its answer, with
        any quotes or none, alone or in a sentence. Pairs of other keys that follow it do not
        count. Where an answer ends at a comma (`until`), a list that opens with the right value
        is that value.
        """
        head = re.split(r"[,}\n]", response.strip(), maxsplit=1)[0].strip()
        flexible = _is_given(straight(response), example)
        return Grade(
            strict=flexible and head == example.answer,
            flexible=flexible,
            answered=flexible or (bool(head.strip("\"'`. ")) and not refuses(response)),
            form=re.fullmatch(r'"[^"]+"', head) is not None,
        )


def _is_given(response: str, example: Example) -> bool:
    """Whether the right value, and no other, is given as that of the asked key."""
    value = example.answer.strip('"').casefold()
    pairs = dict(_PAIR.findall(example.prompt))
    known = {value, *pairs.values(), *(choice.strip('"') for choice in example.choices)}
    asked = re.search(r'Pair looked up: "(.+)":$', example.prompt)
    key = asked[1].casefold() if asked else ""
    text = first_paragraph(response, known)
    for pair in _PAIR.finditer(text):
        if pair[1].casefold() != key:
            # It follows on the answer, or stands in its place.
            text = text[: pair.start()]
            break
    keys = named(text, pairs)
    if keys and key not in text.casefold():
        return False
    text = asserted(text)
    # What is quoted is meant as a value, whether the object has it or not; a sentence is not.
    quoted = {" ".join(each.split()).strip(" .,").casefold() for each in re.findall(_QUOTED, text)}
    short = {each for each in quoted if len(each.split()) < 3}
    return named(text, known) == {value} and short <= {value, key}


def third(position: str, places: int) -> range:
    """The places that `early`, `middle`, `late` or `any` leaves open, of so many."""
    early, late = places // 3, places - places // 3
    return {
        "any": range(places),
        "early": range(early),
        "middle": range(early, late),
        "late": range(late, places),
    }[position]


def around(own: range, places: int, least: int = 4) -> range:
    """The shortest run of so many places that holds `own` and has at least four.

    Example:
        >>> around(range(0, 3), 10), around(range(7, 10), 10), around(range(4, 8), 12)
        (range(0, 4), range(6, 10), range(4, 8))
    """
    length = max(len(own), least)
    start = max(own.start - (length - len(own)) // 2, 0)
    start = min(start, places - length)
    return range(start, start + length)


def _keys(rng: random.Random, task: KVRetrieval) -> list[str]:
    if task.key_style == "hex":
        return [f"{number:04x}" for number in rng.sample(range(0x1000, 0x10000), task.pairs)]
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(task.pairs)]
