"""Other wordings of the packaged tasks, with the same questions and answers.

A result obtained with one wording holds for that wording only. So `kv_retrieval`, `facts`,
`word_problems` and `copying` each have four wordings, written by hand; the parameter `template`
selects one. Questions are drawn, split into asked and reserved ones, and given their ids in the
wording of template 0. The other templates replace the words around the part of the prompt that
holds the question, and shift the evidence spans with it. So a question has the same id, choices,
shots and answer under every template, and results are compared question by question.
"""

import dataclasses
import re
from collections.abc import Sequence
from types import MappingProxyType

from layerroles.tasks.base import Example, check_whole_number

# {body} is the object, {key} the key that is asked for.
KV_RETRIEVAL = (
    'JSON data:\n{body}\n\nPair looked up: "{key}":',
    'Q: In the JSON object {body}, which value belongs to the key "{key}"?\nA:',
    'Here is a dictionary.\n{body}\nThe value of the key "{key}" is',
    'Question: What does the following object store under the key "{key}"?\n{body}\nAnswer:',
)
# {body} is the story with its question. Generation stops at the template's first word.
WORD_PROBLEMS = (
    "Question: {body}\nAnswer:",
    "Q: {body}\nA:",
    "Problem: {body}\nSolution:",
    "Exercise: Solve the following problem.\n{body}\nResult:",
)
# {body} is the text to copy.
COPYING = (
    "Text: {body}\nCopy of the text:",
    "Q: What does this text say, word for word? {body}\nA:",
    "Repeat the following sentence exactly.\n{body}\nRepeated:",
    "Original: {body}\nDuplicate:",
)
# {sentence} is the fact without its answer, {question} the question that asks for the answer.
FACTS = (
    "{sentence}",
    "Q: {question}\nA:",
    "Complete the sentence with the right fact.\n{sentence}",
    "Answer the question in a few words.\nQuestion: {question}\nAnswer:",
)
# By relation: a pattern for the sentence without its answer, and the question for that answer.
_WHO = (r"(?P<subject>.+) (?:was|were) (?P<done>\w+) by", "Who {done} {subject}?")
_QUESTIONS = MappingProxyType(
    {
        "author": ("The author of (?P<subject>.+) is", "Who is the author of {subject}?"),
        "birthplace": (
            "The city or town where (?P<subject>.+) was born is",
            "In which city or town was {subject} born?",
        ),
        "capital": ("The capital of (?P<subject>.+) is", "What is the capital of {subject}?"),
        "city": (
            "The city of (?P<subject>.+) is in the country of",
            "In which country is the city of {subject}?",
        ),
        "class": (
            "Biologists classify (?P<subject>.+) as",
            "What do biologists classify {subject} as?",
        ),
        "company": (
            "The company (?P<subject>.+) comes from the country of",
            "From which country does the company {subject} come?",
        ),
        "composer": _WHO,
        "continent": (
            "(?P<subject>.+) is a country on the continent of",
            "On which continent is the country {subject}?",
        ),
        "currency": (
            "The currency of (?P<subject>.+) is the",
            "What is the currency of {subject}?",
        ),
        "film": ("The (?P<subject>.+) was directed by", "Who directed the {subject}?"),
        "landmark": ("(?P<subject>.+) is in the country of", "In which country is {subject}?"),
        "language": (
            "The main language spoken in (?P<subject>.+) is",
            "What is the main language spoken in {subject}?",
        ),
        "painter": _WHO,
        "river": (
            "The river that flows through (?P<subject>.+) is the",
            "Which river flows through {subject}?",
        ),
        "scientist": _WHO,
        "sport": (
            "(?P<subject>.+) became famous in the sport of",
            "In which sport did {subject} become famous?",
        ),
        "symbol": (
            "The chemical symbol for (?P<subject>.+) is",
            "What is the chemical symbol for {subject}?",
        ),
        "unit": ("The SI unit of (?P<subject>.+) is the", "What is the SI unit of {subject}?"),
        "young": ("A young (?P<subject>.+) is called an?", "What is a young {subject} called?"),
    }
)


def check_template(name: str, template: object, templates: Sequence[str]) -> None:
    """Check that a task has a template with this index.

    Raises:
        InputError: `template` is not the index of one of `templates`.
    """
    check_whole_number(name, "template", template, 0, len(templates) - 1)


def reword(example: Example, body: tuple[int, int], template: str, key: str = "") -> Example:
    """Return the example with its prompt in another template.

    Args:
        example: the example; its evidence lies in the body.
        body: the span of `example.prompt` that the template's `{body}` stands for.
        template: the new prompt, with `{body}` and perhaps `{key}`.
        key: the text for `{key}`.
    """
    before, after = (part.replace("{key}", key) for part in template.split("{body}"))
    moved = len(before) - body[0]
    return dataclasses.replace(
        example,
        prompt=f"{before}{example.prompt[slice(*body)]}{after}",
        evidence=tuple((start + moved, end + moved) for start, end in example.evidence),
    )


def reword_fact(example: Example, relation: str, template: str) -> Example:
    """Return a fact in another template of `FACTS`; a context before it stays as it is.

    Args:
        example: the fact; the last line of its prompt is the sentence.
        relation: the relation of the fact.
        template: the new wording of the sentence, one of `FACTS`.
    """
    context, line_break, sentence = example.prompt.rpartition("\n")
    before, name, after = re.split(r"\{(\w+)\}", template)
    text = sentence if name == "sentence" else _as_question(sentence, relation)
    prompt = f"{context}{line_break}{before}{text}{after}"
    if line_break:  # evidence is in the context
        return dataclasses.replace(example, prompt=prompt)
    ((start, end),) = example.evidence
    moved = len(before) + text.casefold().index(sentence[start:end].casefold())
    return dataclasses.replace(example, prompt=prompt, evidence=((moved, moved + end - start),))


def _as_question(sentence: str, relation: str) -> str:
    pattern, question = _QUESTIONS[relation]
    match = re.fullmatch(pattern, sentence)
    assert match, sentence
    words = match.groupdict()
    return question.format(**words | {"subject": re.sub("^The ", "the ", words["subject"])})
