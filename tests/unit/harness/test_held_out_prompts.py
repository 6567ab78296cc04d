"""References of lm-eval tasks hold no document that is asked, with and without another split."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import layerroles as lr
from layerroles.tasks import LmEval
from tests.support.random_models import random_model

OPTIONS = ["red", "green", "blue"]
EVERYTHING = 10_000


def docs(name: str, n: int) -> list[dict[str, object]]:
    return [
        {"question": f"{name} {i}: which?", "options": OPTIONS, "answer": i % 3} for i in range(n)
    ]


SHOTS = "num_fewshot: 3\n"
FROM_TEST = f"{SHOTS}fewshot_split: test\n"
SIZES = [(4, 0), (5, 1), (30, 6), (319, 63), (320, 64), (330, 64)]
SPLITS = {
    "training_split: train\n": "train",
    "fewshot_split: dev\n": "dev",
    "validation_split: validation\n": "validation",
    "training_split: train\nfewshot_split: dev\n": "dev",
}
# Of each task: what its file says besides, its data.
TASKS = {
    **{f"size_{n}": ("", {"test": docs("test", n)}) for n, _ in SIZES},
    **{
        f"sampled_{sampler}": (
            f"{FROM_TEST}fewshot_config:\n  sampler: {sampler}\n",
            {"test": docs("test", 30)},
        )
        for sampler in ("default", "first_n")
    },
    "few": (FROM_TEST, {"test": docs("test", 10)}),
    **{
        f"split_{at}": (
            SHOTS + named,
            {name: docs(name, 40) for name in ("train", "dev", "validation", "test")},
        )
        for at, named in enumerate(SPLITS)
    },
    "overlap": (
        f"{SHOTS}training_split: train\n",
        {"train": [*docs("train", 10), *docs("test", 25)], "test": docs("test", 30)},
    ),
    "same": (
        "training_split: train\n",
        {"train": docs("test", 30), "test": docs("test", 30)},
    ),
    **{f"member_{at}": ("", {"test": docs("test", 30)}) for at in range(2)},
    **{f"large_{at}": ("", {"test": docs("test", 400)}) for at in range(2)},
    "short": (FROM_TEST, {"test": docs("t", 30)}),
}
ASKED = """doc_to_text: "Q: {{question}}\\nA:"
doc_to_choice: options
doc_to_target: answer
"""
# As in Winogrande, where a question is asked once with each of its choices.
IN_PLACE = """doc_to_text: answer
doc_to_choice: "{{[question + ' red', question + ' green']}}"
doc_to_target: " so"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LmEval]:
    """Makes the tasks above, the groups of `member` and `large`, and `in_place`."""
    folder = tmp_path_factory.mktemp("tasks")
    in_place = {"test": [row | {"answer": 0} for row in docs("test", 20)]}
    for name, (more, splits) in (TASKS | {"in_place": ("", in_place)}).items():
        files = ""
        for split, rows in splits.items():
            file = folder / f"{name}_{split}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            files += f"    {split}: {file}\n"
        text = (
            f"task: apart_{name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n{files}"
            f"output_type: multiple_choice\ntest_split: test\n{more}"
        )
        text += IN_PLACE if name == "in_place" else ASKED
        (folder / f"apart_{name}.yaml").write_text(text, encoding="utf-8")
    for group in ("member", "large"):
        text = f"group: apart_{group}\ntask: [apart_{group}_0, apart_{group}_1]\n"
        (folder / f"apart_{group}.yaml").write_text(text, encoding="utf-8")
    return lambda name: lr.task(f"lm_eval:apart_{name}", include_path=str(folder))


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


@pytest.mark.parametrize(("n", "reserved"), SIZES)
def test_without_another_split_documents_are_reserved(
    n: int, reserved: int, made: Callable[[str], LmEval]
) -> None:
    task = made(f"size_{n}")
    assert task.n_reserved(seed=0) == reserved
    check(task, n - reserved, reserved, 0)


@pytest.mark.parametrize("sampler", ["default", "first_n"])
def test_worked_examples_of_the_asked_split_are_reserved_documents(
    sampler: str, made: Callable[[str], LmEval]
) -> None:
    task = made(f"sampled_{sampler}")
    before = [example.prompt for example in task.examples(EVERYTHING, seed=0)]
    check(task, 24, 6, 3)
    again = made(f"sampled_{sampler}")
    again.held_out(64, seed=0)
    asked = again.examples(EVERYTHING, seed=0)
    assert [example.prompt for example in asked] == before, "what is asked stays as it was"


def test_of_two_reserved_documents_one_is_shown_before_the_other(
    made: Callable[[str], LmEval],
) -> None:
    check(made("few"), 8, 2, 1)


@pytest.mark.parametrize(("at", "split"), list(enumerate(SPLITS.values())))
def test_another_split_is_what_references_are_made_of(
    at: int, split: str, made: Callable[[str], LmEval]
) -> None:
    task = made(f"split_{at}")
    assert task.n_reserved(seed=0) == 0
    prompts = check(task, 40, 40, 3)
    assert all(questions(prompt)[-1].startswith(split) for prompt in prompts)
    assert task.held_out(64, seed=1) != prompts
    assert len(task.held_out(7, seed=0)) == 7


def test_training_documents_that_are_asked_too_are_left_out(made: Callable[[str], LmEval]) -> None:
    check(made("overlap"), 30, 10, 3)
    same = made("same")
    assert same.held_out(64, seed=0) == []
    condition = lr.Condition({lr.Site(1): lr.Mean(lr.Reference())})
    with pytest.raises(lr.InputError, match=r"apart_same.*no question is kept apart to make a ref"):
        lr.Sweep(random_model("llama"), [same], [condition])


def test_a_group_reserves_of_each_member(made: Callable[[str], LmEval]) -> None:
    task = made("member")
    assert task.n_reserved(seed=0) == 12
    assert len(task.examples(EVERYTHING, seed=0)) == 48
    prompts = task.held_out(64, seed=0)
    own = {questions(example.prompt)[-1] for example in task.examples(EVERYTHING, seed=0)}
    assert len(prompts) == 12
    assert not own & {questions(prompt)[-1] for prompt in prompts}
    assert len(task.held_out(3, seed=0)) == 3
    assert made("large").n_reserved(seed=0) == 64


def test_a_task_whose_choices_are_read_in_place(made: Callable[[str], LmEval]) -> None:
    task = made("in_place")
    assert next(iter(task.members.values())).multiple_input
    asked = {example.prompt for example in task.examples(EVERYTHING, seed=0)}
    prompts = task.held_out(64, seed=0)
    assert (len(asked), len(prompts)) == (16, 4)
    assert not asked & set(prompts)


def test_a_sweep_notes_the_prompts_of_an_lm_eval_task(
    made: Callable[[str], LmEval], tmp_path: Path
) -> None:
    task = made("short")
    condition = lr.Condition({lr.Site(1): lr.Mean(lr.Reference())})
    sweep = lr.Sweep(random_model("llama"), [task], [condition], limit=2, noise_floor=False)
    result = sweep.run(tmp_path / "run")
    (cell,) = result.manifest["cells"]
    digest = lr.Reference(task.held_out(64, seed=0)).digest
    assert cell["references"] == {lr.Reference().digest: digest}
    assert set(result.frame["condition"]) == {"intact", "mean L1"}
