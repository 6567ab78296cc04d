"""`--json` and `export-rows`: what scripts read."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

import layerroles as lr
from layerroles.cli import main
from layerroles.results import SweepResult
from tests.support.pages import PAGE
from tests.support.random_models import model_path
from tests.support.synthetic import synthetic_result


@pytest.fixture(scope="module")
def result() -> SweepResult:
    return synthetic_result(3, 8, intact={("reasoning", "continuation"): 0.25})


@pytest.fixture
def runs(result: SweepResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run folder holds the result."""
    monkeypatch.setitem(lr.__dict__, "read", lambda run: result)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> object:
    """What a command prints, all of it JSON without what only Python reads."""
    assert main(arguments) == 0
    out = capsys.readouterr().out
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def keys_of(command: str) -> set[str]:
    """The keys that the page names first: those of the object, not what stands in brackets."""
    (line,) = re.findall(rf"\| `{command} --json` \| (.*) \|", PAGE.read_text("utf-8"))
    line = re.sub(r"\([^)]*\)|: .*", "", line.removeprefix("a list: "))
    return {word.strip() for word in line.split(",")}


@pytest.mark.parametrize("command", ["tasks", "ablations"])
def test_lists_have_the_keys_of_the_page(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, command, "--json")
    assert isinstance(found, list)
    assert all(set(one) == keys_of(command) for one in found)
    assert {"tasks": "facts", "ablations": "skip"}[command] in {one["name"] for one in found}


def test_sites_tell_what_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "sites", str(model_path("llama")), "--json")
    assert isinstance(found, dict)
    assert set(found) == keys_of("sites")
    block = found["parts"][0]
    last = f"L{found['n_layers'] - 1}"
    assert block == {"part": "block", "first": "L0", "last": last, "all": "all", "refused": []}
    assert found["adds_up"] == [True] * found["n_layers"]


@pytest.mark.usefixtures("runs")
def test_a_comparison_has_no_number_that_json_has_not(
    result: SweepResult, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(capsys, "compare", "runs/a", "runs/b", "--top", "1", "--json")
    assert isinstance(found, dict)
    assert set(found) == keys_of("compare")
    assert len(found["differences"]) == 8  # one of each task and protocol
    every = printed(capsys, "compare", "runs/a", "runs/b", "--json")
    assert isinstance(every, dict)
    assert len(every["differences"]) == len(lr.compare(result, result).frame)
    reasoning = [
        one
        for one in found["differences"]
        if (one["family"], one["protocol"]) == ("reasoning", "continuation")
    ]
    assert reasoning[0]["harm_a"] is None


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_rows_are_written_whole(
    ending: str, result: SweepResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / f"rows.{ending}"
    assert main(["export-rows", "runs/a", str(file)]) == 0
    assert capsys.readouterr().out == f"{len(result.frame)} rows in {file}\n"
    read = {
        "parquet": pd.read_parquet,
        "csv": pd.read_csv,
        "jsonl": lambda path: pd.read_json(path, lines=True),
    }[ending]
    rows = read(file)
    assert list(rows.columns) == list(result.frame.columns)
    pd.testing.assert_series_equal(rows["score"], result.frame["score"], check_dtype=False)
    assert [one.name for one in file.parent.iterdir()] == [file.name]
    if ending == "parquet":
        assert (rows.dtypes == result.frame.dtypes).all()


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_rows_that_utf_8_cannot_hold_are_written_and_no_other_file_is(
    ending: str, result: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = ["half \ud83d"] * len(result.frame)
    responses = pd.Series(half, index=result.frame.index, dtype=object)
    frame = result.frame.assign(response=responses)
    monkeypatch.setitem(lr.__dict__, "read", lambda run: SweepResult(frame, result.manifest))
    (tmp_path / f".rows.{ending}").write_text("mine", encoding="utf-8")
    file = tmp_path / f"rows.{ending}"
    assert main(["export-rows", "runs/a", str(file)]) == 0
    assert b"half ?" in file.read_bytes()
    assert (tmp_path / f".rows.{ending}").read_text(encoding="utf-8") == "mine"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.usefixtures("runs")
def test_rows_have_a_known_ending_and_a_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export-rows", "runs/a", "rows.xlsx"]) == 2
    assert "ends in none of .parquet, .csv, .jsonl" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["export-rows", "runs/a", str(tmp_path / "file" / "rows.csv")]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.usefixtures("runs")
def test_figures_are_listed_and_need_nothing_for_html(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(
        capsys,
        *("figures", "runs/a", "--only", "harm_map", "--format", "html"),
        *("--out", str(tmp_path), "--json"),
    )
    assert isinstance(found, list)
    (one,) = found
    assert set(one) == keys_of("figures")
    assert one["kind"] == "harm_map"
    assert [Path(file).suffix for file in one["files"]] == [".html", ".txt"]
    assert "Plotly.newPlot" in Path(one["files"][0]).read_text("utf-8")
    assert one["caption"].endswith("transformers 5.23.0.")
