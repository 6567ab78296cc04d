"""Which of the known words a response gives as its answer.

A response that names the right word beside wrong ones has not answered, nor has one that denies it.
These functions read what was written without a model: they know quotes, denials and refusals in
English, and the words that the question offers.
"""

import re
from collections.abc import Iterable

_DENIED = re.compile(
    r"\b(?:not|never|isn't|rather than|instead of|neither|nor)\b(?:(?!\bbut\b)[^.,;\n])*",
    re.IGNORECASE,
)
# "Bridge is not the value" denies the word before it as well.
_RETRACTED = re.compile(r"[\w\"]+ (?=(?:is|was|are|were)(?:n't| not| wrong| incorrect)\b)")
_REFUSED = re.compile(
    r"\b(?:not|don't|can't|cannot|couldn't|unable to) (?:\w+ )?"
    r"(?:know|known|find|found|tell|say|see|sure|given|answer|determine|present|available)\b"
    r"|\bno (?:idea|such|value|answer|password|information)\b|\bunknown\b",
    re.IGNORECASE,
)


def normalize_marks(text: str) -> str:
    r"""The text with every kind of quotation mark as `"`, and without bold type of Markdown.

    Example:
        >>> normalize_marks("Peter's word is 'river', `river` or **river**")
        'Peter\'s word is "river", "river" or river'
    """
    text = re.sub("[\N{RIGHT SINGLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}]", "'", text)
    text = re.sub(r"[“”„«»]|(?<!\w)['`]|['`](?!\w)", '"', text)
    return text.replace("**", "")


def remove_denied(text: str) -> str:
    """The text without what it denies.

    Example:
        >>> remove_denied('The word is "river", not "wolf". "Arrow" is wrong.')
        'The word is "river", . is wrong.'
    """
    return _DENIED.sub("", _RETRACTED.sub("", text))


def find_known_words(text: str, known_words: Iterable[str]) -> set[str]:
    """Those of the known words, in lower case, that the text has as whole words.

    Example:
        >>> sorted(find_known_words("The River, not the lamp", ["river", "lamp", "am"]))
        ['lamp', 'river']
    """
    text_words = set(re.findall(r"\w+", text.casefold()))
    return {word.casefold() for word in known_words} & text_words


def is_refusal(text: str) -> bool:
    """Whether the text says that it has no answer.

    Example:
        >>> is_refusal("I don't know."), is_refusal("It is unknown"), is_refusal("A river")
        (True, True, False)
    """
    return _REFUSED.search(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) is not None


def first_paragraph(text: str, known_words: Iterable[str]) -> str:
    """The first paragraph that has a known word; the first one where none has."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    word_list = list(known_words)
    return next(
        (paragraph for paragraph in paragraphs if find_known_words(paragraph, word_list)),
        paragraphs[0],
    )
