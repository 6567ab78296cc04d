"""References that are kept on disk."""

import json
import logging
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors import safe_open

import layerroles as lr
from layerroles.ablations import saved
from layerroles.ablations.reference import collect
from layerroles.ablations.saved import Saved, collected
from tests.unit.random_models import random_model

SITES = [lr.Site(0), lr.Site(1, "attn"), lr.Site(2, "head", 3), lr.Site(1, "kv_group", 1)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(saved, "cache_folder", lambda: tmp_path)
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process would begin."""
    monkeypatch.setattr(saved, "_KNOWN", type(saved._KNOWN)())


def equal(one: lr.ablations.SiteReference, two: lr.ablations.SiteReference) -> bool:
    names = ("first", "rest", "first_std", "rest_std")
    same = all(torch.equal(getattr(one, name), getattr(two, name)) for name in names)
    return same and (one.n_first, one.n_rest) == (two.n_first, two.n_rest)


def test_a_second_use_reads_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = random_model("llama"), lr.Reference(["abc", "hello there"])
    found = collected(model, reference, SITES)
    forget(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(saved, "collect", None)  # would fail if it collected again
        again = collected(model, reference, SITES)
    assert all(equal(found[site], again[site]) for site in SITES)
    # A further site is collected by itself, and added to what was there.
    collected(model, reference, [*SITES, lr.Site(2, "stream")])
    (file,) = (folder / "references").iterdir()
    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
    assert set(json.loads(about["counts"])) == {*map(str, SITES), "L2.stream"}
    assert json.loads(about["model"])["weights"] in file.name
    assert about["n_prompts"] == "2"


def test_other_weights_and_other_prompts_have_files_of_their_own(folder: Path) -> None:
    for seed in (0, 1):
        for texts in (["abc"], ["abd"]):
            collected(random_model("llama", seed=seed), lr.Reference(texts), SITES[:1])
    assert len(list((folder / "references").iterdir())) == 4


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_a_damaged_file_is_told_and_collected_again(
    content: bytes | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, reference = random_model("llama"), lr.Reference(["abc", "hello there"])
    found = collected(model, reference, SITES)
    path = Saved(model, reference).path
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    forget(monkeypatch)
    with caplog.at_level(logging.WARNING):
        again = collected(model, reference, SITES)
    assert all(equal(found[site], again[site]) for site in SITES)
    assert "cannot be read" in caplog.text
    forget(monkeypatch)
    caplog.clear()
    collected(model, reference, SITES)
    assert not caplog.text  # the file is whole again


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(saved, "cache_folder", lambda: file)
    model, reference = random_model("llama"), lr.Reference(["one two"])
    forget(monkeypatch)
    with caplog.at_level(logging.WARNING):
        found = collected(model, reference, SITES[:1])
    assert equal(found[SITES[0]], collect(model, reference, SITES[:1])[SITES[0]])
    assert "cannot be kept" in caplog.text


def test_prompts_come_from_lists_files_and_columns(tmp_path: Path) -> None:
    texts = ["one", "two \u2028 and more", "three"]
    file = tmp_path / "texts.txt"
    file.write_text("one\n\ntwo \u2028 and more\r\nthree\n", encoding="utf-8", newline="")
    column = Dataset.from_dict({"text": ["one", "", *texts[1:]]})["text"]
    for source in (texts, file, column):
        assert lr.Reference(source).prompts == texts
        assert lr.Reference(source).digest == lr.Reference(texts).digest
    assert lr.Reference(file, limit=2).prompts == texts[:2]
    with pytest.raises(lr.InputError, match="cannot be read: No such file"):
        lr.Reference(tmp_path / "nothing")
