"""Chance is what the best guess scores that does not read the question."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import layerroles as lr
from layerroles.protocols import Generation
from layerroles.sweep import task_protocol_cells
from layerroles.sweep.task_protocol_cells import make_cells
from layerroles.tasks import Example, KVRetrieval, Task
from layerroles.tasks.base import register
from layerroles.tasks.guessing import Guess, Scorer, best_guess
from layerroles.tasks.task_base_classes import Generated
from tests.support.random_models import random_model

SCORE = Generation().guess_score


@register("lettered")
@dataclass(frozen=True)
class Lettered(Task):
    """Four-way questions whose options are in the prompt, answered by a letter."""

    family: ClassVar[str] = "knowledge"

    def examples(self, limit: int, seed: int) -> list[Example]:
        rng = np.random.default_rng(seed)
        return [
            Example(
                id=f"{n}",
                prompt=f"Question {n}\nA. one\nB. two\nC. three\nD. four\nAnswer:",
                answer=str(rng.choice(list("ABCD"), p=[0.4, 0.2, 0.2, 0.2])),
                choices=("A", "B", "C", "D"),
            )
            for n in range(200)
        ][:limit]

    def held_out(self, limit: int, seed: int) -> list[str]:
        return []


@register("short_sums")
@dataclass(frozen=True, kw_only=True)
class ShortSums(Generated):
    """Sums of three digits, short enough for a model that reads characters."""

    family: ClassVar[str] = "reasoning"

    num_fewshot: int = 1

    def question(self, rng: random.Random, kind: int) -> Example:
        numbers = [rng.randint(1, 9) for _ in range(3)]
        asked = f"{'+'.join(map(str, numbers))}="
        return Example("", asked, str(sum(numbers)), cluster=f"first {numbers[0]}")


def guessed(task: Task, n: int = 200) -> tuple[str, float]:
    examples = task.examples(n, 0)
    guess = best_guess(task, examples, 0, lambda one, text: SCORE(task, one, text))
    assert list(guess.scores) == [one.id for one in examples]
    return guess.strategy, guess.mean


def test_always_the_same_letter_is_a_guess() -> None:
    strategy, mean = guessed(Lettered())
    share = np.mean([one.answer == "A" for one in Lettered().examples(200, 0)])
    assert (strategy, mean) == ("always 'A'", share)


def test_a_value_of_the_prompt_is_right_by_chance() -> None:
    strategy, mean = guessed(lr.task("kv_retrieval", pairs=5))
    assert strategy == "any value in the prompt"
    assert mean == pytest.approx(1 / 5)


def test_choices_that_the_prompt_does_not_show_cannot_be_guessed_among() -> None:
    # One of four words of the prompt is right, and it is not known which four.
    _, mean = guessed(lr.task("kv_retrieval", pairs=20))
    assert mean == pytest.approx(1 / 20)


def test_nothing_guesses_a_long_text() -> None:
    assert guessed(lr.task("copying"))[1] == 0.0


def test_a_finite_task_is_guessed_by_what_its_other_half_teaches(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    # Every answer is another: what is most frequent in a half is never right in the other.
    lines = [f'{{"prompt": "Question {n}:", "answer": "answer {n}"}}' for n in range(40)]
    file.write_text("\n".join(lines))
    assert guessed(lr.task(f"local:{file}", family="knowledge"))[1] == 0.0
    lines = [f'{{"prompt": "Question {n}:", "answer": "yes"}}' for n in range(40)]
    file.write_text("\n".join(lines))
    assert guessed(lr.task(f"local:{file}", family="knowledge"))[1] == 1.0


def test_the_guess_of_a_generated_task_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(task: Task, examples: Sequence[Example], seed: int, score: Scorer) -> Guess:
        asked.append(seed)
        return best_guess(task, examples, seed, score)

    task_protocol_cells._remembered_guess.cache_clear()
    monkeypatch.setattr(task_protocol_cells, "best_guess", counted)
    task = KVRetrieval()
    for seed in (0, 0, 1):
        examples = tuple(task.examples(4, seed))
        assert task_protocol_cells.SweepCell(task, Generation(), examples, seed).guess is not None
    assert asked == [0, 1]


def test_a_run_stores_what_guessing_scores_and_clusters(tmp_path: Path) -> None:
    model = random_model("llama")
    tasks = [lr.task("kv_retrieval", pairs=4), ShortSums()]
    layers = lr.each_layer(model, lr.Skip())
    sweep = lr.Sweep(model, tasks, layers, protocols=["generation"], limit=20)
    result = sweep.run(tmp_path / "run")
    look_up, sums = result.intact().itertuples()
    assert look_up.chance == pytest.approx(0.25)
    assert 0 < sums.chance < 0.2  # some sums are more frequent than others
    assert result.manifest["cells"][0]["chance_from"] == "any value in the prompt"
    assert not np.isnan([look_up.chance_shuffled, sums.chance_shuffled]).any()
    examples = result.examples.set_index("task")
    assert (examples.loc[tasks[0].label, "cluster"] == "").all()
    clusters = [one.cluster for one in tasks[1].examples(20, 0)]
    assert examples.loc[tasks[1].label, "cluster"].to_list() == clusters
    assert 1 < len(set(clusters)) < 20
    guesses = examples.loc[tasks[0].label, "guesses"]
    assert [json.loads(one)["generation"] for one in guesses] == pytest.approx([0.25] * 20)
    # The run is extended with more questions; the values of the first ones stay.
    again = lr.Sweep(model, tasks, [], protocols=["generation"], limit=24)
    more = again.run(tmp_path / "run")
    assert len(more.examples) == 48
    assert more.intact()["chance"][0] == pytest.approx(0.25)


def test_one_fact_among_five_is_guessed_one_time_in_five() -> None:
    strategy, mean = guessed(lr.task("facts", context="distractors"), 60)
    assert strategy == "any value in the prompt"
    assert 0.15 < mean < 0.3
    # Repeating the one fact that a context states is the task, and no guess.
    assert guessed(lr.task("facts", context="support"), 60) == guessed(lr.task("facts"), 60)


def test_guess_that_is_wrong_on_every_question_has_a_chance_above_0() -> None:
    task = lr.task("word_problems", level=3)
    wrong = [one for one in task.examples(400, 0) if one.answer != "18"][:20]
    guess = best_guess(task, wrong, 0, lambda one, text: SCORE(task, one, text))
    assert guess.strategy == "always '18'"
    assert 0 < guess.mean < 0.1


@pytest.mark.parametrize(("n", "chance"), [(1, 0), (2, 0), (3, 1 / 3)])
def test_a_guess_needs_other_questions_with_the_same_answer(
    tmp_path: Path, n: int, chance: float
) -> None:
    """Half of one or of two repeats no answer; of three one half does, for the other."""
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(f'{{"prompt": "{at}:", "answer": "yes"}}' for at in range(n)))
    task = lr.task(f"local:{file}", family="knowledge")
    examples = task.examples(10, 0)
    guess = best_guess(task, examples, 0, lambda one, text: SCORE(task, one, text))
    assert guess.mean == chance
    assert set(guess.scores) == {one.id for one in examples}


def test_a_smaller_limit_leaves_what_was_measured(tmp_path: Path) -> None:
    model = random_model("llama")
    first = lr.Sweep(model, [ShortSums()], [], protocols=["generation"], limit=20)
    before = first.run(tmp_path / "run")
    again = lr.Sweep(model, [ShortSums()], [], protocols=["generation"], limit=8)
    after = again.run(tmp_path / "run")
    assert after.intact()["chance"].tolist() == before.intact()["chance"].tolist()
    assert after.examples.equals(before.examples)


def test_a_task_with_few_questions_has_references() -> None:
    contexts = ShortSums(num_fewshot=8).held_out(64, 0)
    assert len(set(contexts)) == 64
    for context in contexts:
        *shots, asked = context.split("\n\n")
        assert len(shots) == 8
        assert not any(shot.startswith(asked.split("=")[0]) for shot in shots)


def write_choices(folder: Path, rows: list[tuple[str, list[str]]]) -> lr.Task:
    """A task of questions with these answers and choices."""
    lines = [
        json.dumps({"prompt": f"Question {n}?", "answer": answer, "choices": choices})
        for n, (answer, choices) in enumerate(rows)
    ]
    (folder / "choices.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lr.task(f"local:{folder / 'choices.jsonl'}", family="knowledge")


@pytest.mark.parametrize(
    ("rows", "strategy", "chance"),
    [
        # The same position, and the same text, is right in four of five.
        ([("yes" if n % 5 else "no", ["yes", "no"]) for n in range(200)], "always choice 1", 0.8),
        # The positions are balanced, the text is not.
        (
            [("yes" if n % 5 else "no", ["yes", "no"][:: (-1) ** (n // 5)]) for n in range(200)],
            "always 'yes'",
            0.8,
        ),
        # The longest of four is right in three of four.
        (
            [
                (*[f"{n} long" if n % 4 else f"{n}b"], [f"{n} long", f"{n}b", f"{n}c", f"{n}d"])
                if n % 2
                else (
                    *[f"{n} long" if n % 4 else f"{n}b"],
                    [f"{n}d", f"{n}c", f"{n}b", f"{n} long"],
                )
                for n in range(200)
            ],
            "the longest choice",
            0.75,
        ),
        ([(f"{n}{'abcd'[n % 4]}", [f"{n}{c}" for c in "abcd"]) for n in range(200)], None, 0.25),
        ([("yes", ["yes", "no"])] * 8, None, 0.5),  # eight questions show nothing
    ],
)
@pytest.mark.parametrize("protocol", ["letter", "continuation"])
def test_choosing_unread_is_chance_where_it_beats_choosing_at_random(
    tmp_path: Path,
    rows: list[tuple[str, list[str]]],
    strategy: str | None,
    chance: float,
    protocol: str,
) -> None:
    (cell,) = make_cells([write_choices(tmp_path, rows)], [protocol], limit=120, seed=0)
    entry = cell.to_manifest()
    assert entry.get("chance_from") == strategy
    assert entry["chance"] == pytest.approx(chance, abs=0.0 if strategy is None else 0.08)
    if strategy is not None:
        assert entry["random_choice"] == 1 / len(rows[0][1])
        assert set(cell.guess.scores) == {example.id for example in cell.examples}


def test_unasked_questions_without_choices_do_not_affect_guessing(
    tmp_path: Path,
) -> None:
    with_choices = write_choices(tmp_path, [("yes", ["yes", "no"])] * 99)
    with (tmp_path / "choices.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"prompt": "Question:", "answer": "open"}\n')
    (cell,) = make_cells([with_choices], ["continuation"], limit=8, seed=0)
    assert all(example.choices for example in cell.examples)
    assert cell.to_manifest()["chance_from"] == "always choice 1"


def test_a_model_that_always_says_yes_has_no_skill(tmp_path: Path) -> None:
    """Its score is far above that of a random choice, and shows no reading."""
    rows = [("yes" if n % 5 else "no", ["yes", "no"]) for n in range(200)]
    sweep = lr.Sweep(
        random_model("llama"), [write_choices(tmp_path, rows)], [], protocols=["letter"], limit=120
    )
    (intact,) = sweep.run(tmp_path / "run").intact().itertuples()
    assert intact.score == pytest.approx(0.8, abs=0.1)
    assert intact.chance == pytest.approx(0.8, abs=0.1)
    assert not intact.above_chance
