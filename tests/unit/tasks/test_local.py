"""A user's own file: read as documented, and refused with its name and line."""

import json
from pathlib import Path

import pytest

from layerroles.errors import InputError
from layerroles.tasks import task

ROW = {"prompt": "2 + 2 =", "answer": "4", "family": "reasoning"}


def written(folder: Path, *rows: object, name: str = "questions.jsonl") -> str:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_jsonl_with_every_field(tmp_path: Path) -> None:
    row = {
        "prompt": "Tom is in Rome. Tom is in ",
        "answer": "Rome",
        "choices": ["Rome", "Paris"],
        "evidence": ["Rome", [0, 3]],
        "family": "retrieval",
        "id": "one",
        "note": {"left": "alone"},
    }
    made = task(f"local:{written(tmp_path, row)}")
    (example,) = made.examples(10, seed=0)
    assert made.family == "retrieval"
    assert (example.id, example.prompt) == ("one", "Tom is in Rome. Tom is in")
    assert example.evidence == ((10, 14), (0, 3))
    assert example.choices == ("Rome", "Paris")


def test_a_path_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, ROW)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(task("local:~/questions.jsonl").examples(9, seed=0)) == 1


def test_a_file_without_local_in_front_of_it_raises_an_error_that_says_so() -> None:
    with pytest.raises(InputError, match=r"is a file of questions: write local:a/b\.csv$"):
        task("a/b.csv")


def test_csv_with_every_field(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "id,prompt,answer,choices,evidence,family",
        'a,"One, two',
        'three:",four,four|five,One|two,language',
        "b,Up:,down,,,language",
        name="questions.CSV",
    )
    made = task("local", path=path)
    examples = {example.id: example for example in made.examples(10, seed=0)}
    assert examples["a"].prompt == "One, two\nthree:"
    assert examples["a"].choices == ("four", "five")
    assert examples["a"].evidence == ((0, 3), (5, 8))
    assert examples["b"].choices == examples["b"].evidence == ()


def test_solutions_are_shown_where_answers_are_generated(tmp_path: Path) -> None:
    rows = [{**ROW, "prompt": f"{n} + 1 =", "answer": n + 1} for n in range(3)]
    rows = [{**row, "solution": f"One more.\nThe answer is {row['answer']}."} for row in rows]
    made = task("local", path=written(tmp_path, *rows), num_fewshot=1)
    example = made.examples(1, seed=0)[0]
    (shot,) = example.shots
    assert example.solution == f"One more.\nThe answer is {example.answer}."
    worked = f"{shot.prompt} One more.\nThe answer is {shot.answer}.\n\n{example.prompt}"
    assert example.context(worked=True) == worked
    assert example.context() == f"{shot.prompt} {shot.answer}\n\n{example.prompt}"
    # What such shots show is more than a line.
    assert made.until == ("\n\n",)
    assert made.grade(f" One.\nThe answer is {example.answer}.", example).strict
    assert task("local", path=made.path).until == ("\n",)


def test_a_solution_in_csv_that_ends_in_a_text(tmp_path: Path) -> None:
    lines = ["prompt,answer,solution,family", 'a?,Rome,"It is there. The answer is Rome.",language']
    path = written(tmp_path, *lines, 'b?,Bonn,"Here. The answer is Bonn.",language', name="q.csv")
    made = task("local", path=path, num_fewshot=1)
    example = next(e for e in made.examples(2, seed=0) if e.answer == "Rome")
    assert example.solution == "It is there. The answer is Rome."
    for response, strict, flexible, form in [
        (" Hm.\nThe answer is Rome.", True, True, True),
        (" Rome", True, True, True),
        (" The answer is Bonn.", False, False, True),
        (" The answer is old Rome.", False, True, False),
    ]:
        grade = made.grade(response, example)
        assert (grade.strict, grade.flexible, grade.form) == (strict, flexible, form)


def test_line_separators_within_a_text_do_not_cut_it(tmp_path: Path) -> None:
    texts = ["a\u2028b", "c\u0085d", "e\u2029f", "g\x0ch"]
    path = written(tmp_path, *({**ROW, "prompt": text} for text in texts))
    assert {e.prompt for e in task("local", path=path).examples(9, seed=0)} == set(texts)


def test_windows_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\r\n")
    assert len(task("local", path=str(path)).examples(9, seed=0)) == 1


def test_order_shots_and_held_out(tmp_path: Path) -> None:
    rows = [{**ROW, "prompt": f"{n} + 0 =", "answer": n} for n in range(20)]
    made = task("local", path=written(tmp_path, *rows), num_fewshot=2)
    examples = made.examples(12, seed=0)
    assert made.examples(5, seed=0) == examples[:5]
    assert made.examples(12, seed=1) != examples
    assert len(made.examples(99, seed=0)) == 16
    for example in made.examples(99, seed=0):
        assert len(example.shots) == 2
        assert example.prompt not in {shot.prompt for shot in example.shots}
    ends = {context.rsplit("\n\n", 1)[-1] for context in made.held_out(8, seed=0)}
    assert len(ends) == 4
    assert not ends & {example.prompt for example in made.examples(99, seed=0)}


def test_family_by_parameter_and_labels(tmp_path: Path) -> None:
    plain = written(tmp_path, {"prompt": "p", "answer": "a"}, name="plain.jsonl")
    made = task("local", path=plain, family="commonsense")
    assert made.family == "commonsense"
    assert task(made.label) == made
    named = task("local", path=written(tmp_path, ROW))
    assert named.label == f"local:{tmp_path / 'questions.jsonl'}"
    assert task(named.label) == named
    other = task("local", path=named.path, max_gen_toks=64, num_fewshot=0)
    assert other.max_gen_toks == 64
    assert task(other.label) == other
    comma = task("local", path=written(tmp_path, ROW, name="a, b.jsonl"), num_fewshot=0)
    assert task(comma.label) == comma


def test_numbers_are_graded_by_value(tmp_path: Path) -> None:
    made = task("local", path=written(tmp_path, {**ROW, "answer": 1250}))
    (example,) = made.examples(1, seed=0)
    assert made.grade(" It is $1,250.00.", example).flexible
    assert made.grade(" 1250", example).strict
    assert not made.grade(" 125", example).flexible


def test_the_grading_version_is_3(tmp_path: Path) -> None:
    assert task("local", path=written(tmp_path, ROW)).grading == 3


@pytest.mark.parametrize(
    ("rows", "line", "reason"),
    [
        (["{"], 1, "not JSON"),
        ([ROW, "[1]"], 2, "not a JSON object"),
        ([ROW, "", {"prompt": "p"}], 3, "'answer'"),
        ([{"answer": "p"}], 1, "'prompt'"),
        ([{**ROW, "prompt": " "}], 1, "'prompt' is empty"),
        ([{**ROW, "answer": [4]}], 1, "[4]"),
        ([{**ROW, "choices": ["5", "6"]}], 1, "'4' is not among the choices"),
        ([{**ROW, "choices": ["4", "4"]}], 1, "name one twice"),
        ([{**ROW, "choices": ["4", ""]}], 1, "['4', ''] hold an empty one"),
        ([{**ROW, "choices": "4|5"}], 1, "not a list"),
        ([{**ROW, "evidence": ["3"]}], 1, "'3' does not occur"),
        ([{**ROW, "evidence": [[3, 99]]}], 1, "[3, 99]"),
        ([{**ROW, "family": "magic"}], 1, "'magic'"),
        ([ROW, {**ROW, "prompt": "p", "family": "language"}], 2, "'language'"),
        ([{**ROW, "id": "x"}, {**ROW, "id": "x"}], 2, "'x' is that of line 1"),
        ([ROW, ROW], 2, "is that of line 1"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, rows: list[object], line: int, reason: str) -> None:
    path = written(tmp_path, *rows)
    with pytest.raises(InputError) as error:
        task("local", path=path)
    message = str(error.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert reason in message and "\n" not in message


@pytest.mark.parametrize(
    ("rows", "line", "reason"),
    [
        (["prompt,answer,family", "a,b"], 2, "2 cells under 3 names"),
        (["prompt,answer,family", '"a', 'b",c,reasoning', "d,,reasoning"], 4, "'answer'"),
        (["prompt,answer,choices,family", "a,b,c|d,reasoning"], 2, "'b' is not among"),
        (["prompt,answer,choices,family", "a,b,b|c|,reasoning"], 2, "hold an empty one"),
        (["prompt,answer,family", '"a'], 2, "not CSV"),
    ],
)
def test_a_wrong_csv_row_is_named(tmp_path: Path, rows: list[str], line: int, reason: str) -> None:
    path = written(tmp_path, *rows, name="q.csv")
    with pytest.raises(InputError) as error:
        task("local", path=path)
    assert str(error.value).startswith(f"{path}, line {line}: ")
    assert reason in str(error.value)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    empty = written(tmp_path, name="empty.jsonl")
    heads = written(tmp_path, "prompt,answer", name="heads.csv")
    text = written(tmp_path, ROW, name="q.txt")
    plain = written(tmp_path, {"prompt": "p", "answer": "a"}, name="plain.jsonl")
    named = written(tmp_path, ROW, name="named.jsonl")
    coded = tmp_path / "coded.jsonl"
    coded.write_bytes(json.dumps(ROW).encode() + b'\n{"prompt": "caf\xe9"}\n')
    for path, parameters, reason in [
        (str(tmp_path / "none.jsonl"), {}, "does not exist"),
        (f"{300 * 'a'}.jsonl", {}, "cannot be read: File name too long"),
        (str(tmp_path), {}, "is a folder"),
        (empty, {}, "holds no question"),
        (heads, {}, "holds no question"),
        (text, {}, ".jsonl or .csv"),
        (plain, {}, "no row has a field 'family'"),
        (plain, {"family": "magic"}, "'magic'"),
        (named, {"family": "language"}, "'reasoning', not 'language'"),
        (str(coded), {}, "line 2: not UTF-8"),
    ]:
        with pytest.raises(InputError) as error:
            task("local", path=path, **parameters)
        assert reason in str(error.value)
        assert Path(path).name in str(error.value) or "magic" in reason
