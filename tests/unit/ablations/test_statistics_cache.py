"""References cached on disk."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors import safe_open

import layerroles as lr
from layerroles.ablations import statistics_cache
from layerroles.ablations.statistics_cache import ReferenceFile, load_or_collect
from layerroles.ablations.write_statistics import collect
from layerroles.models import weights_stamp
from tests.support.random_models import model_path, random_model

SITES = [lr.Site(0), lr.Site(1, "attn"), lr.Site(2, "head", 3), lr.Site(1, "kv_group", 1)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(statistics_cache, "cache_folder", lambda: tmp_path)
    forget(monkeypatch)
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process would begin."""
    caches: dict[object, dict[object, object]] = {}
    monkeypatch.setattr(
        statistics_cache,
        "weights_cache",
        lambda model: caches.setdefault((model, weights_stamp(model)), {}),
    )


def equal(one: lr.ablations.SiteReference, two: lr.ablations.SiteReference) -> bool:
    names = ("first", "rest", "first_std", "rest_std")
    same = all(torch.equal(getattr(one, name), getattr(two, name)) for name in names)
    if one.donors is not None and two.donors is not None and one.positions is not None:
        same = same and torch.equal(one.donors.writes, two.donors.writes)
        same = same and one.donors.ids == two.donors.ids
        same = same and torch.equal(one.positions, two.positions)
    return (
        same
        and (one.donors is None) == (two.donors is None)
        and (one.n_first, one.n_rest) == (two.n_first, two.n_rest)
    )


def test_a_second_use_reads_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = random_model("llama"), lr.Reference(["abc", "hello there"])
    found = load_or_collect(model, reference, SITES)
    forget(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(statistics_cache, "collect", None)  # would fail if it collected again
        again = load_or_collect(model, reference, SITES)
    assert all(equal(found[site], again[site]) for site in SITES)
    # A further site is collected by itself, and added to what was there.
    load_or_collect(model, reference, [*SITES, lr.Site(2, "stream")])
    (file,) = (folder / "references").iterdir()
    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
    assert set(json.loads(about["counts"])) == {*map(str, SITES), "L2.stream"}
    assert json.loads(about["model"])["n_layers"] == 3
    assert about["n_prompts"] == "2"


def test_cached_statistics_are_loaded_on_the_models_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device, so that no decoding step copies them; donors are drawn on the CPU."""
    model, reference = random_model("llama"), lr.Reference(["abc", "hello there"])
    load_or_collect(model, reference, SITES, ("positions", "donors"))
    kept = ReferenceFile(model, reference)
    monkeypatch.setattr(kept, "_device", "meta")
    (found,) = kept.read(SITES[:1], ("positions", "donors")).values()
    assert found.positions is not None
    assert found.donors is not None
    small = (found.first, found.rest, found.first_std, found.rest_std, found.positions)
    assert [x.device.type for x in (*small, found.donors.writes)] == ["meta"] * 5 + ["cpu"]


def test_what_is_asked_for_later_is_added(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = random_model("llama"), lr.Reference(["abc", "hello there"])
    kinds = ("positions", "donors")
    load_or_collect(model, reference, SITES)
    found = load_or_collect(model, reference, SITES[:2], kinds)
    assert all(found[site].has(kinds) for site in SITES[:2])
    forget(monkeypatch)
    monkeypatch.setattr(statistics_cache, "collect", None)  # would fail if it collected again
    again = load_or_collect(model, reference, SITES[:2], kinds)
    assert all(equal(found[site], again[site]) for site in SITES[:2])
    assert set(load_or_collect(model, reference, SITES)) == set(SITES)
    assert len(list((folder / "references").iterdir())) == 1


def test_other_weights_and_other_prompts_have_files_of_their_own(folder: Path) -> None:
    for seed in (0, 1):
        for texts in (["abc"], ["abd"]):
            load_or_collect(random_model("llama", seed=seed), lr.Reference(texts), SITES[:1])
    assert len(list((folder / "references").iterdir())) == 4


def test_other_settings_of_the_same_weights_have_a_file_of_their_own(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("copy") / "model"
    shutil.copytree(model_path("llama"), copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    found = [
        load_or_collect(model, lr.Reference(["abc"]), SITES[:1])[SITES[0]]
        for model in (random_model("llama"), lr.load(copy, dtype="float32"))
    ]
    assert not equal(*found)
    assert len(list((folder / "references").iterdir())) == 2


def test_what_is_on_the_model_while_it_is_collected_does_not_count() -> None:
    model, reference = random_model("llama"), lr.Reference(["abc", "hello there"])
    expected = collect(model, reference, [lr.Site(2)])[lr.Site(2)]
    mean = lr.Condition({lr.Site(2): lr.Mean(reference)})
    donor = lr.Swap(random_model("llama", seed=1))
    tokens = torch.tensor([[5, 9, 40, 7]])
    with torch.inference_mode():
        with lr.ablated(model, lr.Condition({lr.Site(0): lr.Skip()})) as outer:
            with lr.ablated(model, mean):
                pass
            model(tokens)
        assert outer.n_passes == 1  # its hooks are back, and saw none of the collecting
        assert outer.changed.all()
        assert equal(load_or_collect(model, reference, [lr.Site(2)])[lr.Site(2)], expected)
        with lr.ablated(model, lr.Condition({lr.Site(0): donor})):
            swapped = load_or_collect(model, reference, [lr.Site(2)])[lr.Site(2)]
        assert not equal(swapped, expected)
        assert equal(load_or_collect(model, reference, [lr.Site(2)])[lr.Site(2)], expected)
    linear = next(m for m in model.original_model.modules() if isinstance(m, torch.nn.Linear))
    before = model(tokens)
    hook = linear.register_forward_hook(lambda _module, _inputs, output: output + 1)
    assert not torch.equal(model(tokens), before)
    assert equal(collect(model, reference, [lr.Site(2)])[lr.Site(2)], expected)
    assert not torch.equal(model(tokens), before)  # the hook is back
    hook.remove()


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_damaged_file_warns_and_is_collected_again(
    content: bytes | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, reference = random_model("llama"), lr.Reference(["abc", "hello there"])
    found = load_or_collect(model, reference, SITES)
    path = ReferenceFile(model, reference).path
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    forget(monkeypatch)
    with caplog.at_level(logging.WARNING):
        again = load_or_collect(model, reference, SITES)
    assert all(equal(found[site], again[site]) for site in SITES)
    assert "cannot be read" in caplog.text
    forget(monkeypatch)
    caplog.clear()
    load_or_collect(model, reference, SITES)
    assert not caplog.text  # the file is whole again


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(statistics_cache, "cache_folder", lambda: file)
    model, reference = random_model("llama"), lr.Reference(["one two"])
    forget(monkeypatch)
    with caplog.at_level(logging.WARNING):
        found = load_or_collect(model, reference, SITES[:1])
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
    wrong = object.__new__(lr.Reference)
    # Past the type checker that the tests run under.
    wrong.__dict__.update(source=[1, 2], limit=64)
    with pytest.raises(lr.InputError, match="takes texts, and 1 is a int"):
        _ = wrong.prompts
    with pytest.raises(lr.InputError, match="cannot be read: No such file"):
        lr.Reference(tmp_path / "nothing")
