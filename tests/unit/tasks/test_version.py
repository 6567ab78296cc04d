"""The version of a task is part of its label, so that runs of two versions are never mixed."""

import builtins
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import layerroles as lr
from layerroles.errors import InputError
from layerroles.registry import Registry
from layerroles.tasks import Example, Task
from layerroles.tasks.base import register
from tests.support.random_models import random_model


@register("versioned")
@dataclass(frozen=True)
class Versioned(Task):
    """A task whose questions changed twice."""

    family: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 3

    n: int = 1

    def examples(self, limit: int, seed: int) -> list[Example]:
        return [Example("1", "2 + 2 =", "4", aliases=("four",), cluster="sums")][:limit]

    def held_out(self, limit: int, seed: int) -> list[str]:
        return []


def test_a_label_names_the_version_and_can_be_read() -> None:
    assert lr.task("versioned").label == "versioned@3"
    assert lr.task("versioned", n=2).label == "versioned@3[n=2]"
    assert lr.task("versioned@3[n=2]") == lr.task("versioned", n=2)


@pytest.mark.parametrize("version", ["1", "2", "4", "x", ""])
def test_another_version_is_refused(version: str) -> None:
    with pytest.raises(InputError, match=f"has version 3 here, not {version}: runs of another"):
        lr.task(f"versioned@{version}")


def test_fingerprint_covers_aliases_but_not_clusters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = lr.task("versioned")
    before = task.fingerprint(1, 0)
    for example, same in (
        (Example("1", "2 + 2 =", "4", aliases=("four",), cluster="other"), True),
        (Example("1", "2 + 2 =", "4", cluster="sums"), False),
    ):
        monkeypatch.setattr(Versioned, "examples", lambda *_, example=example: [example])
        assert (task.fingerprint(1, 0) == before) is same


def test_a_name_is_taken_before_its_module_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Registry[object]("task", object)
    (tmp_path / "home_of_a_task.py").write_text("import builtins\nbuiltins.tasks_for_a_test()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        builtins, "tasks_for_a_test", lambda: tasks.register("late")(Versioned), raising=False
    )
    tasks.register_module("late", "home_of_a_task")
    with pytest.raises(InputError, match="'late' is already registered"):
        tasks.register("late")(int)


def test_a_package_on_which_questions_depend_has_to_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("llama")
    sweep = lr.Sweep(
        model,
        [lr.task("versioned")],
        lr.each_layer(model, lr.Skip()),
        protocols=["generation"],
        limit=1,
    )
    monkeypatch.setattr(Versioned, "question_packages", ("torch",))
    versions = sweep.run(tmp_path / "run").manifest["versions"]
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    monkeypatch.setattr(Versioned, "question_packages", ("no-such-package",))
    with pytest.raises(InputError, match="names the package 'no-such-package', which is not"):
        sweep.run(tmp_path / "other")
