"""The facts are in order, and so are their choices."""

from collections import Counter

import pytest

from layerroles.errors import InputError
from layerroles.tasks import Facts, task
from layerroles.tasks.knowledge import facts

ALL = [example for relation in facts().values() for example in relation]

# Relations of which two subjects may have one answer.
SHARED = {"continent", "language", "city", "class", "author"}


def test_there_are_enough() -> None:
    assert len(ALL) >= 220
    assert len(facts()) >= 8
    assert min(len(relation) for relation in facts().values()) >= 4


def test_no_prompt_or_id_occurs_twice() -> None:
    assert len({example.prompt for example in ALL}) == len(ALL)
    assert len({example.id for example in ALL}) == len(ALL)


def test_cells_are_clean() -> None:
    for example in ALL:
        for text in (example.prompt, example.answer):
            assert text == " ".join(text.split())
            assert '""' not in text and text.isascii()
        assert not example.prompt.endswith((".", ":", "?"))
        assert example.answer.casefold() not in example.prompt.casefold().split()


@pytest.mark.parametrize("relation", facts())
def test_choices_are_other_answers_of_the_relation(relation: str) -> None:
    answers = Counter(example.answer for example in facts()[relation])
    assert relation in SHARED or max(answers.values()) == 1
    for example in facts()[relation]:
        assert len(set(example.choices)) == 4
        assert example.answer in example.choices
        assert set(example.choices) <= set(answers)


def test_evidence_is_the_subject() -> None:
    for example in ALL:
        ((start, end),) = example.evidence
        assert 0 <= start < end <= len(example.prompt)
    capital = next(example for example in ALL if example.prompt == "The capital of France is")
    ((start, end),) = capital.evidence
    assert capital.prompt[start:end] == "France"
    assert capital.answer == "Paris"


def test_the_order_deals_relations_evenly() -> None:
    made = Facts()
    examples = made.examples(10_000, seed=0)
    assert {example.id for example in examples} == {example.id for example in ALL}
    for part in (examples[:64], examples[-64:]):
        counts = Counter(example.id.split("-")[0] for example in part)
        for relation, listed in facts().items():
            assert abs(counts[relation] - 64 * len(listed) / len(ALL)) <= 2


def test_a_larger_limit_extends_and_held_out_comes_from_the_end() -> None:
    made = Facts()
    examples = made.examples(100, seed=1)
    assert made.examples(30, seed=1) == examples[:30]
    asked = {example.prompt for example in examples}
    held_out = made.held_out(50, seed=1)
    assert len(held_out) == 50
    assert not any(context.rsplit("\n\n", 1)[-1] in asked for context in held_out)


def test_shots_are_other_facts_of_the_relation() -> None:
    for example in Facts(num_fewshot=3).examples(200, seed=0):
        shots = example.shots
        assert len({shot.id for shot in shots}) == 3
        assert example.id not in {shot.id for shot in shots}
        assert {shot.id.split("-")[0] for shot in shots} == {example.id.split("-")[0]}


def test_relations_narrow() -> None:
    made = task("facts", relations="capital+planet")
    assert {example.id.split("-")[0] for example in made.examples(99, seed=0)} == {
        "capital",
        "planet",
    }
    assert made.label == "facts[relations=capital+planet]"
    assert task(made.label) == made


def test_more_shots_than_facts_is_refused() -> None:
    with pytest.raises(InputError, match="num_fewshot=12"):
        Facts(relations="day", num_fewshot=12).examples(4, seed=0)


def test_grades() -> None:
    example = next(example for example in ALL if example.answer == "Buenos Aires")
    made = Facts()
    assert made.grade(" Buenos Aires", example).strict
    loose = made.grade(" the city of Buenos Aires.", example)
    assert (loose.strict, loose.flexible, loose.answered) == (False, True, True)
    assert not made.grade(" Santiago", example).flexible
    assert not made.grade(" \n", example).answered


def test_a_context_tells_the_fact_once_and_the_question_stays_the_same() -> None:
    bare = {example.id: example for example in Facts().examples(10_000, seed=0)}
    for context, sentences in (("support", {1}), ("distractors", {2, 3, 4, 5})):
        told = Facts(context=context).examples(10_000, seed=0)
        assert [example.id for example in told] == list(bare)
        lengths = set()
        for example in told:
            asked = bare[example.id]
            text, question = example.prompt.split("\n")
            assert (question, example.answer) == (asked.prompt, asked.answer)
            assert example.choices == asked.choices
            assert [shot.id for shot in example.shots] == [shot.id for shot in asked.shots]
            assert text.count(f"{question} {example.answer}.") == 1
            ((start, end),) = example.evidence
            assert example.prompt[start:end] == example.answer
            assert example.prompt[:start].endswith(f"{question} ")
            for shot in example.shots:
                assert f"{shot.prompt.split(chr(10))[1]} {shot.answer}." in shot.prompt
            relation = facts()[example.id.rsplit("-", 1)[0]]
            others = [f for f in relation if f"{f.prompt} {f.answer}." in text and f.id != asked.id]
            assert example.answer not in {other.answer for other in others}
            lengths.add(1 + len(others))
        assert max(lengths) == max(sentences) and lengths <= sentences


def test_distractors_are_the_same_each_time_and_in_random_order() -> None:
    made = Facts(context="distractors")
    assert made.examples(40, seed=0) == made.examples(40, seed=0)
    places = Counter(
        example.prompt[: example.evidence[0][0]].count(". ") for example in made.examples(200, 0)
    )
    assert set(places) == set(range(5))
    assert max(places.values()) < 80


def test_an_unknown_context_is_told() -> None:
    with pytest.raises(InputError, match="context='wiki' is unknown: known are none, support"):
        task("facts", context="wiki")
