"""Shell completion: what a shell offers, and that its names are those of the registries."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from layerroles.ablations import ABLATIONS
from layerroles.cli import shell_completion
from layerroles.engine.executor_choice import ExecutorName
from layerroles.engine.planning.published_speeds import DEVICES
from layerroles.figures.catalogue import KINDS
from layerroles.figures.print.files import FORMATS
from layerroles.figures.print.screen_to_print import WIDTHS
from layerroles.probes import PROBES
from layerroles.protocols import PROTOCOLS
from layerroles.prune.plan import METHODS
from layerroles.sites import ATS
from layerroles.sweep import Decided
from layerroles.tasks import TASKS
from layerroles.tasks.base import FAMILIES


def asked(*words: str, cwd: Path, **environment: str) -> list[str]:
    """The completions that bash gets when Tab is pressed after the last word."""
    variables = {
        "_LAYERROLES_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["layerroles", *words]),
        "COMP_CWORD": str(len(words)),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "layerroles"],
        env={**os.environ, **variables, **environment},
        cwd=cwd, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "pandas", "transformers", "plotly", "rich"}
    return done.stdout.split()


def test_shell_completes_commands_values_and_runs(tmp_path: Path) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "manifest.json").touch()
    assert asked("exp", cwd=tmp_path) == ["export-rows"]
    assert asked("sweep", "--tasks", "facts,kv", cwd=tmp_path) == ["facts,kv_retrieval"]
    assert asked("report", "ru", cwd=tmp_path) == ["runs/first"]
    assert asked("report", "r", "--against", "./ru", cwd=tmp_path) == ["./runs/first"]


def test_runs_are_found_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("runs/one", "runs/two", "runs/none", "three"):
        (tmp_path / name).mkdir(parents=True)
        if name != "runs/none":
            (tmp_path / name / "manifest.json").touch()
    monkeypatch.chdir(tmp_path)
    assert shell_completion.runs("") == ["runs/one", "runs/two", "three"]
    assert shell_completion.runs("runs/") == ["runs/one", "runs/two"]
    assert shell_completion.runs("runs/t") == ["runs/two"]
    assert shell_completion.runs("th") == ["three"]
    assert shell_completion.runs(f"{tmp_path}/runs/o") == [f"{tmp_path}/runs/one"]
    assert shell_completion.runs("nowhere/x") == []
    assert shell_completion.runs("./ru") == ["./runs/one", "./runs/two"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert shell_completion.runs("~/") == ["~/runs/one", "~/runs/two", "~/three"]
    assert shell_completion.runs("~/runs/o") == ["~/runs/one"]
    assert shell_completion.runs("~nobody-of-this-name/") == []


def test_a_list_offers_what_is_not_in_it() -> None:
    at = shell_completion.list_of(ATS)
    assert at("al") == ["all"]
    assert at("all,a") == ["all,after_first"]
    assert at("all,all") == []


def test_models_are_those_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub" / "models--Qwen--Qwen3-8B").mkdir(parents=True)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert shell_completion.models("") == ["smollm2-135m", "Qwen/Qwen3-8B"]
    assert shell_completion.models("Qw") == ["Qwen/Qwen3-8B"]


def test_names_are_those_that_the_package_knows() -> None:
    built_in = {"tuned_lens"}  # read from a file, by an option of its own
    planted = {name for name in TASKS if name.startswith("planted_")}  # asked of planted models
    own = {name for name in ABLATIONS if ABLATIONS[name].__module__.startswith("layerroles.")}
    assert set(shell_completion.ABLATIONS) == own
    for names, registry in (
        (shell_completion.TASKS, TASKS),
        (shell_completion.PROTOCOLS, PROTOCOLS),
        (shell_completion.PROBES, PROBES),
    ):
        known = {n for n in registry if registry[n].__module__.startswith("layerroles.")}
        assert set(names) == known - built_in - planted
    assert tuple(METHODS) == shell_completion.METHODS
    assert set(shell_completion.EXECUTORS) == set(get_args(ExecutorName))
    assert shell_completion.FAMILIES == FAMILIES
    assert shell_completion.FIGURES == KINDS
    assert Decided().first == shell_completion.FIRST_LOOK
    assert shell_completion.FORMATS == FORMATS
    assert tuple(WIDTHS) == shell_completion.WIDTHS
    assert set(shell_completion.TARGETS) == {"cpu", "measured", *DEVICES}
