"""Find which of a question's known words a response gives as its answer.

Known words are the possible answers that a question offers. A response that names the right word
along with wrong ones, or denies it, is not right. These functions use no model: they recognize
quotes, denials and refusals in English, and the known words.
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
    r"""Return the text with every quotation mark replaced by `"`, and without Markdown's `**`.

    Example:
        >>> normalize_marks("Peter's word is 'river', `river` or **river**")
        'Peter\'s word is "river", "river" or river'
    """
    text = re.sub("[\N{RIGHT SINGLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}]", "'", text)
    text = re.sub(r"[“”„«»]|(?<!\w)['`]|['`](?!\w)", '"', text)
    return text.replace("**", "")


def remove_denied(text: str) -> str:
    """Return the text without the words that it denies, such as those after "not".

    Example:
        >>> remove_denied('The word is "river", not "wolf". "Arrow" is wrong.')
        'The word is "river", . is wrong.'
    """
    return _DENIED.sub("", _RETRACTED.sub("", text))


def find_known_words(text: str, known_words: Iterable[str]) -> set[str]:
    """Return the known words that occur in the text as whole words, in lower case.

    Example:
        >>> sorted(find_known_words("The River, not the lamp", ["river", "lamp", "am"]))
        ['lamp', 'river']
    """
    text_words = set(re.findall(r"\w+", text.casefold()))
    return {word.casefold() for word in known_words} & text_words


def is_refusal(text: str) -> bool:
    """Return whether the text says that it has no answer.

    Example:
        >>> is_refusal("I don't know."), is_refusal("It is unknown"), is_refusal("A river")
        (True, True, False)
    """
    return _REFUSED.search(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) is not None


def first_paragraph(text: str, known_words: Iterable[str]) -> str:
    """Return the first paragraph that contains a known word, or the first one if none does."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    word_list = list(known_words)
    return next(
        (paragraph for paragraph in paragraphs if find_known_words(paragraph, word_list)),
        paragraphs[0],
    )
