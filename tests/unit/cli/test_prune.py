"""`layerroles prune`: a plan and a checkpoint, or a one-line error."""

import json
from pathlib import Path

import pytest

import layerroles as lr
from layerroles.cli import main
from tests.support.random_models import model_path, random_model

PROMPTS = tuple(f"{text}, which?" for text in ("abc", "some", "x1", "other", "word", "7 of"))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Questions whose answer is what the model writes: it has skill."""
    folder = tmp_path_factory.mktemp("asked")

    def written(name: str, answers: dict[str, str]) -> str:
        rows = [
            {"prompt": prompt, "answer": answers.get(prompt, "?"), "family": "knowledge"}
            for prompt in PROMPTS
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
        return f"local:{folder / name}"

    first = lr.task(written("first.jsonl", {}))
    sweep = lr.Sweep(random_model("llama"), [first], [], protocols=["generation"], limit=9)
    result = sweep.run(folder / "run")
    shown = result.examples.set_index("example")["prompt"]
    rows = result.frame[["example", "response"]].itertuples(index=False, name=None)
    return written("asked.jsonl", {shown[id]: said.strip().split("\n")[0] for id, said in rows})


def prune(asked: str, out: Path, *options: str) -> int:
    words = ["prune", "--model", str(model_path("llama")), "--dtype", "float32", "--tasks", asked]
    return main([*words, "--keep", "knowledge", "--limit", "6", "--out", str(out), *options])


def test_a_plan_is_printed_and_its_model_written(
    asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(asked, tmp_path / "run", "--drop", "2", "--export", str(tmp_path / "small")) == 0
    shown = capsys.readouterr().out
    plan = lr.plan_pruning(
        random_model("llama"), drop=2, keep=["knowledge"], tasks=[lr.task(asked)], limit=6
    )
    layers = ", ".join(map(str, plan.layers))
    assert f"drop 2 of 3 layers (0-based): {layers}; role_aware" in shown
    assert shown.splitlines()[-1] == (
        f"The model without these layers is in {tmp_path / 'small'}; "
        f"it loads with --model {tmp_path / 'small'}"
    )
    about = json.loads((tmp_path / "small" / "layerroles.json").read_text())
    assert about["dropped"] == sorted(plan.layers)
    assert set(lr.read(tmp_path / "run").frame["protocol"]) == {"generation"}
    assert prune(asked, tmp_path / "run", "--drop", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"] == list(plan.layers)
    assert found["steps"][0]["chosen"] in (True, False)
    assert (found["model"], found["export"]) == (plan.model, None)


def test_a_baseline_asks_nothing(
    asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(asked, tmp_path / "run", "--drop", "1", "--method", "random") == 0
    assert "random, by chance, seed 0" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--drop", "3"], "drop=3: "),
        (["--drop", "0"], "drop=0: "),
        (["--drop", "two"], "invalid value for '--drop'"),
        ([], "missing option '--drop'"),
        (["--drop", "1", "--keep", "reasoning"], "keep: unknown family or task 'reasoning'"),
        (["--drop", "1", "--keep", "knowledge,"], "--keep 'knowledge,' has an empty item"),
        (["--drop", "1", "--method", "influence"], "unknown method 'influence': did you mean"),
        (["--drop", "1", "--protocols", "generate"], "unknown protocol 'generate'"),
        (["--drop", "1", "--limit", "0"], "--limit 0 asks for nothing"),
        (["--drop", "1", "--screen", "0"], "limit=6, screen=0: both must be 1 or more"),
        (["--drop", "1", "--tasks", "fact"], "unknown task 'fact': did you mean 'facts'?"),
        (["--drop", "1", "--model", "none/such"], "model 'none/such'"),
        (["--drop", "1", "--export", "."], "'.' exists and is not an empty folder"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    options: list[str], line: str, asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(asked, tmp_path / "run", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"layerroles: error: {line}")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_family_without_skill_gives_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune("facts", tmp_path / "run", "--drop", "1") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("layerroles: error: family 'knowledge' is not shown to be above chance")
