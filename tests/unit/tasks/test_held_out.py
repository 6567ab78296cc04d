"""References contain no asked question, for every task, limit and seed."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from layerroles.tasks import Example, Task, task
from layerroles.tasks.knowledge import load_facts

FACTS = [fact for relation in load_facts().values() for fact in relation]
EVERYTHING = 10_000
BUILT_IN = [
    *("facts", "facts[num_fewshot=0]", "facts[num_fewshot=6]", "facts[context=support]"),
    *("facts[context=distractors]", "facts[context=distractors,num_fewshot=4]"),
    *("facts[relations=capital]", "facts[relations=capital+currency,num_fewshot=3]"),
    *("kv_retrieval", "kv_retrieval[num_fewshot=2]", "needle[words=60,num_fewshot=1]"),
    *("word_problems", "word_problems[steps=3]", "copying", "plain_text"),
]


def written(folder: Path, rows: list[dict[str, str]], **parameters: object) -> Task:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return task("local", path=str(path), family="knowledge", **parameters)


def questions(n: int) -> list[dict[str, str]]:
    """Half of them answered by yes or no, the others by names that two or three share."""
    common = [{"prompt": f"Is {i} even? Say", "answer": "no" if i % 4 else "yes"} for i in range(n)]
    rare = [{"prompt": f"Box {i} belongs to", "answer": f"Owner {i // 3}"} for i in range(n)]
    return [(rare if i % 2 else common)[i] for i in range(n)]


def held(example: Example, context: str) -> bool:
    """Whether a context contains an example, as a question or with its answer."""
    if not example.prompt:
        return example.answer in context
    end = f"\n\n{context}".endswith(f"\n\n{example.prompt}")
    return end or f"{example.prompt} {example.answer}" in context


@pytest.mark.parametrize("label", BUILT_IN)
def test_no_reference_holds_an_asked_question(label: str) -> None:
    made = task(label)
    is_listed = label.startswith(("facts", "plain_text"))
    for seed in (0, 3):
        contexts = made.held_out(64, seed)
        assert contexts
        assert made.held_out(64, seed)[:3] == made.held_out(3, seed)
        asked = made.examples(EVERYTHING if is_listed else 150, seed)
        assert len(asked) >= 20
        for limit in (1, 20, len(asked)):
            assert made.examples(limit, seed) == asked[:limit]
        found = [(e.prompt, context) for context in contexts for e in asked if held(e, context)]
        assert not found


@pytest.mark.parametrize("n", [1, 4, 5, 20, 99, 319, 320, 400])
@pytest.mark.parametrize("num_fewshot", [0, 3])
def test_a_file_keeps_64_questions_or_a_fifth_apart(
    n: int, num_fewshot: int, tmp_path: Path
) -> None:
    rows = questions(n)
    made = written(tmp_path, rows, num_fewshot=min(num_fewshot, n - 1))
    for seed in (0, 1):
        asked = made.examples(EVERYTHING, seed)
        assert made.n_reserved(seed) == n - len(asked) == min(64, n // 5)
        for limit in {1, len(asked) // 2, len(asked) - 1, len(asked)} - {0}:
            assert made.examples(limit, seed) == asked[:limit]
        contexts = made.held_out(EVERYTHING, seed)
        assert len(contexts) == min(64, n // 5)
        assert not [c for c in contexts for example in asked if held(example, c)]
        assert all(len(example.shots) == made.num_fewshot for example in asked)


def test_the_reserve_is_another_one_under_another_seed(tmp_path: Path) -> None:
    made = written(tmp_path, questions(100))
    assert set(made.held_out(20, seed=0)) != set(made.held_out(20, seed=1))


def test_a_question_that_is_asked_in_the_same_words_is_in_no_reference(tmp_path: Path) -> None:
    rows = [{"id": str(i), "prompt": f"Name {i // 4}:", "answer": f"a{i}"} for i in range(100)]
    made = written(tmp_path, rows, num_fewshot=2)
    asked = {example.prompt for example in made.examples(EVERYTHING, seed=0)}
    contexts = made.held_out(EVERYTHING, seed=0)
    assert len(contexts) < 20
    assert not asked & {part for context in contexts for part in context.split("\n\n")}


def test_references_contain_no_asked_answers_except_common_ones(
    tmp_path: Path,
) -> None:
    made = written(tmp_path, questions(200), num_fewshot=4)
    shots = [shot for c in made.held_out(64, seed=0) for shot in c.split("\n\n")[:-1]]
    answers = {shot.rsplit(" belongs to ", 1)[-1].rsplit(" Say ", 1)[-1] for shot in shots}
    counts = Counter(row["answer"] for row in questions(200))
    asked = {example.answer for example in made.examples(EVERYTHING, seed=0)}
    assert {"yes", "no"} <= answers
    assert not {answer for answer in answers & asked if counts[answer] < 10}
    assert asked & set(counts) - {"yes", "no"}, "others are asked"


@pytest.mark.parametrize("context", ["none", "support", "distractors"])
def test_no_reference_tells_the_answer_of_an_asked_fact(context: str) -> None:
    made = task("facts", context=context, num_fewshot=4)
    counts = Counter(fact.answer for fact in FACTS)
    asked = {example.answer for example in made.examples(EVERYTHING, seed=0)}
    revealed = set()
    for text in made.held_out(64, seed=0):
        revealed |= {
            f.answer for f in FACTS if re.search(rf"{re.escape(f.prompt)} {f.answer}\b", text)
        }
    assert revealed, "shots and contexts tell some facts"
    assert not {answer for answer in revealed & asked if counts[answer] < len(FACTS) / 20}


def test_more_shots_than_are_reserved_are_taken_from_other_groups_or_left_out(
    tmp_path: Path,
) -> None:
    many = task("facts", num_fewshot=8)
    shots = [context.count("\n\n") for context in many.held_out(64, seed=0)]
    assert min(shots) == 8, "of other relations, since none has so many reserved facts of its own"
    few = written(tmp_path, questions(20), num_fewshot=6)
    assert all(len(example.shots) == 6 for example in few.examples(EVERYTHING, seed=0))
    assert {context.count("\n\n") for context in few.held_out(64, seed=0)} <= {0, 1, 2, 3}
