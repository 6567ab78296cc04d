"""Which rows ask the same question, and which ablations are kinds of their own."""

import pandas as pd
import pytest

from benchmarks.simulated import Simulation, copied
from layerroles.ablations.base import ABLATIONS, MECHANISMS
from layerroles.results import BUILT_IN, mechanisms
from layerroles.results.cross_task_questions import name_questions

G = "generation"


def asked(**tasks: list[str]) -> pd.DataFrame:
    """Rows of tasks with these example ids."""
    return pd.DataFrame(
        [(t, e) for t, ids in tasks.items() for e in ids], columns=["task", "example"]
    )


def examples_of(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    """What is known of examples: task, id, answer, question."""
    return pd.DataFrame(rows, columns=["task", "example", "answer", "question"])


def test_tasks_share_questions_by_id_and_answer() -> None:
    frame = asked(bare=["1", "2"], context=["1", "2"], other=["1", "2"])
    known = examples_of(
        ("bare", "1", "Rome", ""), ("bare", "2", "Oslo", ""),
        ("context", "1", "Rome", ""), ("context", "2", "Oslo", ""),
        ("other", "1", "Rome", ""), ("other", "2", "Lima", ""),
    )  # fmt: skip
    names = name_questions(frame, known)
    assert names["bare"] == names["context"]
    assert not set(names["bare"].values()) & set(names["other"].values())


def test_shared_documents_are_matched_across_different_ids() -> None:
    frame = asked(one=["one/0", "one/1"], two=["two/0", "two/1"], group=["one/7", "two/7"])
    known = examples_of(
        ("one", "one/0", "A", "d1"), ("one", "one/1", "B", "d2"),
        ("two", "two/0", "text", "d3"), ("two", "two/1", "text", "d3"),
        ("group", "one/7", "A", "d1"), ("group", "two/7", "C", "d3"),
    )  # fmt: skip
    names = name_questions(frame, known)
    assert names["group"] == {"one/7": names["one"]["one/0"], "two/7": names["two"]["two/0"]}
    assert names["two"]["two/1"] != names["two"]["two/0"]  # a document that is there twice


def test_without_answers_no_two_tasks_share_a_question() -> None:
    frame = asked(one=["0", "1"], two=["0", "1"])
    for known in (pd.DataFrame(), examples_of(("one", "0", "", ""), ("two", "0", "", ""))):
        names = name_questions(frame, known)
        assert not set(names["one"].values()) & set(names["two"].values())


def test_built_in_ablations_have_the_mechanism_that_old_runs_are_given() -> None:
    declared = {name: ABLATIONS[name].mechanism for name in BUILT_IN}
    assert declared == BUILT_IN
    assert set(BUILT_IN.values()) == set(MECHANISMS)
    assert ABLATIONS["swap"].mechanism == ""


def test_a_run_without_mechanisms_goes_by_the_names_of_built_in_ones() -> None:
    result = Simulation({("retrieval", G): [0.5] * 3}, n=30, kinds=("skip", "mean", "clip")).draw(0)
    assert mechanisms(result) == {"skip": "deletion", "mean": "mean", "clip": ""}


@pytest.mark.parametrize("first", ["skip", "scale"])
def test_an_undeclared_copy_takes_no_mechanism_away(first: str) -> None:
    result = copied(Simulation({("retrieval", G): [0.5] * 3}, n=30).draw(0), "skip", "scale")
    order = {"intact": 0, first: 1}
    frame = result.frame.sort_values(
        "ablation", key=lambda names: names.map(lambda name: order.get(name, 2)), kind="stable"
    )
    found = mechanisms(type(result)(frame.reset_index(drop=True), result.manifest, result.examples))
    assert found == {"skip": "deletion", "scale": "deletion", "mean": "mean"}
