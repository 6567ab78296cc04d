"""The layers whose changed answers the report shows, and the file that it is written to."""

import errno
from pathlib import Path

import numpy as np
import pytest

from layerroles.errors import InputError
from layerroles.page import document, report
from layerroles.page.document import _most_harmful
from layerroles.results import SweepResult
from layerroles.roles import localize
from tests.support.scripted_result import scripted_result
from tests.support.synthetic import synthetic_result


@pytest.mark.parametrize("spares_sink", [False, True])
def test_each_layer_is_shown_once_with_what_keeps_the_first_token(spares_sink: bool) -> None:
    """Layer 0 is skipped at two kinds of positions, and both hurt more than layers 1 and 2."""
    intact = np.ones(60)
    scores = {"intact": intact}
    for name, n_lost in (("L0", 50), ("L0 prompt", 45), ("L1", 30), ("L2", 20), ("L3", 15)):
        scores[f"skip {name}"] = np.where(np.arange(60) < n_lost, 0.0, 1.0)
    if spares_sink:
        scores["skip L2 after_first"] = scores["skip L2"]
    result = scripted_result({("retrieval", "generation"): scores}, n_layers=4)
    roles = localize(result, ablation="skip")
    rows = _most_harmful(result.effects(), roles, "retrieval", "generation")
    shown = list(zip(rows["layer"], rows["at"], strict=True))
    every = [(0, "all"), (1, "all"), (2, "all")]
    assert shown == ([(2, "after_first")] if spares_sink else every)


@pytest.fixture
def result() -> SweepResult:
    return synthetic_result(3, 8)


@pytest.mark.parametrize("out", [".", "..", "folder"])
def test_a_folder_is_refused_before_the_page_is_made(
    out: str, result: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "folder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with monkeypatch.context() as patch:
        patch.setattr(document, "render", lambda *_, **__: pytest.fail("the page was made"))
        with pytest.raises(InputError, match=f"cannot write the report to '{out}': Is a directory"):
            report(result, path=out)
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "folder"]


@pytest.mark.parametrize("name", ["rows.sqlite", "manifest.json", "questions.jsonl", "page"])
def test_a_report_overwrites_no_file_that_is_no_page(
    name: str, result: SweepResult, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("of value")
    with pytest.raises(InputError, match=rf"{name}' does not end in \.html"):
        report(result, path=tmp_path / name)
    assert (tmp_path / name).read_text() == "of value"


def test_one_finding_in_place_of_several_is_refused(result: SweepResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^findings='all well' is one, not several"):
        report(result, path=tmp_path / "report.html", findings="all well")
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_whole_leaves_no_file(
    result: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_disk(_scratch: Path, _target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "report.html").write_text("the older page")
    with monkeypatch.context() as patch:
        patch.setattr(document, "render", lambda *_, **__: "the page")
        patch.setattr(Path, "replace", fill_disk)
        with pytest.raises(InputError, match="No space left on device"):
            report(result, path=tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "the older page"
