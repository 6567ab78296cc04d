"""The facts are in order, and so are their choices."""

import csv
import re
from collections import Counter
from importlib.resources import files

import pytest

from layerroles.errors import InputError
from layerroles.tasks import Facts, knowledge, task
from layerroles.tasks.knowledge import load_facts

ALL = [example for relation in load_facts().values() for example in relation]


def test_there_are_enough() -> None:
    assert len(ALL) >= 600
    assert len(load_facts()) >= 12
    for relation in load_facts().values():
        assert len(relation) >= 20
        for fact in relation:  # each can stand among four others
            assert sum(other.answer != fact.answer for other in relation) >= 4


def test_no_prompt_or_id_occurs_twice() -> None:
    assert len({example.prompt.casefold() for example in ALL}) == len(ALL)
    assert len({example.id for example in ALL}) == len(ALL)


def test_cells_are_clean() -> None:
    for example in ALL:
        for text in (example.prompt, example.answer, *example.choices, *example.aliases):
            assert text and text == " ".join(text.split())
            assert '""' not in text and "|" not in text and text.isascii()
        assert not example.prompt.endswith((".", ":", "?"))
        assert len({example.answer, *example.aliases}) == 1 + len(example.aliases)
        for text in (example.answer, *example.aliases):
            assert not re.search(rf"(?<!\w){re.escape(text)}(?!\w)", example.prompt)


def test_changeable_facts_have_a_date() -> None:
    source = files("layerroles.tasks").joinpath("facts.tsv")
    with source.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) == len(ALL)
    for row in rows:
        assert re.fullmatch(r"(20\d\d)?", row["as_of"])
        assert None not in row.values() and None not in row
        assert row["subject"].casefold() in row["prompt"].casefold()
    dated = {row["relation"] for row in rows if row["as_of"]}
    assert dated == {"capital", "language", "currency", "city"}
    assert all(row["as_of"] for row in rows if row["relation"] in dated)


@pytest.mark.parametrize("relation", load_facts())
def test_choices_hold_the_answer_once_and_no_other_that_is_right(relation: str) -> None:
    answers = {example.answer for example in load_facts()[relation]}
    for example in load_facts()[relation]:
        assert len({choice.casefold() for choice in example.choices}) == 4
        assert example.answer in example.choices
        wrong = {choice.casefold() for choice in example.choices if choice != example.answer}
        assert not wrong & {text.casefold() for text in (example.answer, *example.aliases)}
        assert relation == "symbol" or set(example.choices) <= answers


def test_symbols_are_offered_in_every_form() -> None:
    """The first two letters of the name, its initial, another pair of letters, and another's."""
    for example in load_facts()["symbol"]:
        name = example.prompt.split()[-2]
        assert name[:2].capitalize() in example.choices
        assert name[0].upper() in example.choices
        assert sum(choice[0] == name[0].upper() for choice in example.choices) >= 3


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
    assert len(examples) == len(ALL) - made.n_reserved(seed=0)
    assert {example.id for example in examples} < {example.id for example in ALL}
    for part in (examples[:64], examples[-64:]):
        counts = Counter(example.id.split("-")[0] for example in part)
        for relation, listed in load_facts().items():
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
    made = task("facts", relations="capital+unit")
    assert {example.id.split("-")[0] for example in made.examples(99, seed=0)} == {
        "capital",
        "unit",
    }
    assert made.label == "facts@2[relations=capital+unit]"
    assert task(made.label) == made


def test_more_shots_than_facts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "load_facts", lambda: {"unit": load_facts()["unit"][:12]})
    with pytest.raises(InputError, match="num_fewshot=12"):
        Facts(relations="unit", num_fewshot=12).examples(4, seed=0)


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
            relation = load_facts()[example.id.rsplit("-", 1)[0]]
            others = [f for f in relation if f"{f.prompt} {f.answer}." in text and f.id != asked.id]
            assert example.answer not in {other.answer for other in others}
            lengths.add(1 + len(others))
        assert max(lengths) == max(sentences) and lengths <= sentences


def test_distractors_are_the_same_each_time_and_in_random_order() -> None:
    # In these relations a full stop ends a sentence and nothing else.
    made = Facts(context="distractors", relations="capital+city+class+currency+sport")
    assert made.examples(40, seed=0) == made.examples(40, seed=0)
    places = Counter(
        example.prompt[: example.evidence[0][0]].count(". ") for example in made.examples(200, 0)
    )
    assert set(places) == set(range(5))
    assert max(places.values()) < 80


def test_unknown_context_raises() -> None:
    with pytest.raises(InputError, match="context='wiki' is unknown: known are none, support"):
        task("facts", context="wiki")
