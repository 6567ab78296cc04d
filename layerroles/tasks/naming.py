"""Read which of several known names a response gives as its answer.

The first sentence counts. The right name must be the first of the known ones in it, must not be
denied, and no other may stand beside it, so that a list of all candidates earns nothing:

>>> paris = Example("1", "The capital of France is", "Paris", choices=("Paris", "Rome"))
>>> for response in ("Paris. The capital of Italy is Rome.", "Paris or Rome", "not Paris"):
...     print(grade_name(response, paris, frozenset()).flexible)
True
False
False
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from layerroles.tasks.base import Example, Grade, is_short, normalised

_ARTICLE = re.compile(r"(?i)^(?:the|a|an)\s+")
# Letters that NFKD leaves as they are.
_LETTERS = str.maketrans("\u2019\u0142\u0141\u00f8\u00d8\u0131", "'lLoOi")
_MARKS = " *\"'`(:"
_OPENING = re.compile(r"(?i)^(?:well|yes|sure|ok|okay|of course|certainly)\b[,.!:]*\s*")
# Not behind an initial (J. S. Bach) or a title (St. Petersburg).
_SENTENCE_END = re.compile(r"(?<=[\w)\"']{2})(?<!\bDr)(?<!\bSt)(?<!\bMr)[.!?](?=\s|$)")

# What may not stand before the name: a denial, another item of a list, or a part of another name.
_DENIED = re.compile(r"(?i)\b(?:not|never|no|neither|nor|unlike|except|cannot)\b|n't\b")
_LISTED = re.compile(r"(?!The\b|An?\b)[A-Z].*(?:[,;/&]|\b(?:or|and))\s*")
_RENAMED = re.compile(r"\b(?:New|North|Northern|South|Southern)\s+$")

# What may not stand behind it: a denial, or another name that only this separates from it.
_RETRACTED = re.compile(r"(?i)\s+(?:is|was|are|were)(?:n't|\s+(?:not|wrong|no longer))\b")
_SEPARATED = (
    r"(?:[\W\d_]|\b[A-Da-d][.)]|\b(?i:and|or|also|either|both|in|then|the|an?"
    r"|vs|versus|maybe|perhaps|possibly|no|wait|rather|actually)\b)*"
)
# So ends what stands alone: "I do not know" does not name iodine, nor "He is a singer" helium.
_ALONE = re.compile(r"$|[^\w\s]|\s+(?:\(|(?:and|which|from|because|as|for|while)\b)")


def grade_name(
    response: str, example: Example, known: frozenset[str], *, alone: bool = False
) -> Grade:
    """Read the first line; accents, case, articles and a repeated question do not count.

    Names of up to three letters that start with a capital count only in their own case. Names that
    start with a small letter, such as those of units, count in singular and plural.

    Args:
        response: what was written.
        example: the question, with the answer and its aliases.
        known: names to tell apart, beside the example's choices.
        alone: the name counts only at the start and apart from other words, as a symbol does.
    """
    line = _plain(response.strip().split("\n", 1)[0])
    accepted = _accepted((example.answer, *example.aliases))
    strict = _bare(line) in accepted
    return Grade(
        strict=strict,
        flexible=strict or _names_first(line, example, known, accepted, alone),
        answered=bool(normalised(line)),
        form=strict or is_short(line, example),
    )


def _names_first(
    line: str, example: Example, known: frozenset[str], accepted: frozenset[str], alone: bool
) -> bool:
    asked = _plain(example.prompt.rsplit("\n", 1)[-1])
    line = _OPENING.sub("", line.lstrip(_MARKS))
    if line.casefold().startswith(asked.casefold()):
        line = line[len(asked) :].lstrip(_MARKS)
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    name = _any_of(known, (example.answer, *example.aliases, *example.choices))
    first = re.search(name, sentence)
    if not first or _bare(first[0]) not in accepted:
        return False
    before, behind = sentence[: first.start()], sentence[first.end() :]
    if alone and (before or not _ALONE.match(behind)):
        return False
    if _DENIED.search(before) or _LISTED.fullmatch(before) or _RENAMED.search(before):
        return False
    beside = re.match(rf"{_SEPARATED}({name})", behind)
    return not _RETRACTED.match(behind) and (not beside or _bare(beside[1]) in accepted)


def _numbers(names: Iterable[str]) -> frozenset[str]:
    """Common nouns in singular and plural; proper names as they are."""
    forms = set(names)
    for name in [each for each in forms if each[:1].islower() and not each.startswith("the ")]:
        forms |= {name.removesuffix("s"), f"{name.removesuffix('s')}s"}
    return frozenset(forms)


@lru_cache(maxsize=1024)
def _accepted(names: tuple[str, ...]) -> frozenset[str]:
    """The spellings that count as one of these names, as `_bare` gives them."""
    return frozenset(map(_bare, _numbers(names)))


@lru_cache(maxsize=1024)
def _any_of(known: frozenset[str], names: tuple[str, ...]) -> str:
    """A pattern of any of these names as whole words, the longest where several start."""
    forms = map(_plain, _numbers((*known, *names)))
    longest_first = sorted(forms, key=lambda name: (-len(name), name))
    either = "|".join(
        re.escape(name) if _case_counts(name) else f"(?i:{re.escape(name)})"
        for name in longest_first
    )
    return rf"(?<!\w)(?:{either})(?!\w|'s\b)"


def _plain(text: str) -> str:
    """The text without accents and repeated white space."""
    letters = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return " ".join("".join(c for c in letters if not unicodedata.combining(c)).split())


def _bare(text: str) -> str:
    """What two spellings of one answer share."""
    bare = _ARTICLE.sub("", _plain(text).strip(" .\"'`*"))
    return bare if _case_counts(bare) else bare.casefold()


def _case_counts(name: str) -> bool:
    return len(name) <= 3 and name[:1].isupper()
