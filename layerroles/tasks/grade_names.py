"""Grade a response by the name that it gives as its answer.

Known names are the question's answers and choices, and further names of their kind. Only the first
sentence counts. The right name must be the first known name in it, must not be negated, and must
not be listed with another known name, so that a list of all candidates scores nothing:

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
from difflib import SequenceMatcher
from functools import lru_cache

from layerroles.tasks.base import Example, Grade, has_answer_length, normalize_text

# Above this similarity, two first names are one name: Johann and Johannes, not Ingrid and Ingmar.
_ALIKE = 0.7
_ARTICLE = re.compile(r"(?i)^(?:the|a|an)\s+")
_PLURALS = {"krone": "kroner", "krona": "kronor"}
# Letters that NFKD does not decompose, and what replaces them.
_LETTERS = str.maketrans("\u2019\u0142\u0141\u00f8\u00d8\u0131", "'lLoOi")
_MARKS = " *\"'`(:"
_OPENING = re.compile(r"(?i)^(?:well|yes|sure|ok|okay|of course|certainly)\b[,.!:]*\s*")
# The end of a sentence, not the stop after an initial (J. S. Bach) or a title (St. Petersburg).
_SENTENCE_END = re.compile(r"(?<=[\w)\"']{2})(?<!\bDr)(?<!\bSt)(?<!\bMr)(?<!\bProf)[.!?](?=\s|$)")

# What may not stand before the name: a denial, another item of a list, or a part of another name.
_DENIED = re.compile(r"(?i)\b(?:not|never|no|neither|nor|unlike|except|cannot)\b|n't\b")
_LISTED = re.compile(r"(?!The\b|An?\b)[A-Z].*(?:[,;/&]|\b(?:or|and))\s*")
# A place before the name of its country, as in "Paris, France".
_PLACE = re.compile(r"\b[A-Z][\w.'-]*(?: (?:[A-Z][\w.'-]*|of|on|upon|de|la|al))*, (?:the )?$")
# Capitalized words directly before a surname; then, in lower case, such words that are not names.
_FIRST_NAMES = re.compile(r"(?:\b[A-Z][\w.-]*\s+)+$")
_NOT_NAMES = frozenset(
    "the a an by it probably perhaps maybe dr prof professor mr mrs ms sir lord lady count author "
    "writer novelist poet playwright composer painter artist director scientist physicist "
    "inventor".split()
)
_RENAMED = re.compile(r"\b(?:New|North|Northern|South|Southern)\s+$")

# What may not follow the name: a denial, or another name with only these words in between.
_RETRACTED = re.compile(r"(?i)\s+(?:is|was|are|were)(?:n't|\s+(?:not|wrong|no longer))\b")
_SEPARATED = (
    r"(?:[\W\d_]|\b[A-Da-d][.)]|\b(?i:and|or|also|either|both|in|then|the|an?"
    r"|vs|versus|maybe|perhaps|possibly|no|wait|rather|actually)\b)*"
)
# What may follow a name that must stand alone: "I do not know" does not name iodine, and "He is a
# singer" does not name helium.
_ALONE = re.compile(r"$|[^\w\s]|\s+(?:\(|(?:and|which|from|because|as|for|while)\b)")


def grade_name(
    response: str,
    example: Example,
    known_names: frozenset[str],
    *,
    alone: bool = False,
    placed: bool = False,
) -> Grade:
    """Grade the first line of a response; accents, case and articles are ignored.

    A repetition of the question at the start is skipped. Names of up to three letters that start
    with a capital are case-sensitive. Names that start with a small letter, such as units, are
    accepted in singular and plural. A surname is not accepted after the first name of another
    person, as in "Heinrich Mann" for Thomas Mann.

    Args:
        response: the generated text.
        example: the question, with the answer and its aliases.
        known_names: further names that count as answers, beyond the example's answer, aliases and
            choices.
        alone: accept the name only at the start, and only if nothing, a punctuation mark or a
            conjunction follows ("I do" does not name iodine); used for chemical symbols.
        placed: accept one place before the name, as in "Paris, France"; used for countries.
    """
    line = _strip_accents(response.strip().split("\n", 1)[0])
    accepted = _normalize_accepted((example.answer, *example.aliases))
    strict = _normalize_name(line) in accepted
    return Grade(
        strict=strict,
        flexible=strict or _gives_right_name(line, example, known_names, accepted, alone, placed),
        answered=bool(normalize_text(line)),
        form=strict or has_answer_length(line, example),
    )


def _gives_right_name(
    line: str,
    example: Example,
    known_names: frozenset[str],
    accepted: frozenset[str],
    alone: bool,
    placed: bool,
) -> bool:
    question = _strip_accents(example.prompt.rsplit("\n", 1)[-1])
    line = _OPENING.sub("", line.lstrip(_MARKS))
    if line.casefold().startswith(question.casefold()):
        line = line[len(question) :].lstrip(_MARKS)
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    name = _make_pattern(known_names, (example.answer, *example.aliases, *example.choices))
    match = re.search(name, sentence)
    if not match or _normalize_name(match[0]) not in accepted:
        return False
    text_before, text_behind = sentence[: match.start()], sentence[match.end() :]
    if alone and (text_before or not _ALONE.match(text_behind)):
        return False
    if _is_of_another_person(match[0], text_before, example):
        return False
    if (
        _DENIED.search(text_before)
        or _LISTED.fullmatch(_PLACE.sub("", text_before) if placed else text_before)
        or _RENAMED.search(text_before)
    ):
        return False
    next_name = re.match(rf"{_SEPARATED}({name})", text_behind)
    return not _RETRACTED.match(text_behind) and (
        not next_name or _normalize_name(next_name[1]) in accepted
    )


def _is_of_another_person(surname: str, text_before: str, example: Example) -> bool:
    """Return whether the surname is preceded by first names that are not the answer's.

    Initials and other spellings ("Sergey" for Sergei) count as the answer's. If the answer has only
    one first name, further ones may follow it ("Thomas A. Edison").
    """
    first_names = [
        re.findall(r"\w+", full[: -len(surname)])
        for full in map(_strip_accents, (example.answer, *example.aliases))
        if full.casefold().endswith(f" {surname.casefold()}")
        and full[0].isupper()
        and not full[-len(surname) :].islower()  # "British pound" is no person
    ]
    before = _FIRST_NAMES.search(text_before)
    if not first_names or not before:
        return False
    written = [w for w in re.findall(r"\w+", before[0]) if w.casefold() not in _NOT_NAMES]
    own = {name for names in first_names for name in names}
    is_own = [any(_is_same_first_name(word, name) for name in own) for word in written]
    return not all(is_own[:1] if len(first_names[0]) == 1 else is_own)


def _is_same_first_name(one: str, two: str) -> bool:
    one, two = one.casefold(), two.casefold()
    if 1 in (len(one), len(two)):
        return one[0] == two[0]
    return SequenceMatcher(None, one, two).ratio() > _ALIKE


def _add_plurals(names: Iterable[str]) -> frozenset[str]:
    """Return the names, with singular and plural of those that start with a small letter."""
    forms = set(names)
    for name in [form for form in forms if form[:1].islower() and not form.startswith("the ")]:
        forms |= {name.removesuffix("s"), f"{name.removesuffix('s')}s"}
        forms |= {_PLURALS[name]} if name in _PLURALS else set()
    return frozenset(forms)


@lru_cache(maxsize=1024)
def _normalize_accepted(names: tuple[str, ...]) -> frozenset[str]:
    """Return these names and their singulars and plurals in the form of `_normalize_name`."""
    return frozenset(map(_normalize_name, _add_plurals(names)))


@lru_cache(maxsize=1024)
def _make_pattern(known_names: frozenset[str], names: tuple[str, ...]) -> str:
    """Return a pattern that matches any of these names as whole words, longer names first."""
    forms = map(_strip_accents, _add_plurals((*known_names, *names)))
    longest_first = sorted(forms, key=lambda name: (-len(name), name))
    either = "|".join(
        re.escape(name) if _is_case_sensitive(name) else f"(?i:{re.escape(name)})"
        for name in longest_first
    )
    return rf"(?<!\w)(?:{either})(?!\w|'s\b)"


def _strip_accents(text: str) -> str:
    """Return the text without accents and repeated white space."""
    letters = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return " ".join("".join(c for c in letters if not unicodedata.combining(c)).split())


def _normalize_name(text: str) -> str:
    """Return a name without accents and article, in lower case unless it is case-sensitive."""
    bare = _ARTICLE.sub("", _strip_accents(text).strip(" .\"'`*"))
    return bare if _is_case_sensitive(bare) else bare.casefold()


def _is_case_sensitive(name: str) -> bool:
    return len(name) <= 3 and name[:1].isupper()
