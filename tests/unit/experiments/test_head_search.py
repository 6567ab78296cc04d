"""The script of the two-stage search, on a planted model."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

import layerroles as lr

Load = Callable[[str], ModuleType]


@pytest.mark.experiments
def test_it_finds_what_the_exhaustive_run_finds(
    experiment: Load,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = experiment("head_search")
    made = lr.planted(n_layers=4, retrieval=(0, 1), reasoning=(3,), heads=3, inert=(), seed=1)
    monkeypatch.setattr(lr, "load", lambda name, dtype: made.model)
    given = ("--task", "planted_chain", "--limit", "24", "--screen-limit", "4", "--top", "3")
    given += ("--confirm", "4", "--audit", "3", "--out", str(tmp_path))
    script.main([*given, "--exhaustive-layers", "4"])
    shown = capsys.readouterr().out
    assert "Of their true top 3 the search confirms 3; halves" in shown
    assert "critical heads: 3 among the confirmed; 0 among 3 audited" in shown
    kept = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert "\n".join(kept) in shown and kept[0].startswith(
        "Most harm where zeroed alone (n = 24): L"
    )
    assert kept[-1].startswith("Heads that are critical alone: L")
    assert "it is not shown to miss any, though up to " in kept[-1]
    assert (tmp_path / "report.html").is_file()
    table = pd.read_csv(tmp_path / "head_search.csv")
    critical = table[table["verdict"] == "critical"]
    heads = {(site.layer, site.head) for site in made.sites["reasoning"] if site.head is not None}
    assert set(zip(critical["layer"], critical["head"], strict=True)) == heads

    # Fewer layers in the same folder: what was asked of the others does not count.
    script.main([*given, "--exhaustive-layers", "2", "--confirm", "2", "--audit", "0"])
    kept = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert kept[1].startswith("2 of 6 heads confirmed, 0 of the others audited: ")
    assert "for 6 heads of layers [0, 3]" in kept[-2]
    assert kept[-1].endswith("what it missed is not known, none was audited.")

    # A probe screens as well: the attention of heads to the evidence.
    script.main([*given[:-1], str(tmp_path / "probe"), "--screen", "attention:evidence"])
    assert "4 of 12 heads confirmed, 3 of the others audited" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("--exhaustive-layers", "9"), "--exhaustive-layers 9: the model has 4 layers"),
        (("--screen", "attention:size"), "--screen attention:size: attention has "),
        (("--confirm", "0"), "--confirm, --top and --screen-limit are 1 or more"),
        (("--confirm", "13"), "confirm=13, audit=20: of 12 heads"),
        (("--task", "nonsense"), "unknown task"),
    ],
)
def test_a_mistake_is_one_line(
    given: tuple[str, ...],
    line: str,
    experiment: Load,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = lr.planted(n_layers=4, retrieval=(0, 1), reasoning=(3,), heads=3, inert=(), seed=1)
    monkeypatch.setattr(lr, "load", lambda name, dtype: made.model)
    options = ("--task", "planted_chain", "--screen-limit", "2", "--limit", "2")
    script, setting = experiment("head_search"), experiment("setting")
    with pytest.raises(SystemExit) as stopped:
        setting.run("head_search", lambda: script.main([*options, "--out", str(tmp_path), *given]))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("head_search: error: ") and error.count("\n") == 1
    assert line in error
