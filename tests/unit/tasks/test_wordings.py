"""Four wordings of a task ask the same questions, with the same answers, in other words."""

import dataclasses
import random

import pytest

import layerroles as lr
from layerroles.tasks import Copying, Example, Facts, KVRetrieval, Task, WordProblems, wordings
from layerroles.tasks.knowledge import load_facts

TASKS: list[Task] = [
    KVRetrieval(num_fewshot=1),
    KVRetrieval(key_style="hex", position="late"),
    Facts(),
    Facts(context="distractors"),
    Facts(context="support", num_fewshot=0),
    WordProblems(),
    WordProblems(steps=3, level=3, num_fewshot=1),
    Copying(),
    Copying(clauses=1),
]
N = 40
OTHERS = (1, 2, 3)


def worded(task: Task, template: int) -> list[Example]:
    return dataclasses.replace(task, template=template).examples(N, seed=3)


def shown_evidence(example: Example) -> list[str]:
    """The evidence in lower case, since a subject may move into the middle of a sentence."""
    return [example.prompt[start:end].casefold() for start, end in example.evidence]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
@pytest.mark.parametrize("template", OTHERS)
def test_only_the_words_around_the_question_change(task: Task, template: int) -> None:
    for plain, other in zip(task.examples(N, seed=3), worded(task, template), strict=True):
        assert other.prompt != plain.prompt
        assert shown_evidence(other) == shown_evidence(plain)
        assert [shown_evidence(shot) for shot in other.shots] == [
            shown_evidence(shot) for shot in plain.shots
        ]
        unchanged = dataclasses.replace(
            other, prompt=plain.prompt, evidence=plain.evidence, shots=plain.shots
        )
        assert unchanged == plain
        assert [shot.id for shot in other.shots] == [shot.id for shot in plain.shots]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
def test_four_templates_are_four_prompts_with_their_shots(task: Task) -> None:
    contexts = {worded(task, template)[0].context() for template in (0, *OTHERS)}
    assert len(contexts) == 4
    held_out = {
        dataclasses.replace(task, template=template).held_out(1, seed=3)[0]
        for template in (0, *OTHERS)
    }
    assert len(held_out) == 4


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
@pytest.mark.parametrize("template", OTHERS)
def test_the_right_answer_is_right_and_a_wrong_choice_is_wrong(task: Task, template: int) -> None:
    asked = dataclasses.replace(task, template=template)
    for example in asked.examples(N, seed=3):
        right = asked.grade(f" {example.answer}", example)
        assert right.strict and right.flexible, example
        if example.solution:
            assert asked.grade(f" {example.solution}", example).strict
        wrong = next(choice for choice in example.choices if choice != example.answer)
        assert not asked.grade(f" {wrong}", example).flexible, example


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
def test_guessing_sees_the_same_candidates(task: Task) -> None:
    for template in OTHERS:
        asked = dataclasses.replace(task, template=template)
        for plain, other in zip(task.examples(N, seed=3), worded(task, template), strict=True):
            assert asked.candidates(other) == task.candidates(plain)
            assert asked.group(other) == task.group(plain)


def test_generation_stops_where_the_next_question_would_begin() -> None:
    for template in range(4):
        task = WordProblems(template=template, num_fewshot=2)
        stop = task.until[-1]
        for example in task.examples(5, seed=0):
            assert example.context(worked=True).count(f"\n\n{stop}") == 2
            assert example.context().startswith(stop)
    assert WordProblems().until == ("\n\n", "Question:")


def test_every_fact_has_a_question_about_its_subject() -> None:
    for relation, facts in load_facts().items():
        asked = [wordings.reword_fact(fact, relation, "{question}") for fact in facts]
        assert len({fact.prompt for fact in asked}) == len(facts)
        assert all(fact.prompt.endswith("?") for fact in asked)
        for plain, fact in zip(facts, asked, strict=True):
            assert shown_evidence(fact) == shown_evidence(plain)


def test_shots_can_be_shown_in_reverse() -> None:
    for task in (WordProblems(num_fewshot=3), Facts(num_fewshot=3), Copying(num_fewshot=2)):
        reverse = dataclasses.replace(task, shot_order="reversed")
        for plain, other in zip(task.examples(5, 0), reverse.examples(5, 0), strict=True):
            assert other.shots == plain.shots[::-1]
            assert dataclasses.replace(other, shots=plain.shots) == plain
        assert reverse.label.endswith("shot_order=reversed]")


def test_labels_name_the_template_and_the_default_has_none() -> None:
    assert KVRetrieval(template=2).label == "kv_retrieval@2[template=2]"
    assert lr.task("kv_retrieval[template=2]") == KVRetrieval(template=2)
    assert "template" not in Facts().label


@pytest.mark.parametrize("task", [KVRetrieval, Facts, WordProblems, Copying])
@pytest.mark.parametrize("template", [4, -1, True, "question"])
def test_an_unknown_template_is_refused(task: type[Task], template: object) -> None:
    with pytest.raises(lr.InputError, match="template="):
        task(template=template)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(lr.InputError, match="shot_order='random' is unknown"):
        KVRetrieval(shot_order="random")


def test_rewording_twice_changes_nothing_more() -> None:
    rng = random.Random(0)
    for template in range(4):
        task = KVRetrieval(template=template, num_fewshot=2)
        example = task.reworded(task.question(rng, 0))
        assert task.reworded(example).prompt == example.prompt
