"""The report of an unfinished run has a banner and no verdict."""

import dataclasses
import json
import re
from typing import Any

import pytest

from layerroles.page import render
from layerroles.page.explorer_data import Run, lay_out_runs
from layerroles.results import SweepResult
from tests.support.scripted_result import heads_result
from tests.support.synthetic import synthetic_result, unfinished

N_LAYERS, N = 9, 24
BANNER = '<div class="interim">'
# Words of verdicts, in the sentences, tables and legends of a finished run's page.
VERDICTS = (
    *("Critical layers", "verdicts on a layer", "No claim of the literature is supported"),
    *("Claim of the literature", "without it, more than a fifth", "</strong> critical"),
    '<span class="spare">',
    '<th scope="col">critical</th>',
)


def shown(page: str) -> str:
    """The page without styles and scripts."""
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


def explored(page: str) -> dict[str, Any]:
    found = re.search(r'id="explored">(.*?)</script>', page, flags=re.DOTALL)
    assert found
    return json.loads(found[1])


def verdicts(run: dict[str, Any]) -> set[str]:
    return {site["verdict"] for slice_ in run["slices"] for site in slice_["sites"]}


@pytest.fixture(scope="module")
def result() -> SweepResult:
    return synthetic_result(N_LAYERS, N)


@pytest.fixture(scope="module")
def finished(result: SweepResult) -> str:
    return render(result)


@pytest.fixture(scope="module")
def interim(result: SweepResult) -> str:
    return render(unfinished(result))


def test_a_banner_stands_above_everything(interim: str) -> None:
    text = shown(interim)
    assert text.index(BANNER) < text.index("<h1>")
    assert f"Interim ({N} of {2 * N} questions): estimates with their intervals" in text


def test_the_sentences_of_a_verdict_are_not_there(finished: str, interim: str) -> None:
    assert [words for words in VERDICTS if words not in shown(finished)] == []
    assert [words for words in VERDICTS if words in shown(interim)] == []


def test_rows_of_the_picture_and_the_table_have_n_and_interval(interim: str) -> None:
    text = shown(interim)
    picture = text[text.index('<table class="glance">') :].partition("</table>")[0]
    drawn = re.findall(r'<span class="([^"]*)" style="--harm:(-?\d+)%" title', picture)
    assert {name for name, _ in drawn} == {"so-far"}
    assert len(drawn) == picture.count("<span") == 8 * N_LAYERS
    assert {int(harm) > 80 for _, harm in drawn} == {False, True}
    assert f"retrieval, generation, n {N}</th>" in picture
    assert re.search(rf"layer 3: undecided, harm [^\"]*\[[^\"]*\], n {N}\"", picture)
    table = text[text.index('aria-label="Estimates, skip"') :].partition("</table>")[0]
    assert table.count(f'<td class="n">{N}</td>') == table.count('<th scope="row">') == 8
    assert table.count("]</td>") == 16  # mean harm, and early minus late


def test_the_explorer_judges_no_site(finished: str, interim: str) -> None:
    assert "critical" in verdicts(explored(finished)["runs"][0])
    assert verdicts(explored(interim)["runs"][0]) == {"undecided"}
    heads = heads_result()  # judged by their own intervals
    heads = dataclasses.replace(heads, frame=heads.frame.assign(outcome="", response=""))
    for result, expected in ((heads, {"critical", "spare"}), (unfinished(heads), {"undecided"})):
        data = lay_out_runs([Run("a", result, [])], {})
        assert data is not None
        assert verdicts(data["runs"][0]) == expected


def test_a_second_run_that_is_not_finished_is_named_and_not_judged(result: SweepResult) -> None:
    page = render(result, against=unfinished(result))
    assert f"The second run (b) is not finished: {N} of {2 * N} questions." in shown(page)
    assert "Interim (" not in shown(page)
    judged, waiting = (verdicts(run) for run in explored(page)["runs"])
    assert "critical" in judged and waiting == {"undecided"}
    assert "</strong> critical" in shown(page)


def test_a_finished_run_has_no_banner(result: SweepResult, finished: str) -> None:
    assert BANNER not in finished
    marked = dataclasses.replace(result, manifest={**result.manifest, "unfinished": []})
    key = re.compile(r',?\s*(?:&#34;|")unfinished(?:&#34;|"): \[\]')
    assert key.sub("", render(marked)) == finished
