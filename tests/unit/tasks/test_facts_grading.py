"""Answers to facts are graded as a person would grade them."""

import dataclasses

import pytest

from layerroles.tasks import Facts
from layerroles.tasks.knowledge import load_facts

BY_PROMPT = {example.prompt: example for own in load_facts().values() for example in own}

ACCEPTED = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " paris."),
    ("The capital of France is", " Paris, the capital of France."),
    ("The capital of France is", " Paris. The capital of Italy is Rome."),
    ("The capital of France is", " Paris, and the capital of Italy is Rome."),
    ("The capital of France is", " The capital of France is **Paris**."),
    ("The capital of France is", " Sure! I think it's Paris, not Rome"),
    ("The capital of Argentina is", " the city of Buenos Aires."),
    ("The capital of Ukraine is", " Kiev"),
    ("The main language spoken in Iran is", " Farsi (Persian), an Iranian language."),
    ("The currency of China is the", " renminbi"),
    ("The currency of Mexico is the", " Mexican peso (MXN)."),
    ("The currency of Poland is the", " Polish z\u0142oty"),
    ("The capital of France is", " in the north of the country, Paris."),
    ("The city of Rotterdam is in the country of", " Netherlands"),
    ("The city of Chicago is in the country of", " the U.S. The city of Toronto is in Canada."),
    ('The author of "Romeo and Juliet" is', " the English playwright Shakespeare."),
    ('The author of "Jane Eyre" is', " Charlotte Brontë"),
    ("The Starry Night was painted by", " the Dutch painter, Vincent van Gogh"),
    ("The Well-Tempered Clavier was composed by", " J. S. Bach in 1722"),
    ("The city or town where Albert Einstein was born is", " Ulm, Germany."),
    ("The river that flows through London is the", " River Thames"),
    ("The chemical symbol for iodine is", " I."),
    ("The chemical symbol for hydrogen is", " H and the symbol for oxygen is O"),
    ("The chemical symbol for sodium is", ' "Na" (from the Latin natrium)'),
    ("A young kangaroo is called a", " joey\nA young cat is called a kitten"),
    ("The SI unit of mass is the", " kilogram (kg)"),
    ("The SI unit of mass is the", " mass of 1000 grams, called kilograms."),
    ("Biologists classify whales as", " a mammal, and not a fish"),
    ("Lionel Messi became famous in the sport of", " football, with Barcelona"),
    ("Michael Jordan became famous in the sport of", " Basketball, playing for Chicago"),
    ("The Eiffel Tower is in the country of", " Paris, France"),
    ("The Eiffel Tower is in the country of", " The Eiffel Tower is located in Paris, France."),
    ("The Taj Mahal is in the country of", " Agra, India"),
    ("Stonehenge is in the country of", " Stonehenge is located in Wiltshire, England."),
    ("The currency of Norway is the", " The currency of Norway is the Norwegian Kroner."),
    ("The currency of Denmark is the", " Danish kroner"),
    ("The currency of the United Kingdom is the", " Great British pound"),
    ('The author of "Frankenstein" is', " M. Shelley"),
    ('The author of "Frankenstein" is', " Mary Godwin Shelley"),
    ('The author of "Frankenstein" is', " Novelist Shelley"),
    ('The author of "War and Peace" is', " Count Tolstoy"),
    ("The Well-Tempered Clavier was composed by", " Johann S. Bach"),
    ("The phonograph was invented by", " Thomas A. Edison"),
    ("The electron was discovered by", " Prof. J. Thomson"),
]

REJECTED = [
    ("The capital of France is", ""),
    ("The capital of France is", " Lyon"),
    ("The capital of France is", " Paris, London, Rome, Berlin"),
    ("The capital of France is", " London, Paris, Rome, Berlin"),
    ("The capital of France is", " Paris or London"),
    ("The capital of France is", " either Paris or maybe Rome"),
    ("The capital of France is", " Paris vs London"),
    ("The capital of France is", " Paris London Rome Berlin"),
    ("The capital of France is", " (a) Paris (b) London (c) Rome (d) Berlin"),
    ("The capital of France is", " Lyon, Paris, Marseille"),
    ("The capital of France is", " definitely not Paris."),
    ("The capital of France is", " Rome. The capital of Italy is Paris."),
    ("The capital of France is", " Paris is not the capital"),
    ("The capital of France is", " a Parisian suburb"),
    ("The capital of France is", " a question that I cannot answer\nParis"),
    ("The main language spoken in Iran is", " Arabic, Persian"),
    ("The city of Acapulco is in the country of", " New Mexico"),
    ('The author of "Jane Eyre" is', " Emily Bronte"),
    ('The author of "Pride and Prejudice" is', " Jane Austen's sister"),
    ("The currency of South Korea is the", " one of a country that never won"),
    ("The chemical symbol for iodine is", " I do not know"),
    ("The chemical symbol for iodine is", " i"),
    ("The chemical symbol for helium is", " He is a noble gas"),
    ("The chemical symbol for hydrogen is", " He"),
    ("The chemical symbol for hydrogen is", " H, He, Li, Be"),
    ("The chemical symbol for oxygen is", " the letter O or N"),
    ("The chemical symbol for sodium is", " NaCl"),
    ("Nigeria is a country on the continent of", " Asia/Africa"),
    ("Biologists classify whales as", " fish, not mammals"),
    ("Biologists classify whales as", " mammal or reptile"),
    ("Lionel Messi became famous in the sport of", " American football"),
    ("The SI unit of mass is the", " meters and kilograms"),
    ('The author of "Frankenstein" is', " Percy Bysshe Shelley"),
    ('The author of "Middlemarch" is', " T. S. Eliot"),
    ('The author of "The Magic Mountain" is', " Heinrich Mann"),
    ("The Well-Tempered Clavier was composed by", " C. P. E. Bach"),
    ("The Well-Tempered Clavier was composed by", " Johann Christian Bach"),
    ("The Starry Night was painted by", " Theo van Gogh"),
    ('The 1957 film "The Seventh Seal" was directed by', " Ingrid Bergman"),
    ('The 1972 film "The Godfather" was directed by', " Sofia Coppola"),
    ("The Eiffel Tower is in the country of", " Hungary, France"),
    ("The Eiffel Tower is in the country of", " Italy, Spain, France"),
    ("The Eiffel Tower is in the country of", " Paris or Lyon, France"),
]


@pytest.mark.parametrize(("prompt", "response"), ACCEPTED)
def test_a_person_would_accept(prompt: str, response: str) -> None:
    grade = Facts().grade(response, BY_PROMPT[prompt])
    assert grade.flexible and grade.answered


@pytest.mark.parametrize(("prompt", "response"), REJECTED)
def test_a_person_would_not_accept(prompt: str, response: str) -> None:
    grade = Facts().grade(response, BY_PROMPT[prompt])
    assert not grade.flexible and not grade.strict


@pytest.mark.parametrize("relation", load_facts())
def test_every_answer_and_alias_is_accepted_and_no_wrong_choice(relation: str) -> None:
    task = Facts()
    for example in load_facts()[relation]:
        for text in (example.answer, *example.aliases):
            article = "" if text.startswith("the ") else "the "
            for response in (f" {text}", f" {text}.", f" {article}{text}\n\nThe"):
                grade = task.grade(response, example)
                assert grade.strict and grade.flexible and grade.form, response
            assert task.grade(f" {text}, as everyone knows.", example).flexible, text
            assert not task.grade(f" not {text}", example).flexible
        for choice in set(example.choices) - {example.answer}:
            assert not task.grade(f" {choice}", example).flexible, choice
            assert not task.grade(f" {example.answer} or {choice}", example).flexible
        assert not task.grade(" " + ", ".join(example.choices), example).flexible


@pytest.mark.parametrize(
    ("response", "strict", "form"),
    [
        (" Paris.", True, True),
        (" the Paris", True, True),
        (" Rome", False, True),
        (" Paris, of course", False, False),
        ("", False, False),
    ],
)
def test_strict_and_form(response: str, strict: bool, form: bool) -> None:
    example = dataclasses.replace(BY_PROMPT["The capital of France is"], choices=("Paris", "Rome"))
    grade = Facts().grade(response, example)
    assert (grade.strict, grade.form) == (strict, form)


def test_the_grading_version_is_2_and_the_label_is_that_of_the_questions() -> None:
    assert Facts().grading == 2 and Facts().label == "facts@2"


def test_an_answer_is_read_behind_a_context() -> None:
    for example in Facts(context="support", relations="capital").examples(20, seed=0):
        question = example.prompt.rsplit("\n", 1)[1]
        assert Facts().grade(f" {question} {example.answer}.", example).flexible
