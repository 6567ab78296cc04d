"""The script that compares ways to choose layers, on a planted model."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

import layerroles as lr

Load = Callable[[str], ModuleType]


@pytest.mark.experiments
def test_what_reasoning_needs_is_kept_on_examples_that_no_plan_saw(
    experiment: Load,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = lr.planted(n_layers=6, retrieval=(0, 1), reasoning=(4,), inert=())
    monkeypatch.setattr(lr, "load", lambda name, dtype: made.model)
    script = experiment("pruning")
    given = ["--keep", "planted_chain", "--others", "planted_look_up", "--drop", "1", "2"]
    given += ["--plan-limit", "16", "--limit", "40", "--others-limit", "24"]
    given += ["--beside", "answer_logprob", "--out", str(tmp_path)]
    script.main(given)
    table = pd.read_csv(tmp_path / "pruning.csv")
    own = table[(table["task"] == "planted_chain") & (table["protocol"] == "generation")]
    role_aware = own[own["method"] == "role_aware"].set_index("drop")
    assert role_aware.loc[2, "layers"] == "L2:4"  # not the one that takes the second step
    assert role_aware["harm"].max() < 0.1
    planned = {example.id for example in lr.task("planted_chain").examples(16, 0)}
    asked = set(lr.read(tmp_path).frame["example"])
    assert role_aware["n"].tolist() == [len(asked - planned)] * 2
    assert set(table["task"]) == {"planted_chain", "planted_look_up"}
    findings = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert [line.split(":")[0] for line in findings[:2]] == ["1 dropped", "2 dropped"]
    assert all("role-aware is not more than 5 points worse than" in line for line in findings[:2])
    assert findings[2].endswith("as well as any others: shown for 1, 2 dropped.")
    assert (tmp_path / "report.html").is_file() and (tmp_path / "pruning.html").is_file()

    capsys.readouterr()
    with pytest.raises(lr.InputError, match="holds a run: leave out --no-resume"):
        script.main([*given, "--no-resume"])
    for drop in ("9", "0 1", "1 1"):
        with pytest.raises(lr.InputError, match=f"--drop {drop}: name each number once, of 1 to 5"):
            script.main([*given[:-1], str(tmp_path / "many"), "--drop", *drop.split()])
