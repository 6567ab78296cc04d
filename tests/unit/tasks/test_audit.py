"""The audit of a task finds planted weaknesses, and none where there are none."""

import dataclasses
import json
import random
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import layerroles as lr
from layerroles.cli import main
from layerroles.errors import InputError
from layerroles.tasks import Example, audit_task
from layerroles.tasks.choice_strategies import find_second_half, strategies
from layerroles.tasks.strategy_significance import strategy_frame
from tests.support.random_models import model_path, random_model

PROMPT = "The river is a the a is a question of {}"
WORDS = "river lamp stone cloud bridge tower wolf arrow feather bell autumn shirt".split()


def question(at: int, answer: str, choices: list[str], prompt: str = "") -> Example:
    return Example(str(at), prompt or f"Question {at} is", answer, tuple(choices))


def guessed(n: int, seed: int) -> list[Example]:
    """Questions whose right answer is drawn from their choices."""
    rng = random.Random(f"guessed {seed}")
    asked = [rng.sample(WORDS, 4) for _ in range(n)]
    return [question(at, rng.choice(choices), choices) for at, choices in enumerate(asked)]


def by_strategy(examples: list[Example]) -> pd.DataFrame:
    frame: pd.DataFrame = strategy_frame(examples)
    return frame.set_index("strategy")


@pytest.mark.parametrize(
    ("strategy", "choices", "answer"),
    [
        ("longest", ["a b c d", "lamp", "river"], "the longest"),
        ("shortest", ["lamps", "rivers", "stones"], "ox"),
        ("largest", ["3", "5", "1,000"], "$2,000"),
        ("second largest", ["3", "5", "90"], "12"),
        ("second smallest", ["3", "50", "90"], "12"),
        ("smallest", ["3", "50", "90"], "-1"),
        ("most alike in words", ["red cat", "big dog", "big old sofa"], "big cat"),
        ("least alike in words", ["big cat", "big dog", "big cow"], "old sofa"),
        ("most alike word by word", ["b a x", "a c x", "a b y"], "a b x"),
        ("least alike word by word", ["a b c", "a b d", "a b e"], "b a c"),
        ("most words of the prompt", ["lamp", "wolf", "bell"], "river"),
        ("fewest words of the prompt", ["the river", "is the", "a river"], "wolf"),
        ("earliest in the prompt", ["is", "a", "question"], "the"),
        ("latest in the prompt", ["the", "river", "is"], "question"),
        ("most often in the prompt", ["the", "river", "is"], "a"),
        ("least often in the prompt", ["the", "a", "is"], "river"),
    ],
)
def test_a_planted_strategy_is_always_right(strategy: str, choices: list[str], answer: str) -> None:
    rng = random.Random(strategy)
    asked = [
        question(at, answer, rng.sample([*choices, answer], 4), PROMPT.format(at))
        for at in range(40)
    ]
    row = by_strategy(asked).loc[strategy]
    assert row["share"] == 1 and row["n"] == 40 and row["flagged"]


@pytest.mark.parametrize(
    "strategy", ["most frequent", "trigrams of characters", "bigrams of characters"]
)
def test_what_other_questions_teach_is_found(strategy: str) -> None:
    rng = random.Random(strategy)
    asked = []
    for at in range(200):
        choices = rng.sample(WORDS, 4)
        right = min(choices, key=WORDS.index)  # the first words of the list are right more often
        asked.append(question(at, right, choices))
    row = by_strategy(asked).loc[strategy]
    assert row["share"] > 0.5 and row["flagged"]


def test_a_p_value_without_ties_is_that_of_the_binomial_test() -> None:
    frame, asked = by_strategy(guessed(60, 3)), guessed(60, 3)
    hits = sum(example.choices[0] == example.answer for example in asked)
    exact = stats.binomtest(hits, 60, 0.25, alternative="greater").pvalue
    assert frame.loc["first", "p"] == pytest.approx(exact)
    assert frame.loc["first", "share"] == hits / 60


def test_a_p_value_with_ties_is_that_of_all_ways_to_be_right() -> None:
    """Six questions of 2 to 4 choices with 1 to 3 longest ones: all right answers, counted."""
    lengths = [(5, 5, 3), (5, 4), (5, 5, 5, 1), (2, 1, 1), (3, 3), (7, 7, 7, 2)]
    choices = [[f"{'x' * (n - 1)}{chr(97 + at)}" for at, n in enumerate(own)] for own in lengths]
    credits = [[(n == max(own)) / own.count(max(own)) for n in own] for own in lengths]
    totals = [sum(ways) for ways in product(*credits)]
    for right in ((0, 0, 0, 0, 0, 0), (0, 0, 3, 1, 1, 1), (2, 1, 3, 1, 0, 3)):
        asked = [question(at, own[right[at]], own) for at, own in enumerate(choices)]
        total = sum(credits[at][place] for at, place in enumerate(right))
        row = by_strategy(asked).loc["longest"]
        assert row["share"] == pytest.approx(total / 6)
        assert row["chance"] == pytest.approx(np.mean([1 / len(own) for own in lengths]))
        # Each question's choices are equally likely, so ways have the same weight.
        assert row["p"] == pytest.approx(np.mean([way >= total - 1e-9 for way in totals]))


def test_a_task_without_a_give_away_is_seldom_flagged() -> None:
    """Of 60 tasks, 3 on average may be; more than 9 are with a probability of 0.0007."""
    flagged = [strategy_frame(guessed(30, seed))["flagged"].any() for seed in range(60)]
    assert sum(flagged) <= 9


def test_a_question_that_is_asked_again_counts_once() -> None:
    """Right answers are placed at random; asked 20 times each, they must not become significant."""
    for seed in range(20):
        asked = guessed(30, seed)
        again = [dataclasses.replace(one, id=f"{one.id} {n}") for n in range(20) for one in asked]
        pd.testing.assert_frame_equal(strategy_frame(again), strategy_frame(asked))


def test_copies_in_another_order_count_for_strategies_on_the_order_alone() -> None:
    """Each question in each order, and once more: each choice is right at each place equally."""
    asked = [
        question(40 * turn + at, "abcd"[at % 4], list(orders[turn % 4 :] + orders[: turn % 4]))
        for turn in range(8)
        for at, orders in enumerate(["abcd"] * 40)
    ]
    asked = [dataclasses.replace(one, prompt=f"Question {int(one.id) % 40} is") for one in asked]
    frame = by_strategy(asked)
    assert frame.loc[["first", "last"], "n"].tolist() == [160, 160]
    assert frame.loc[["first", "last"], "share"].tolist() == [0.25, 0.25]
    assert frame.loc["longest", "n"] == 40 and not frame["flagged"].any()


def test_equal_prompts_are_in_the_same_half() -> None:
    asked = [question(at, "a", ["a", "b"], f"prompt {at % 20}") for at in range(60)]
    halves = find_second_half(asked)
    assert sum(halves) == 30
    assert halves[:20] == halves[20:40] == halves[40:]


def test_what_does_not_apply_is_left_out() -> None:
    asked = [question(0, "3", ["3", "5"]), question(1, "lamp", ["lamp", "river"])]
    asked.append(question(2, "none of them", ["lamp", "river"]))
    frame = by_strategy([*asked, question(3, "no choices", [])])
    assert frame.loc["largest", "n"] == 1 and frame.loc["first", "n"] == 2
    assert strategy_frame([]).empty and strategy_frame(asked[2:]).empty
    assert {strategy.name for strategy in strategies()} >= set(frame.index)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file whose right answers are the longest; one prompt thrice, with two answers."""
    monkeypatch.setattr("layerroles.tasks.task_base_classes.n_reserved", lambda n: 0)
    rows = [
        {"prompt": f"Item {at} is", "answer": "long one", "choices": ["a", "long one", "b"]}
        for at in range(30)
    ]
    rows += [{**rows[0], "id": "again"}, {**rows[0], "answer": "a", "id": "other"}]
    path = tmp_path / "own.jsonl"
    lines = [json.dumps({**row, "family": "knowledge"}) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"local:{path}"


def test_duplicates_and_contradictions_are_counted(own: str) -> None:
    found = audit_task(lr.task(own))
    assert (found.n, found.duplicates, found.contradictions) == (32, 2, 1)
    assert (found.top_answer, found.top_answer_share) == ("long one", 31 / 32)
    assert found.distinct_answers == 2 / 32
    assert found.clusters == 0 and found.context is None and found.too_long is None
    assert found.lengths["unit"].tolist() == ["characters", "words"]
    assert found.lengths["max"].tolist() == [10, 3]
    assert (
        "Always picking the longest choice is right in 97% of the 31 distinct questions to "
        "which this applies (chance 33%): a likelihood protocol with that preference "
        "would count as skill." in found.sentences
    )
    assert repr(found).startswith(f"Audit of {own}, 32 questions:")
    assert found._repr_html_().count("<table") == 1


def test_clusters_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    task = lr.task("facts")
    asked = [Example(str(at), f"p {at}", "a", ("a", "b"), cluster="xxyz"[at]) for at in range(4)]
    monkeypatch.setattr(type(task), "examples", lambda *_: asked)
    found = audit_task(task)
    assert (found.clusters, found.largest_cluster) == (3, 0.5)
    assert any("3 clusters, the largest has 50% of questions" in line for line in found.sentences)


def test_token_counts_are_compared_with_the_context_window() -> None:
    model, task = random_model("llama"), lr.task("needle", words=40)
    found = audit_task(task, limit=5, model=model)
    assert found.context == model.cfg.n_ctx
    tokens = found.lengths.set_index("unit").loc["tokens"]
    assert (found.too_long == 5) == (tokens["min"] + task.max_gen_toks > found.context)
    assert (found.too_long == 0) == (tokens["max"] + task.max_gen_toks <= found.context)


def test_a_limit_that_asks_for_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="limit=0 asks for nothing: give 1 or more"):
        audit_task(lr.task("facts"), limit=0)


def test_the_command_prints_what_it_found(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--check", own]) == 0
    out = capsys.readouterr().out
    assert "longest" in out and "beats chance" in out
    assert "Always picking the longest choice is right in 97% of the 31 distinct " in out
    assert "2 of 32 questions repeat a prompt; 1 prompts are asked with different answers." in out


def test_the_command_prints_json(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--check", own, "--json", "--model", str(model_path("llama"))]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 32 and found["duplicates"] == 2 and found["context"] > 0
    assert {row["strategy"]: row["flagged"] for row in found["frame"]}["longest"] is True


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--check", "fatcs"], "unknown task 'fatcs': did you mean 'facts'?"),
        (["--check", "local:none.jsonl"], "none.jsonl does not exist"),
        (["--check", "facts", "--limit", "0"], "--limit 0 asks for nothing: give 1 or more"),
        (["--model", "smollm2-135m"], "--model smollm2-135m is of use with --check TASK only"),
    ],
)
def test_a_mistake_gets_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tasks", *arguments]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error
