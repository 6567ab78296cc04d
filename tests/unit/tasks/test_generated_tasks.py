"""Generated tasks: the same everywhere, disjoint, and right by an independent reading."""

import random
import re
from dataclasses import dataclass
from typing import ClassVar

import pytest

from layerroles.errors import InputError
from layerroles.tasks import (
    Copying,
    Example,
    Generated,
    KVRetrieval,
    Needle,
    Task,
    WordProblems,
    task,
)

TASKS = [
    KVRetrieval(),
    KVRetrieval(pairs=4, key_style="hex", num_fewshot=2),
    KVRetrieval(pairs=20, key_style="uuid"),
    KVRetrieval(pairs=7, position="middle", num_fewshot=1),
    Needle(),
    Needle(words=60, position="late", num_fewshot=1),
    WordProblems(),
    WordProblems(steps=1),
    WordProblems(steps=3),
    WordProblems(steps=1, level=2),
    WordProblems(steps=2, level=3),
    WordProblems(steps=3, level=3, num_fewshot=1),
    Copying(),
    Copying(clauses=1, num_fewshot=0),
]


@pytest.fixture(params=TASKS, ids=lambda made: made.label)
def made(request: pytest.FixtureRequest) -> Task:
    return request.param


def test_a_larger_limit_extends(made: Task) -> None:
    assert made.examples(40, seed=3)[:11] == made.examples(11, seed=3)
    assert made.held_out(20, seed=3)[:7] == made.held_out(7, seed=3)


def test_seeds_differ(made: Task) -> None:
    first, second = ({e.prompt for e in made.examples(30, seed=seed)} for seed in (0, 1))
    assert len(first & second) < 10


def test_ids_name_the_content(made: Task) -> None:
    prompts = {}
    for seed in range(4):
        examples = made.examples(60, seed)
        assert len({example.id for example in examples}) == 60
        for example in examples:
            assert prompts.setdefault(example.id, example.prompt) == example.prompt


def test_choices_hold_the_answer_once(made: Task) -> None:
    examples = made.examples(80, seed=0)
    for example in examples:
        assert len(example.choices) == len(set(example.choices)) == 4
        assert example.answer in example.choices
    # The right one stands everywhere.
    assert len({example.choices.index(example.answer) for example in examples}) == 4


def test_shots_and_held_out_never_hold_a_question(made: Task) -> None:
    asked = {example.prompt for seed in range(3) for example in made.examples(100, seed)}
    for seed in range(3):
        for example in made.examples(20, seed):
            assert len(example.shots) == made.num_fewshot
            assert not {shot.prompt for shot in example.shots} & asked
        for context in made.held_out(30, seed):
            assert not any(context.endswith(prompt) for prompt in asked)


def test_held_out_contexts_do_not_repeat_their_shots(made: Task) -> None:
    for context in made.held_out(30, seed=0):
        parts = context.rsplit("\n\n", made.num_fewshot * 2)
        assert context.count(parts[-1]) == 1


def test_prompts_end_where_the_answer_follows(made: Task) -> None:
    for example in made.examples(10, seed=0):
        assert example.prompt == example.prompt.strip()
        assert example.answer == example.answer.strip()
        assert made.grade(f" {example.solution or example.answer}", example).strict


@pytest.mark.parametrize("seed", [0, 7])
def test_lookup_is_right_and_its_evidence_is_the_value(seed: int) -> None:
    for made in TASKS[:3]:
        positions = []
        for example in made.examples(2 * made.pairs, seed):
            key = re.search(r'Pair looked up: "(.+)":$', example.prompt)[1]
            pairs = re.findall(r'"([^"]+)": "([^"]+)"', example.prompt)
            keys = [name for name, _ in pairs]
            assert len(pairs) == len(set(keys)) == len({value for _, value in pairs}) == made.pairs
            assert example.answer == f'"{dict(pairs)[key]}"'
            ((start, end),) = example.evidence
            assert example.prompt[start:end] == dict(pairs)[key]
            assert example.prompt[:start].endswith(f'"{key}": "')
            values = {f'"{value}"' for _, value in pairs}
            assert set(example.choices) <= values
            positions.append(keys.index(key))
        # Every position once in each stretch of `pairs` questions.
        assert sorted(positions[: made.pairs]) == sorted(positions[made.pairs :])
        assert sorted(positions[: made.pairs]) == list(range(made.pairs))


@pytest.mark.parametrize(
    ("pairs", "position", "places"),
    [
        (9, "early", {0, 1, 2}),
        (9, "middle", {3, 4, 5}),
        (9, "late", {6, 7, 8}),
        (4, "early", {0}),
        (4, "middle", {1, 2}),
        (5, "late", {4}),
    ],
)
def test_queried_key_is_in_the_requested_position(
    pairs: int, position: str, places: set[int]
) -> None:
    made = KVRetrieval(pairs=pairs, position=position, num_fewshot=1)
    found, shown = [], set()
    for seed in range(12):
        for example in made.examples(2 * len(places), seed):
            for asked in (example, *example.shots):
                keys = re.findall(r'"([^"]+)": "', asked.prompt)
                place = keys.index(re.search(r'looked up: "(.+)":$', asked.prompt)[1])
                if asked is example:
                    found.append(place)
                else:
                    shown.add(place)
    assert set(found) == places
    assert {found.count(place) for place in places} == {24}
    assert shown - places  # a worked example may stand anywhere


@pytest.mark.parametrize("words", [40, 100, 400])
def test_a_needle_is_found_by_its_name_alone(words: int) -> None:
    depths = []
    for example in Needle(words=words).examples(90, seed=1):
        text, asked = example.prompt.split("\n")
        who = re.fullmatch(r"The password of (\w+) is", asked)[1]
        assert re.findall(rf"The password of {who} is (\w+)\.", text) == [example.answer]
        ((start, end),) = example.evidence
        assert example.prompt[start:end] == example.answer
        rest = text.replace(f"{asked} {example.answer}.", "").split()
        assert words <= len(rest) < words + 20
        assert who not in " ".join(rest)
        assert f"the {example.answer} " not in text
        for choice in example.choices:
            assert choice == example.answer or re.search(rf"\b(a|the) {choice}\b", text)
        depths.append(start / len(text))
    assert min(depths) < 0.1 < 0.9 < max(depths)
    assert 0.4 < sum(depths) / len(depths) < 0.6


def test_a_needle_stands_in_the_third_that_is_asked_for() -> None:
    means = []
    for position in ("early", "middle", "late"):
        examples = Needle(words=300, position=position).examples(30, seed=0)
        places = [e.evidence[0][0] / len(e.prompt) for e in examples]
        assert max(places) - min(places) < 0.4
        means.append(sum(places) / len(places))
    assert means[0] < 0.2 < 0.4 < means[1] < 0.6 < 0.8 < means[2]


def test_copies_have_the_words_of_the_text() -> None:
    for made in (Copying(), Copying(clauses=6)):
        for example in made.examples(60, seed=0):
            ((start, end),) = example.evidence
            assert example.prompt[start:end] == example.answer
            words = [sorted(re.findall(r"\w+", choice)) for choice in example.choices]
            assert all(each == words[0] for each in words)
            for choice in set(example.choices) - {example.answer}:
                pairs = zip(choice.split(), example.answer.split(), strict=True)
                assert sum(a != b for a, b in pairs) in (2, 4)


def test_a_copy_of_one_clause_differs_in_words_that_the_prompt_has() -> None:
    for example in Copying(clauses=1).examples(60, seed=0):
        ((start, end),) = example.evidence
        assert example.prompt[start:end] == example.answer
        shown = re.match("Other words: (.+), (.+)\nText: ", example.prompt).groups()
        for choice in set(example.choices) - {example.answer}:
            new = set(re.findall(r"\w+", choice)) - set(re.findall(r"\w+", example.answer))
            assert new and new <= set(shown)


@pytest.mark.parametrize(
    ("name", "parameters", "value"),
    [
        ("kv_retrieval", {"pairs": 3}, "3"),
        ("kv_retrieval", {"pairs": "ten"}, "'ten'"),
        ("kv_retrieval", {"key_style": "roman"}, "'roman'"),
        ("kv_retrieval", {"position": "last"}, "'last'"),
        ("needle", {"words": 39}, "39"),
        ("needle", {"position": 0.5}, "0.5"),
        ("kv_retrieval", {"num_fewshot": -1}, "-1"),
        ("word_problems", {"steps": 4}, "4"),
        ("word_problems", {"steps": True}, "True"),
        ("word_problems", {"level": 0}, "0"),
        ("word_problems", {"level": "all"}, "'all'"),
        ("word_problems", {"operations": "add"}, "'operations'"),
        ("copying", {"clauses": 0}, "0"),
        ("facts", {"relations": "capitals"}, "'capitals'"),
        ("facts", {"num_fewshot": 99}, "99"),
        ("facts", {"colour": 1}, "'colour'"),
    ],
)
def test_a_wrong_parameter_is_named(name: str, parameters: dict[str, object], value: str) -> None:
    with pytest.raises(InputError) as error:
        task(name, **parameters)
    assert value in str(error.value) and "\n" not in str(error.value)


@dataclass(frozen=True, kw_only=True)
class Digits(Generated):
    """Twenty questions, of which some are shots and the others are asked."""

    family: ClassVar[str] = "reasoning"
    name = "digits"  # type: ignore[assignment]  # not registered

    def question(self, rng: random.Random, kind: int) -> Example:
        digit = rng.randrange(20)
        return Example("", f"{digit} + 0 =", str(digit))


def test_too_few_questions_or_shots_are_refused_with_what_to_lower() -> None:
    with pytest.raises(InputError, match=r"\d different questions: lower the limit to that or"):
        Digits().examples(20, seed=0)
    with pytest.raises(InputError, match=r"\d different worked examples: lower num_fewshot or"):
        Digits(num_fewshot=16).examples(1, seed=0)


@pytest.mark.parametrize("made", TASKS, ids=lambda made: made.label)
def test_a_label_makes_the_same_task(made: Task) -> None:
    assert task(made.label) == made


def test_each_question_has_its_own_shots_and_a_cluster_shares_them() -> None:
    for made in (Copying(), KVRetrieval(num_fewshot=2), Needle(num_fewshot=1)):
        examples = made.examples(100, seed=0)
        assert len({shot.id for one in examples for shot in one.shots}) == 100 * made.num_fewshot
        assert {one.cluster for one in examples} == {""}
    problems = WordProblems().examples(100, seed=0)
    shown = {(one.cluster, one.shots) for one in problems}
    assert len(shown) == len({one.cluster for one in problems}) == WordProblems().kinds
