"""References of lm-eval tasks hold no document that is asked, with and without another split."""

import itertools
import json
from pathlib import Path

import pytest

import layerroles as lr
from layerroles.tasks import LmEval, harness
from tests.unit.random_models import random_model

OPTIONS = ["red", "green", "blue"]
EVERYTHING = 10_000
NAMES = itertools.count()


def docs(name: str, n: int) -> list[dict[str, object]]:
    return [
        {"question": f"{name} {i}: which?", "options": OPTIONS, "answer": i % 3} for i in range(n)
    ]


def made(folder: Path, more: str, *, group: int = 0, **splits: list[dict[str, object]]) -> LmEval:
    """A task of one's own, or a group of several, whose data have these splits."""
    harness._manager.cache_clear()
    files = ""
    for split, rows in splits.items():
        file = folder / f"{split}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files += f"    {split}: {file}\n"
    name = f"apart_{next(NAMES)}"
    names = [f"{name}_{i}" for i in range(group)] or [name]
    for one in names:
        text = (
            f"task: {one}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n{files}"
            f"output_type: multiple_choice\ntest_split: test\ndoc_to_choice: options\n"
            f'doc_to_target: answer\ndoc_to_text: "Q: {{{{question}}}}\\nA:"\n{more}'
        )
        (folder / f"{one}.yaml").write_text(text, encoding="utf-8")
    if group:
        listed = f"group: {name}\ntask: [{', '.join(names)}]\n"
        (folder / f"{name}.yaml").write_text(listed, encoding="utf-8")
    return lr.task(f"lm_eval:{name}", include_path=str(folder))


def questions(prompt: str) -> list[str]:
    """The questions that a prompt shows or asks, in order."""
    return [part.split("\nA:")[0] for part in prompt.split("Q: ")[1:]]


def check(task: LmEval, n_asked: int, n_prompts: int, n_shots: int) -> list[str]:
    """Check a task at several limits; the prompts of its reference under seed 0."""
    for seed in (0, 1):
        everything = task.examples(EVERYTHING, seed)
        assert len(everything) == n_asked
        prompts = task.held_out(64, seed)
        assert len(prompts) == len(set(prompts)) == n_prompts
        for limit in (1, n_asked // 2, n_asked):
            asked = task.examples(limit, seed)
            assert [e.id for e in asked] == [e.id for e in everything[:limit]]
            own = {questions(example.prompt)[-1] for example in asked}
            assert len(own) == limit
            assert not own & {shown for prompt in prompts for shown in questions(prompt)}
        for prompt in prompts:
            shown = questions(prompt)
            assert len(shown) == len(set(shown)) == 1 + n_shots
        assert task.held_out(64, seed) == prompts, "the same each time"
    return task.held_out(64, seed=0)


SHOTS = "num_fewshot: 3\n"


@pytest.mark.parametrize(
    ("n", "reserved"), [(4, 0), (5, 1), (30, 6), (319, 63), (320, 64), (330, 64)]
)
def test_without_another_split_documents_are_reserved(
    n: int, reserved: int, tmp_path: Path
) -> None:
    task = made(tmp_path, "num_fewshot: 0\n", test=docs("test", n))
    assert task.n_reserved(seed=0) == reserved
    check(task, n - reserved, reserved, 0)


@pytest.mark.parametrize("sampler", ["default", "first_n"])
def test_worked_examples_of_the_asked_split_are_reserved_documents(
    sampler: str, tmp_path: Path
) -> None:
    more = f"{SHOTS}fewshot_split: test\nfewshot_config:\n  sampler: {sampler}\n"
    task = made(tmp_path, more, test=docs("test", 30))
    before = [example.prompt for example in task.examples(EVERYTHING, seed=0)]
    check(task, 24, 6, 3)
    asked = lr.task(f"lm_eval:{task.task}", include_path=str(tmp_path)).examples(EVERYTHING, 0)
    assert [example.prompt for example in asked] == before, "what is asked stays as it was"
    # Of two reserved documents, only one can be shown before the other.
    check(made(tmp_path, more, test=docs("test", 10)), 8, 2, 1)


@pytest.mark.parametrize(
    ("named", "split"),
    [
        ("training_split: train\n", "train"),
        ("fewshot_split: dev\n", "dev"),
        ("validation_split: validation\n", "validation"),
        ("training_split: train\nfewshot_split: dev\n", "dev"),
    ],
)
def test_another_split_is_what_references_are_made_of(
    named: str, split: str, tmp_path: Path
) -> None:
    splits = {name: docs(name, 40) for name in ("train", "dev", "validation", "test")}
    task = made(tmp_path, SHOTS + named, **splits)
    assert task.n_reserved(seed=0) == 0
    prompts = check(task, 40, 40, 3)
    assert all(questions(prompt)[-1].startswith(split) for prompt in prompts)
    assert task.held_out(64, seed=1) != prompts
    assert len(task.held_out(7, seed=0)) == 7


def test_training_documents_that_are_asked_too_are_left_out(tmp_path: Path) -> None:
    train = [*docs("train", 10), *docs("test", 25)]
    task = made(tmp_path, f"{SHOTS}training_split: train\n", train=train, test=docs("test", 30))
    check(task, 30, 10, 3)
    same = made(tmp_path, "num_fewshot: 0\ntraining_split: train\n", train=docs("test", 30),
                test=docs("test", 30))  # fmt: skip
    assert same.held_out(64, seed=0) == []
    condition = lr.Condition({lr.Site(1): lr.Mean(lr.Reference())})
    with pytest.raises(lr.InputError, match=r"apart_\d+.*no question is kept apart to make a ref"):
        lr.Sweep(random_model("llama"), [same], [condition])


def test_a_group_reserves_of_each_member(tmp_path: Path) -> None:
    task = made(tmp_path, "num_fewshot: 0\n", group=2, test=docs("test", 30))
    assert task.n_reserved(seed=0) == 12
    assert len(task.examples(EVERYTHING, seed=0)) == 48
    prompts = task.held_out(64, seed=0)
    own = {questions(example.prompt)[-1] for example in task.examples(EVERYTHING, seed=0)}
    assert len(prompts) == 12
    assert not own & {questions(prompt)[-1] for prompt in prompts}
    assert len(task.held_out(3, seed=0)) == 3
    large = made(tmp_path, "num_fewshot: 0\n", group=2, test=docs("test", 400))
    assert large.n_reserved(seed=0) == 64


def test_a_task_whose_choices_are_read_in_place(tmp_path: Path) -> None:
    """As in Winogrande, where a question is asked once with each of its choices."""
    more = "doc_to_choice: \"{{[question + ' red', question + ' green']}}\"\ndoc_to_text: answer\n"
    rows = [row | {"answer": 0} for row in docs("test", 20)]
    task = made(tmp_path, f"num_fewshot: 0\n{more}".replace("doc_to_text", "#"), test=rows)
    file = tmp_path / f"{task.task}.yaml"
    lines = [
        line
        for line in file.read_text().splitlines()
        if not line.startswith(("doc_to_choice: options", "doc_to_text", "doc_to_target", "#"))
    ]
    file.write_text("\n".join([*lines, "doc_to_text: answer", 'doc_to_target: " so"', ""]))
    harness._manager.cache_clear()
    task = lr.task(f"lm_eval:{task.task}", include_path=str(tmp_path))
    assert next(iter(task.members.values())).multiple_input
    assert len(task.examples(EVERYTHING, seed=0)) == 16
    prompts = task.held_out(64, seed=0)
    assert len(prompts) == 4
    assert not {example.prompt for example in task.examples(EVERYTHING, seed=0)} & set(prompts)


def test_a_sweep_notes_the_prompts_of_an_lm_eval_task(tmp_path: Path) -> None:
    task = made(tmp_path, f"{SHOTS}fewshot_split: test\n", test=docs("t", 30))
    condition = lr.Condition({lr.Site(1): lr.Mean(lr.Reference())})
    sweep = lr.Sweep(random_model("llama"), [task], [condition], limit=2, noise_floor=False)
    result = sweep.run(tmp_path / "run")
    (cell,) = result.manifest["cells"]
    digest = lr.Reference(task.held_out(64, seed=0)).digest
    assert cell["references"] == {lr.Reference().digest: digest}
    assert set(result.frame["condition"]) == {"intact", "mean L1"}
