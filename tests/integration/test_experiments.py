"""The experiments end to end on a random model: they run, resume and report.

A random model has no skill, so statements about skill are tested in `tests/unit`.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import layerroles as lr
from layerroles.sweep import task_protocol_cells
from layerroles.tasks import guessing
from tests.support.random_models import CONFIGS, tokenizer
from tests.support.tiers import mark_rest

Load = Callable[[str], ModuleType]


@pytest.fixture(autouse=True)
def chance_by_few_questions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """How well chance is measured is tested in `tests/unit/tasks`: 50 other questions do here."""
    monkeypatch.setattr(guessing, "N_OTHERS", 50)
    task_protocol_cells._remembered_guess.cache_clear()
    yield
    task_protocol_cells._remembered_guess.cache_clear()


@cache
def random_folder() -> str:
    """A random model of three layers that reads long prompts, a token for each character."""
    folder = Path(mkdtemp(prefix="layerroles-long-"))
    config = CONFIGS["llama"].to_dict() | {"max_position_embeddings": 4096}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**config), dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def options(out: Path, limit: int = 1) -> list[str]:
    model = ["--model", random_folder(), "--dtype", "float32"]
    return [*model, "--limit", str(limit), "--out", str(out)]


def write(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def sciq(folder: Path) -> Path:
    rows = [
        {
            "question": f"What is number {n}?",
            "support": f"As all know, Number <{n}> is good." if n else "",
            "correct_answer": f"number <{n}>",
            **{f"distractor{k}": f"wrong {n}{k}" for k in (1, 2, 3)},
        }
        for n in range(5)
    ]
    write(folder / "validation.jsonl", [*rows, rows[1]])
    return folder


def benchmarks(folder: Path) -> Path:
    rows = [{"query": f"Q{n}", "choices": ["a", "b "], "gold": n % 2} for n in range(4)]
    write(folder / "openbookqa" / "test.jsonl", [*rows, rows[0]])
    write(folder / "hellaswag" / "validation_9.jsonl", rows)
    solved = [{"question": f"1 + {n}?", "answer": f"It is.\n#### {n + 1}"} for n in range(8)]
    write(folder / "gsm8k" / "train.jsonl", solved)
    write(folder / "gsm8k" / "test.jsonl", solved)
    listed = {"A": "1", "B": "2", "C": "3", "D": "4", "E": "5"}
    asked = [{"question": f"is it {n}?", "options": listed, "answer": "B"} for n in range(4)]
    write(folder / "mathqa" / "test.jsonl", asked)
    return folder


SCRIPTS = ["retrieval", "rag", "knowledge", "reasoning", "reading_writing", "similarity", "heads"]


@pytest.mark.parametrize(
    "name", mark_rest("experiments", SCRIPTS, first=["knowledge", "similarity"])
)
def test_experiment_runs_resumes_and_reports_its_findings(
    name: str, experiment: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = experiment(name)
    script.main(options(tmp_path))
    first = capsys.readouterr().out
    rows = len(lr.read(tmp_path).frame)
    found = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(found["findings"]) >= (2 if name == "heads" else 3)
    assert (found["limit"], found["dtype"]) == (1, "float32")
    for line in found["findings"]:
        assert line in first
        assert line.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&#39;") in page

    stamp = (tmp_path / "rows.sqlite").stat().st_mtime_ns
    script.main(options(tmp_path))
    assert capsys.readouterr().out == first
    assert (tmp_path / "rows.sqlite").stat().st_mtime_ns == stamp  # nothing was asked again
    script.main(options(tmp_path, limit=2))
    assert len(lr.read(tmp_path).frame) == rows * 2
    with pytest.raises(lr.InputError, match="holds a run: leave out --no-resume"):
        script.main([*options(tmp_path), "--no-resume"])


@pytest.mark.experiments
def test_paper_rules_experiment_runs_and_resumes(
    experiment: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, given = experiment("paper_rules"), [*options(tmp_path, limit=2), "--texts", "6"]
    script.main(given)
    first = capsys.readouterr().out
    found = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert found[-1].startswith("A head by the paper's rule is 2 heads here: its effect ")
    heads = pd.read_csv(tmp_path / "heads.csv")
    assert heads["group"].tolist() == ["L2.KV0", "L2.KV0", "L2.KV1", "L2.KV1"]
    assert (heads["n"] == 2).all()
    for task in script.TEXTS:
        angles = pd.read_csv(tmp_path / f"angles_{task}.csv")
        assert angles["layer"].tolist() == [0, 1, 2] and (angles["texts"] == 6).all()
    script.main(given)
    assert capsys.readouterr().out == first


@pytest.mark.experiments
def test_thorough_spares_the_first_token_and_takes_means(experiment: Load, tmp_path: Path) -> None:
    experiment("knowledge").main([*options(tmp_path), "--thorough"])
    conditions = lr.read(tmp_path).manifest["conditions"]
    kinds = {(each["ablation"], each["at"]) for each in conditions if each["name"] != "intact"}
    assert kinds == {("skip", "all"), ("skip", "after_first"), ("mean", "all")}


@pytest.mark.experiments
def test_claims_are_asked_until_decided_and_written_as_a_table(
    experiment: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random model has no skill: only the intact model is asked further, no harm is measured."""
    script = experiment("claims")
    monkeypatch.setattr(script, "PROTOCOLS", ("continuation",))
    monkeypatch.setattr(script, "CONTEXTS", ("none", "support"))
    given = options(tmp_path, limit=32)
    script.main([*given, "--tasks", "facts", "copying", "contexts"])
    script.main([*given, "--tasks", "contexts"])  # the table keeps what was asked before
    table = (tmp_path / "claims.md").read_text()
    assert "Knowledge leans on shallow layers" in table
    assert table.count("not measurable") == table.count("\n") - 2
    findings = json.loads((tmp_path / "findings.json").read_text())["findings"]
    assert findings[0].startswith("layers: 0 of 0 claims decided")
    assert "expected to be wrong" not in findings[0]  # nothing was decided
    manifest = tmp_path / "layers" / "manifest.json"
    manifest.write_text(re.sub('"weights": "[0-9a-f]+"', '"weights": "0"', manifest.read_text()))
    with pytest.raises(lr.InputError, match=r"layers holds answers of .*: use another --out"):
        script.main([*given, "--tasks", "contexts"])
    assert (tmp_path / "claims.md").read_text() == table


@pytest.mark.experiments
def test_sciq_is_asked_in_each_context(experiment: Load, tmp_path: Path) -> None:
    out = tmp_path / "out"
    experiment("rag").main([*options(out, limit=4), "--data", str(sciq(tmp_path / "sciq"))])
    result = lr.read(out)
    assert result.frame.groupby("task")["example"].nunique().tolist() == [4, 4, 4]
    assert result.frame["example"].nunique() == 4  # the same in each context
    for _, row in result.examples.iterrows():
        passages = {"none": 0, "support": 1, "distractors": 3}[Path(row["task"]).stem]
        assert row["prompt"].count("As all know") == passages
        assert json.loads(row["evidence"]) == [row["answer"].capitalize()] * (passages > 0)


def test_benchmarks_are_read_once_a_row(experiment: Load, tmp_path: Path) -> None:
    out, data = tmp_path / "out", benchmarks(tmp_path / "data")
    experiment("knowledge").main([*options(out, limit=9), "--data", str(data)])
    counts = lr.read(out).frame.groupby("task")["example"].nunique()
    asked = {Path(task).stem: n for task, n in counts.items() if task.startswith("local:")}
    assert asked == {"openbookqa": 4, "hellaswag": 4}


@pytest.mark.experiments
def test_a_benchmark_out_of_reach_is_not_swept(experiment: Load, tmp_path: Path) -> None:
    out, data = tmp_path / "out", benchmarks(tmp_path / "data")
    experiment("reasoning").main([*options(out), "--data", str(data)])
    findings = json.loads((out / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert findings[0].startswith(("lm_eval@2[task=gsm8k", "lm_eval@2:gsm8k"))
    for line in findings[:2]:
        assert "not shown to be above chance, so nothing is said of its layers" in line
    assert not any(task.startswith("lm_eval") for task in lr.read(out).frame["task"])
    assert set(lr.read(out / "intact").frame["condition"]) == {"intact"}


@pytest.mark.experiments
def test_hellaswag_is_asked_by_lm_eval(experiment: Load, tmp_path: Path) -> None:
    data, out = benchmarks(tmp_path / "data"), tmp_path / "out"
    script = experiment("protocols")
    script.main(["hellaswag", *options(out, limit=4), "--data", str(data / "hellaswag")])
    (row,) = lr.read(out).intact().to_dict("records")
    assert (row["n"], row["chance"]) == (4, 0.5)
    findings = json.loads((out / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert findings[0].startswith(f"{row['task']}, {row['protocol']}: intact {row['score']:.2f} ")
    assert findings[-1].endswith("cannot be said, only one way was asked.")


@pytest.mark.experiments
def test_strictness_asks_the_same_questions_in_three_ways(experiment: Load, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = experiment("protocols")
    script.main(["strictness", *options(out)])
    result = lr.read(out)
    assert set(result.frame["protocol"]) == set(script.PROTOCOLS)
    assert set(result.frame["task"]) == {lr.task(name).label for name in script.OWN}
    # The three read the same context, or else they would not differ in one thing at a time.
    contexts = result.examples["contexts"].map(json.loads)
    assert all(len(set(each.values())) == 1 and len(each) == 3 for each in contexts)
    findings = json.loads((out / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert findings[-1].startswith("Generation needs more of the depth than likelihood: ")


def test_similarity_is_compared_with_a_run(experiment: Load, tmp_path: Path) -> None:
    experiment("knowledge").main(options(tmp_path / "knowledge"))
    out = tmp_path / "out"
    experiment("similarity").main([*options(out), "--run", str(tmp_path / "knowledge")])
    findings = json.loads((out / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert sum("Influence and cost over 3 layers" in line for line in findings) == 2
    assert findings[-1].startswith("Neighbours are similar: ")
    manifest = tmp_path / "knowledge" / "manifest.json"
    known = json.loads(manifest.read_text(encoding="utf-8"))
    known["model"] |= {"name": "another", "weights": "0"}
    manifest.write_text(json.dumps(known), encoding="utf-8")
    with pytest.raises(lr.InputError, match="is a run of another, not of"):
        experiment("similarity").main([*options(out), "--run", str(manifest.parent)])


@pytest.mark.experiments
def test_the_page_of_all_links_reports_and_is_escaped(
    experiment: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--only", "knowledge,similarity", "--data", str(benchmarks(tmp_path / "data"))]
    out = tmp_path / "out"
    other = out / "<b>other"
    other.mkdir(parents=True)
    (other / "report.html").write_text("", encoding="utf-8")
    kept = {"claim": "<i>?", "model": "m&m", "findings": ["first <u>", "last <s>"]}
    (other / "findings.json").write_text(json.dumps(kept), encoding="utf-8")
    experiment("all").main([*options(out), *given])
    page = (out / "index.html").read_text(encoding="utf-8")
    for name in ("knowledge", "similarity"):
        (verdict,) = json.loads((out / name / "findings.json").read_text())["findings"][-1:]
        assert f'<a href="{name}/report.html">' in page
        assert verdict.split(" (")[0] in page
    assert page.count("<td>facts@2</td>") == 2
    assert "openbookqa" in page  # the data were handed on
    assert '<a href="%3Cb%3Eother/report.html">' in page
    for tag in ("<b>", "<i>", "<u>", "<s>"):
        assert tag not in page
        assert tag.replace("<", "&lt;").replace(">", "&gt;") in page


@pytest.mark.experiments
def test_all_names_what_failed(
    experiment: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = experiment("all")
    with pytest.raises(lr.InputError, match="similarity: error: model 'no/such'"):
        script.main(["--model", "no/such", "--only", "similarity", "--out", str(tmp_path)])
    assert 'class="failed">similarity failed' in (tmp_path / "index.html").read_text("utf-8")
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('<worn out>')\n", encoding="utf-8")
    monkeypatch.setattr(script, "list_steps", lambda args: {"broken": [str(broken)]})
    with pytest.raises(lr.InputError, match="these failed: broken"):
        script.main(["--out", str(tmp_path)])
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.search(r'class="failed">broken failed: RuntimeError: &lt;worn out&gt;', page)
