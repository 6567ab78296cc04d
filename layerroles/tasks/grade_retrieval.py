"""Find which of a question's known words a response gives as its answer, for `tasks.retrieval`.

Known words are the possible answers that a question offers. A response that names the right word
along with wrong ones, or denies it, is not right. These functions use no model: they recognize
quotes, denials and refusals in English, and the known words.
"""

import re
from collections.abc import Iterable

from layerroles.tasks.base import Example
from layerroles.tasks.vocabulary import NAMES, NOUNS, PLACES

_QUOTED = r'"([^"]+)"'
_PAIR = re.compile(rf"{_QUOTED}\s*:\s*{_QUOTED}")
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


def gives_value(response: str, example: Example) -> bool:
    """Return whether the response gives the right value, and no other, for the asked key."""
    value = example.answer.strip('"').casefold()
    pairs = dict(_PAIR.findall(example.prompt))
    values = {value, *pairs.values(), *(choice.strip('"') for choice in example.choices)}
    key = find_asked_key(example.prompt).casefold()
    text = first_paragraph(normalize_marks(response), values)
    for pair in _PAIR.finditer(text):
        if pair[1].casefold() != key:
            # A pair with another key is not the answer: drop it and what follows.
            text = text[: pair.start()]
            break
    keys = find_known_words(text, pairs)
    if keys and key not in text.casefold():
        return False
    text = remove_denied(text)
    # Short quotes are meant as values, whether in the object or not; quoted sentences are not.
    quoted = {
        " ".join(quote.split()).strip(" .,").casefold() for quote in re.findall(_QUOTED, text)
    }
    short = {quote for quote in quoted if len(quote.split()) < 3}
    return find_known_words(text, values) == {value} and short <= {value, key}


def find_asked_key(prompt: str) -> str:
    """Return the key that the prompt asks for: the only text in quotes outside of the object."""
    quoted = re.findall(_QUOTED, re.sub(r"\{[^}]*\}", "", prompt))
    return str(quoted[-1]) if quoted else ""


def gives_password(response: str, example: Example) -> bool:
    """Return whether the response answers with the password and names no other candidate."""
    answer = example.answer.casefold()
    things = {answer, *example.choices, *find_known_words(example.prompt, (*NOUNS, *PLACES))}
    paragraph = first_paragraph(normalize_marks(response), things)
    sentences = [
        remove_denied(sentence_text) for sentence_text in re.split(r"[.!?;\n]+", paragraph)
    ]
    claims = [sentence for sentence in sentences if find_known_words(sentence, things)]
    # One or two words after the answer continue a list; longer sentences go on with the text.
    listed = [claim for claim in claims[1:] if len(claim.split()) < 3]
    if not claims or find_known_words(" ".join([claims[0], *listed]), things) != {answer}:
        return False
    who = find_known_words(find_question(example), NAMES)
    other_names = find_known_words(claims[0], NAMES) - who
    return not other_names or bool(find_known_words(claims[0], who))


def find_question(example: Example) -> str:
    """Return the last line of the prompt, which asks for the password."""
    return example.prompt.rpartition("\n")[2]


def normalize_marks(text: str) -> str:
    r"""Return the text with quotation marks replaced by `"`, and without Markdown's `**`.

    Quotation marks are double ones (curly, low or angled), and single ones and backticks at the
    edge of a word. Other curly apostrophes become straight.

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
