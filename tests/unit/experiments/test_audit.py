"""The script that judges published cells."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import layerroles as lr
from layerroles import stats
from tests.support.synthetic import synthetic_result

Load = Callable[[str], ModuleType]
FIELDS = ("model", "site", "task", "protocol", "intact", "ablated", "effect", "n", "source", "note")
PUBLISHED = Path(__file__).parents[3] / "experiments" / "published.csv"


def row(**given: object) -> dict[str, str]:
    whole = {**dict.fromkeys(FIELDS, ""), "site": "L28", "task": "gsm8k"}
    return whole | {name: str(value) for name, value in given.items()}


def write(file: Path, *rows: dict[str, str]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({"intact": 0.48, "ablated": 0.59, "n": 20}, "within noise"),
        ({"intact": 0.48, "ablated": 0.59, "n": 100}, "depends on how many answers changed"),
        ({"intact": 0.48, "ablated": 0.59, "n": 2000}, "more than noise"),
        ({"intact": 0.59, "ablated": 0.48, "n": 100}, "depends on how many answers changed"),
        ({"intact": 4 / 60, "ablated": 7 / 60, "n": 60}, "within noise"),
        ({"effect": -0.8, "n": 4}, "within noise"),
        ({"effect": -0.8, "n": 100}, "more than noise"),
        ({"intact": 0.5, "ablated": 0.5, "n": 100}, "within noise"),
    ],
)
def test_a_cell_is_judged_at_its_n(given: dict[str, float], verdict: str, experiment: Load) -> None:
    script = experiment("audit")
    cell = script.parse_row(row(**given))
    assert script.judge(cell) == verdict
    assert script.describe_cell(cell)["verdict"].startswith(f"{verdict}, ")


def test_one_of_many_cells_needs_more(experiment: Load) -> None:
    script = experiment("audit")
    cell = script.parse_row(row(intact=0.48, ablated=0.59, n=500, tests=32))
    assert script.judge(cell) == "more than noise"
    described = script.describe_cell(cell)
    assert described["verdict"].endswith(
        "as one picked from 32: depends on how many answers changed."
    )
    z = 3.1612  # of 0.05 / 32, two-sided
    assert described["needed_most_of_tests"] == math.floor(1 + z * z * 0.93 / 0.11**2) + 1


def test_the_bounds_are_those_of_all_pairs_with_these_scores(experiment: Load) -> None:
    script = experiment("audit")
    for n in (1, 7, 10):
        for right in range(n + 1):
            for right_then in range(n + 1):
                cell = script.parse_row(row(intact=right / n, ablated=right_then / n, n=n))
                least, most = max(0, right + right_then - n), min(right, right_then)
                pairs = [(right_then - both, right - both) for both in range(least, most + 1)]
                assert cell.counts("fewest", n) == min(pairs)
                assert cell.counts("most", n) == max(pairs)
                assert cell.changed["fewest"] == pytest.approx(sum(min(pairs)) / n)
                assert cell.changed["most"] == pytest.approx(sum(max(pairs)) / n)
                assert sum(min(pairs)) / n - 1e-9 <= cell.changed["independent"]
                assert cell.changed["independent"] <= sum(max(pairs)) / n + 1e-9


@pytest.mark.parametrize("effect", [-0.6, 0.1, 0.04])
@pytest.mark.parametrize("tests", [1, 30])
def test_from_the_needed_number_on_the_interval_excludes_0(
    effect: float, tests: int, experiment: Load
) -> None:
    script = experiment("audit")
    for share in (abs(effect), 0.5 * (1 + abs(effect)), 1.0):
        needed = script.count_needed(effect, share, tests)
        for n in range(100, 12_000, 100):
            changed, net = round(share * n), round(abs(effect) * n)
            changed += (changed - net) % 2
            if changed > n or changed != pytest.approx(share * n):
                continue
            found = stats.tango(
                (changed + net) // 2, (changed - net) // 2, n, level=1 - 0.05 / tests
            )
            assert (found.low > 0) == (n >= needed), n


def test_the_number_for_power_is_that_of_the_documentation(experiment: Load) -> None:
    script = experiment("audit")
    # docs/statistics.md: 60 examples show a drop of 0.147, if one of a hundred answers is gained.
    assert script.count_for_power(-0.147, 0.167) == 60
    assert script.count_for_power(0.147, 0.167) == 60
    assert script.count_for_power(-0.8, 1.0) < script.count_for_power(-0.8, 1.0, 30) < 40
    assert script.count_for_power(0.001, 1.0) == math.inf
    assert math.isnan(script.count_for_power(0.0, 0.5))


def test_published_cells_are_judged_and_written(
    experiment: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = experiment("audit")
    script.main([str(PUBLISHED), "--assume", "100", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "audit.csv")
    cells = script.read_cells(PUBLISHED)
    assert len(table) == len(cells) == shown.count("Own run: not checkable here")
    assert all(cell.source for cell in cells)
    llama = table[table["cell"].str.startswith("Llama-3.1-8B L28")].iloc[0]
    assert (llama["needed_fewest"], llama["needed_most"]) == (36, 297)
    assert "n not stated" in llama["verdict"]
    assert (
        "if n = 100: depends on how many answers changed, +0.11 [+0.06, +0.19]" in llama["verdict"]
    )
    sets = table[table["effect"].isna()]
    assert sets["verdict"].str.contains("a set of layers").all() and len(sets) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": "many", "effect": -0.1}, "line 2: n 'many' is not a whole number from 1 on"),
        ({"n": "0", "effect": -0.1}, "line 2: n '0' is not a whole number"),
        ({"tests": "-3", "effect": -0.1}, "line 2: tests '-3' is not a whole number"),
        ({"intact": "48", "ablated": "59"}, "line 2: intact '48' is not a number from 0 to 1"),
        ({"intact": "nan", "ablated": "0.5"}, "line 2: intact 'nan' is not a number from 0 to 1"),
        ({"effect": "-1.5"}, "line 2: effect '-1.5' is not a number from -1 to 1"),
        ({"intact": "0.5"}, "line 2: intact and ablated go together"),
        ({"intact": 0.4, "ablated": 0.5, "effect": -0.1}, "effect -0.1 is not ablated minus"),
        ({}, "line 2: neither scores nor an effect"),
        ({"site": "28", "effect": -0.1}, "line 2: '28' in '28' is not a site"),
        ({"colour": "red", "effect": -0.1}, "unknown column 'colour'"),
    ],
)
def test_a_mistake_is_one_line(
    given: dict[str, object],
    message: str,
    experiment: Load,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script, setting = experiment("audit"), experiment("setting")
    file = write(tmp_path / "cells.csv", row(**given))
    with pytest.raises(SystemExit) as stopped:
        setting.run("audit", lambda: script.main([str(file), "--out", str(tmp_path / "out")]))
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("audit: error: ") and line.count("\n") == 1
    assert message in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "'cells.csv' cannot be read: No such file"),
        ("", "has no column model, site"),
        (",".join(FIELDS[:-1]) + "\n", "has no column note"),
        (",".join(FIELDS) + "\n", "holds no cells"),
        (",".join(FIELDS) + "\nm,L1\n", "line 2: more or fewer fields than columns"),
        (",".join(FIELDS) + "\n" + "x," * 12 + "\n", "line 2: more or fewer fields than columns"),
    ],
)
def test_a_file_that_is_no_table_is_refused(
    text: str | None,
    message: str,
    experiment: Load,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("cells.csv").write_text(text, encoding="utf-8")
    with pytest.raises(lr.InputError, match=message):
        experiment("audit").main(["cells.csv"])


def test_published_cell_is_compared_with_the_same_cell_of_a_run(experiment: Load) -> None:
    script = experiment("audit")
    result = synthetic_result(5, 200)
    effects = result.effects().set_index(["site", "task", "protocol", "at"])
    true = effects.loc[("L0", "kv_retrieval", "generation", "all"), "effect"].round(2)
    name = f"somebody/{result.manifest['model']['name'].upper()}"
    given = {"model": name, "site": "L0", "task": "kv_retrieval", "protocol": "generation"}

    def own(**changed: object) -> str:
        return script.compare_with_run(script.parse_row(row(**{**given, **changed})), result, [])

    assert "kv_retrieval, generation: " in own(effect=true)
    assert own(effect=true).endswith("which holds the published number.")
    assert own(effect=0.0).endswith("which excludes the published number.")
    assert own(effect=true, protocol="").count("kv_retrieval, ") == 2  # both protocols
    assert own(effect=true, site="L1,L2") == "not measured there."
    assert own(effect=true, task="retrieval") == "not measured there."
    assert own(effect=true, model="").startswith("not checkable here")
    assert own(effect=true, model="other").startswith("not checkable here")
    assert own(site="L0:2", task="angular distance") == "not measured there."


@pytest.mark.parametrize("n_tokens", [1, 40])
def test_sets_of_layers_are_compared_with_those_of_prompts(n_tokens: int, experiment: Load) -> None:
    script = experiment("audit")
    influence = np.array([0.9, 0.1, 0.5, 0.2, 0.6, 0.7])
    runs = {0: 0.5, 1: 0.4, 2: 0.1, 3: 0.3, 4: 0.6}  # of two blocks, by the first
    rows = [
        {"task": "t", "example": f"e{n}", "layer": layer, "n": 1, "influence": value, "angular": 1}
        for n in range(8)
        for layer, value in enumerate(influence)
    ]
    rows += [
        {"task": "t", "example": f"e{n}", "layer": layer, "n": 2, "influence": 1, "angular": value}
        for n in range(8)
        for layer, value in runs.items()
    ]
    frame = pd.DataFrame(rows).assign(n_tokens=n_tokens)
    at_last = n_tokens == 1
    here = "measured at the last token" if at_last else "measured over all tokens"
    where = "the published values over all tokens" if at_last else "as published"
    assert script.compare_layers("block influence", {1, 2}, frame) == (
        f"t: layers 1, 3, 1 of 2 the same ([1, 1] over prompts, n = 8; 0.7 by chance; {here}, "
        f"{where})."
    )
    where = "as published" if at_last else "the published values at the last token"
    assert script.compare_layers("angular distance", {2, 3}, frame) == (
        f"t: layers 2, 3, 2 of 2 the same ([2, 2] over prompts, n = 8; 0.7 by chance; {here}, "
        f"{where})."
    )
