"""The experiments end to end on a random model: they run, go on, report, and tell mistakes.

A random model has no skill, so what they say of skill is tried on results with planted harms.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import layerroles as lr
from tests.unit.random_models import CONFIGS, tokenizer
from tests.unit.synthetic import synthetic_result

FOLDER = Path(__file__).parents[2] / "experiments"
Load = Callable[[str], ModuleType]


@pytest.fixture
def load() -> Iterator[Load]:
    """Import a script as Python does when it is run: its own folder comes first."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


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


def options(out: Path, limit: int = 2) -> list[str]:
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


@pytest.mark.parametrize(
    "name", ["retrieval", "rag", "knowledge", "reasoning", "reading_writing", "similarity"]
)
def test_an_experiment_runs_goes_on_and_reports_its_findings(
    name: str, load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load(name)
    script.main(options(tmp_path))
    first = capsys.readouterr().out
    rows = len(lr.read(tmp_path).frame)
    found = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(found["findings"]) >= 3
    assert (found["limit"], found["dtype"]) == (2, "float32")
    for line in found["findings"]:
        assert line in first
        assert line.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&#39;") in page

    stamp = (tmp_path / "rows.sqlite").stat().st_mtime_ns
    script.main(options(tmp_path))
    assert capsys.readouterr().out == first
    assert (tmp_path / "rows.sqlite").stat().st_mtime_ns == stamp  # nothing was asked again
    script.main(options(tmp_path, limit=3))
    assert len(lr.read(tmp_path).frame) == rows * 3 // 2
    with pytest.raises(lr.InputError, match="holds a run: leave out --no-resume"):
        script.main([*options(tmp_path), "--no-resume"])


def test_thorough_spares_the_first_token_and_takes_means(load: Load, tmp_path: Path) -> None:
    load("knowledge").main([*options(tmp_path), "--thorough"])
    conditions = lr.read(tmp_path).manifest["conditions"]
    kinds = {(each["ablation"], each["at"]) for each in conditions if each["name"] != "intact"}
    assert kinds == {("skip", "all"), ("skip", "after_first"), ("mean", "all")}


def test_sciq_is_asked_in_each_context(load: Load, tmp_path: Path) -> None:
    out = tmp_path / "out"
    load("rag").main([*options(out, limit=4), "--data", str(sciq(tmp_path / "sciq"))])
    result = lr.read(out)
    assert result.frame.groupby("task")["example"].nunique().tolist() == [4, 4, 4]
    assert result.frame["example"].nunique() == 4  # the same in each context
    for _, row in result.examples.iterrows():
        passages = {"none": 0, "support": 1, "distractors": 3}[Path(row["task"]).stem]
        assert row["prompt"].count("As all know") == passages
        assert list(row["evidence"]) == [row["answer"].capitalize()] * (passages > 0)


def test_benchmarks_are_read_once_a_row(load: Load, tmp_path: Path) -> None:
    out, data = tmp_path / "out", benchmarks(tmp_path / "data")
    load("knowledge").main([*options(out, limit=9), "--data", str(data)])
    counts = lr.read(out).frame.groupby("task")["example"].nunique()
    asked = {Path(task).stem: n for task, n in counts.items() if task.startswith("local:")}
    assert asked == {"openbookqa": 4, "hellaswag": 4}


def test_a_benchmark_that_the_model_cannot_do_is_not_swept(load: Load, tmp_path: Path) -> None:
    out, data = tmp_path / "out", benchmarks(tmp_path / "data")
    load("reasoning").main([*options(out), "--data", str(data)])
    told = json.loads((out / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert told[0].startswith("lm_eval[task=gsm8k") or told[0].startswith("lm_eval:gsm8k")
    for line in told[:2]:
        assert "not above chance, so nothing is said of its layers" in line
    assert not any(task.startswith("lm_eval") for task in lr.read(out).frame["task"])
    assert set(lr.read(out / "intact").frame["condition"]) == {"intact"}


def test_similarity_is_compared_with_a_run(load: Load, tmp_path: Path) -> None:
    load("knowledge").main(options(tmp_path / "knowledge"))
    out = tmp_path / "out"
    load("similarity").main([*options(out), "--run", str(tmp_path / "knowledge")])
    told = json.loads((out / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert sum("Influence and cost over 3 layers" in line for line in told) == 2


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("retrieval", ["--limit", "0"], "--limit 0 asks nothing"),
        ("retrieval", ["--limit", "many"], "invalid int value: 'many'"),
        ("retrieval", ["--dtype", "float8"], "unknown dtype 'float8'"),
        ("reasoning", ["--model", "no/such"], "model 'no/such'"),
        ("reading_writing", ["--colour", "red"], "unrecognized arguments: --colour red"),
        ("rag", ["--data", "nowhere"], "'nowhere' holds no validation"),
        ("knowledge", ["--data", "nowhere"], "'nowhere' holds none of openbookqa"),
        ("reasoning", ["--data", "nowhere"], "'nowhere' holds none of gsm8k, mathqa"),
        ("similarity", ["--run", "nowhere"], "'nowhere' is not a run folder"),
        ("protocols", ["mmlu", "--data", "nowhere"], "'nowhere' holds no dev"),
        ("all", ["--data", "nowhere"], "'nowhere' is not a folder"),
        ("all", ["--only", "rag,rug"], "--only rug: known are knowledge"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    name: str,
    given: list[str],
    said: str,
    load: Load,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    script, setting = load(name), load("setting")
    with pytest.raises(SystemExit) as ended:
        setting.run(name, lambda: script.main([*options(tmp_path / "out"), *given]))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert line.startswith(f"{name}: error: ")
    assert said in line


def test_a_bad_row_is_named(load: Load, tmp_path: Path) -> None:
    (tmp_path / "validation.jsonl").write_text('{"question": 1}\n', encoding="utf-8")
    with pytest.raises(lr.InputError, match=r"validation.jsonl, line 1 is no JSON object with"):
        load("rag").main(["--data", str(tmp_path), "--out", str(tmp_path / "out")])


def test_what_is_planted_is_said(load: Load) -> None:
    result = synthetic_result(n=400)
    sentences = load("sentences")
    told = {
        name: sentences.role(result, name, "generation")
        for name in ("facts", "kv_retrieval", "word_problems")
    }
    line = sentences.on_task("facts", told["facts"])
    assert line.startswith("facts: intact 0.78 (n = 400, chance 0.00)")
    assert "critical layers: 0, 1, 23, 24, 29." in line
    assert "leans more on early layers" in sentences.leaning(
        "x", told["facts"], told["kv_retrieval"]
    )
    assert "leans more on late layers" in sentences.leaning(
        "x", told["kv_retrieval"], told["facts"]
    )
    same = sentences.leaning("x", told["facts"], told["facts"])
    assert same.startswith("x: no difference in lean is shown, +0.00 [")
    roles = lr.localize(result)
    told = sentences.claims(roles, "reasoning")
    assert told[0].startswith("Reasoning needs middle and deep layers (reasoning, continuation): ")
    statuses = roles.claims[roles.claims["family"] == "reasoning"]["status"]
    assert [line.split("): ")[1].split(".")[0] for line in told] == list(statuses)


def test_contexts_that_need_other_layers_are_told_apart(load: Load) -> None:
    labels = {"none": "facts", "support": "kv_retrieval", "distractors": "facts"}
    told = load("rag").findings(synthetic_result(n=400), labels)
    moved = told.index(next(t for t in told if t.startswith("support against closed-book, gen")))
    assert "leans more on early layers" in told[moved]
    assert told[moved + 1] == (
        "support, generation: critical closed-book and spare with the text: 23, 24, 29; spare "
        "closed-book and critical with the text: 2, 16, 18."
    )
    assert "no difference in lean is shown" in told[moved + 2]
    assert told[moved + 3].endswith(
        "the text: none; spare closed-book and critical with the text: none."
    )


@pytest.mark.parametrize(
    ("reading", "writing", "verdict"),
    [
        (0.8, 0.1, "reading needs the layers more than writing: +0.7"),
        (0.1, 0.8, "writing needs the layers more than reading: -0.7"),
        (0.4, 0.4, "no difference is shown: "),
    ],
)
def test_reading_and_writing_are_compared(
    reading: float, writing: float, verdict: str, load: Load
) -> None:
    harms = {"retrieval": {"prompt": np.full(6, reading), "generated": np.full(6, writing)}}
    result = synthetic_result(6, 200, harms=harms, protocols=["generation"], churn=0.0)
    line = load("reading_writing").compared(result, "kv_retrieval")
    assert verdict in line
    assert line.startswith(
        f"kv_retrieval: mean harm over layers {reading:.2f} while reading and {writing:.2f}"
    )


def test_the_page_of_all_links_reports_and_is_escaped(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--only", "knowledge,similarity", "--data", str(benchmarks(tmp_path / "data"))]
    out = tmp_path / "out"
    other = out / "<b>other"
    other.mkdir(parents=True)
    (other / "report.html").write_text("", encoding="utf-8")
    kept = {"claim": "<i>?", "model": "m&m", "findings": ["first <u>", "last <s>"]}
    (other / "findings.json").write_text(json.dumps(kept), encoding="utf-8")
    load("all").main([*options(out), *given])
    page = (out / "index.html").read_text(encoding="utf-8")
    for name in ("knowledge", "similarity"):
        (verdict,) = json.loads((out / name / "findings.json").read_text())["findings"][-1:]
        assert f'<a href="{name}/report.html">' in page
        assert verdict.split(" (")[0] in page
    assert page.count("<td>facts</td>") == 2
    assert "openbookqa" in page  # the data were handed on
    assert '<a href="%3Cb%3Eother/report.html">' in page
    for tag in ("<b>", "<i>", "<u>", "<s>"):
        assert tag not in page
        assert tag.replace("<", "&lt;").replace(">", "&gt;") in page


def test_all_stops_at_a_mistake_and_names_what_failed(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("all")
    with pytest.raises(lr.InputError, match="similarity: error: model 'no/such'"):
        script.main(["--model", "no/such", "--only", "similarity", "--out", str(tmp_path)])
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('<worn out>')\n", encoding="utf-8")
    monkeypatch.setattr(script, "steps", lambda data: {"broken": [str(broken)]})
    with pytest.raises(lr.InputError, match="these failed: broken"):
        script.main(["--out", str(tmp_path)])
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.search(r'class="failed">broken failed: RuntimeError: &lt;worn out&gt;', page)
