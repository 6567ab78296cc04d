"""What `layerroles probe` measures, saves and prints."""

import json
from pathlib import Path

import pandas as pd
import pytest

import layerroles as lr
from layerroles.cli import main
from tests.support.random_models import model_path, random_model


@pytest.fixture
def asked(tmp_path: Path) -> str:
    file = tmp_path / "asked.jsonl"
    rows = [
        {"prompt": f"{i}, which?", "answer": "abc"[i % 3], "choices": "abc", "family": "knowledge"}
        for i in range(4)
    ]
    text = "".join(json.dumps({**row, "choices": list(row["choices"])}) + "\n" for row in rows)
    file.write_text(text, encoding="utf-8")
    return f"local:{file}"


def probe(asked: str, out: Path, *options: str) -> int:
    words = ["probe", "--model", str(model_path("llama")), "--dtype", "float32", "--tasks", asked]
    return main([*words, "--limit", "3", "--out", str(out), *options])


def test_frames_are_saved_and_summarized(
    asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert probe(asked, run, "--probe", "logit_lens,attribution") == 0
    shown = capsys.readouterr().out
    assert "logit_lens: 12 rows on 3 examples" in shown  # of 3 layers and the embedding
    assert "attribution: 24 rows on 3 examples" in shown
    assert "Logit lens, the layer from which the answer stays on top" in shown
    assert "Direct attribution, the layers that write most of the answer's logit: know" in shown
    assert shown.splitlines()[-1] == (
        f"Frames are in {run / 'probes'}. Layers and heads are counted from 0."
    )
    kept = {frame["probe"].iloc[0]: frame for frame in lr.probes.read_saved(run)}
    lens = lr.probes.LogitLens().measure(random_model("llama"), [lr.task(asked)], limit=3)
    numbers = ["layer", "rank", "logprob"]
    pd.testing.assert_frame_equal(kept["logit_lens"][numbers], lens[numbers])
    assert {"logit_lens", "attribution"} <= set(kept)


def test_a_script_reads_what_was_measured(
    asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe(asked, tmp_path, "--probe", "logit_lens", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == str(tmp_path / "probes")
    (lens,) = found["probes"]
    assert (lens["probe"], lens["rows"], lens["examples"]) == ("logit_lens", 12, 3)
    assert lens["sentences"]


def test_a_tuned_lens_is_measured_from_its_file(
    asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lens.safetensors"
    lens = lr.probes.TunedLens.fit(random_model("llama"), ["one two three"], steps=2)
    lens.save(file)
    run = tmp_path / "run"
    assert probe(asked, run, "--tuned-lens", str(file)) == 0
    assert "tuned_lens: 12 rows on 3 examples" in capsys.readouterr().out
    kept = {frame["probe"].iloc[0]: frame for frame in lr.probes.read_saved(run)}
    expected = lens.measure(random_model("llama"), [lr.task(asked)], limit=3)
    pd.testing.assert_series_equal(kept["tuned_lens"]["logprob"], expected["logprob"])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--probe", "logit_len"], "unknown probe 'logit_len': did you mean 'logit_lens'? known"),
        (["--probe", "logit_lens[tops=3]"], "probe 'logit_lens' has no parameter 'tops': known"),
        (["--probe", "logit_lens,"], "--probe 'logit_lens,' has an empty item"),
        (["--probe", "tuned_lens"], "a tuned lens is read from its file: give --tuned-lens FILE"),
        (["--tuned-lens", "no.safetensors"], "tuned lens 'no.safetensors' cannot be read"),
        (["--tasks", "fact"], "unknown task 'fact': did you mean 'facts'?"),
        (["--model", "none/such"], "model 'none/such'"),
    ],
)
def test_a_mistake_gets_one_line_and_2(
    options: list[str], line: str, asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe(asked, tmp_path / "run", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"layerroles: error: {line}")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_plugins_probe_is_measured(
    asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from layerroles.probes import Probe, register\n"
        "@register('length_in_a_test')\n"
        "@dataclass(frozen=True)\n"
        "class Length(Probe):\n"
        "    def rows(self, model, batch):\n"
        "        for row, example in enumerate(batch.examples):\n"
        "            yield example.id, {'length': int(batch.attended[row].sum())}\n"
        "@register('nothing_in_a_test')\n"
        "@dataclass(frozen=True)\n"
        "class Nothing(Probe):\n"
        "    def rows(self, model, batch):\n"
        "        return iter(())\n",
        encoding="utf-8",
    )
    options = ["--plugin", str(file), "--probe", "length_in_a_test,nothing_in_a_test"]
    assert probe(asked, tmp_path / "run", *options) == 0
    shown = capsys.readouterr().out
    assert "length_in_a_test: 3 rows on 3 examples" in shown
    assert "nothing_in_a_test: none of these examples has what it measures" in shown
