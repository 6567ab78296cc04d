"""Bad input of every kind gives a one-line error and exit code 2, and changes no file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import layerroles as lr
from layerroles.cli import main
from tests.support.random_models import model_path, random_model

Make = Callable[[Path], list[str]]


def sweep(model: str | Path, *words: str, out: str = "run") -> Make:
    """A valid sweep command except for the given options; `{}` is the test's folder."""

    def made(folder: Path) -> list[str]:
        given = [word.replace("{}", str(folder)) for word in words]
        options = {"--tasks": "facts[num_fewshot=0]", "--limit": "2", "--out": str(folder / out)}
        right = [part for name in options if name not in given for part in (name, options[name])]
        return ["sweep", "--model", str(model).replace("{}", str(folder)), *right, *given]

    return made


def asking(name: str, content: str | bytes) -> Make:
    """A sweep over a file of questions."""

    def made(folder: Path) -> list[str]:
        text = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(text)
        return sweep(MODEL, "--tasks", f"local:{folder / name}")(folder)

    return made


def damaged(file: str, content: bytes | None) -> Make:
    """A sweep of a model folder in which one file is replaced or missing."""

    def made(folder: Path) -> list[str]:
        shutil.copytree(MODEL, folder / "model")
        (folder / "model" / file).unlink()
        if content is not None:
            (folder / "model" / file).write_bytes(content)
        return sweep("{}/model")(folder)

    return made


def cut_off(folder: Path) -> list[str]:
    shutil.copytree(MODEL, folder / "model")
    file = folder / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return sweep("{}/model")(folder)


def pickled(folder: Path) -> list[str]:
    shutil.copytree(MODEL, folder / "model")
    (folder / "model" / "model.safetensors").rename(folder / "model" / "pytorch_model.bin")
    return sweep("{}/model")(folder)


def a_run(folder: Path) -> Path:
    model = random_model("llama")
    tasks = [lr.task("facts", num_fewshot=0)]
    lr.Sweep(model, tasks, [], protocols=["continuation"], limit=2).run(folder / "run")
    return folder / "run"


def broken_run(file: str, content: bytes, *words: str) -> Make:
    """A command on a run folder in which one file is replaced."""

    def made(folder: Path) -> list[str]:
        (a_run(folder) / file).write_bytes(content)
        return [word.replace("{}", str(folder)) for word in words]

    return made


def another_run(folder: Path) -> list[str]:
    a_run(folder)
    return sweep(model_path("qwen3"))(folder)


def a_file_for_a_folder(folder: Path) -> list[str]:
    (folder / "run").write_text("")
    return sweep(MODEL)(folder)


def plugin(text: str) -> Make:
    def made(folder: Path) -> list[str]:
        (folder / "mine.py").write_text(text)
        return sweep(MODEL, "--plugin", "{}/mine.py", "--ablation", "mine")(folder)

    return made


MODEL = model_path("llama")
ROW = {"prompt": "Which?", "answer": "a", "choices": ["a", "b"], "family": "knowledge"}


def rows(*changes: dict[str, object]) -> str:
    return "".join(json.dumps(ROW | change) + "\n" for change in changes)


KINDS: dict[str, tuple[Make, str]] = {
    "an unknown command": (lambda _: ["sweeep"], "no such command"),
    "an unknown option": (sweep(MODEL, "--modell", "x"), "--modell"),
    "no model": (lambda _: ["sweep", "--tasks", "facts", "--out", "x"], "--model"),
    "an unknown model": (sweep("no/such-model"), "no/such-model"),
    "an empty folder as a model": (sweep("{}"), "has no config.json"),
    "a configuration cut off": (damaged("config.json", b'{"model_type": "lla'), "cannot be loaded"),
    "no weights": (damaged("model.safetensors", None), "cannot be loaded"),
    "weights that are none": (damaged("model.safetensors", b"none"), "cannot be loaded"),
    "weights cut off": (cut_off, "cannot be loaded"),
    "weights as a pickle": (pickled, "cannot be loaded"),
    "an unknown dtype": (sweep(MODEL, "--dtype", "int4"), "int4"),
    "an unknown task": (sweep(MODEL, "--tasks", "fact"), "facts"),
    "a task's unknown parameter": (sweep(MODEL, "--tasks", "facts[shots=1]"), "shots"),
    "a task's wrong parameter": (sweep(MODEL, "--tasks", "facts[num_fewshot=x]"), "num_fewshot"),
    "a task twice": (sweep(MODEL, "--tasks", "facts,facts"), "more than once"),
    "a file that is not there": (sweep(MODEL, "--tasks", "local:{}/no.jsonl"), "no.jsonl"),
    "an empty file": (asking("a.jsonl", ""), "a.jsonl"),
    "a file of another kind": (asking("a.txt", "?"), "a.txt"),
    "a file that is not text": (asking("a.jsonl", b"\xff\xfe"), "UTF-8"),
    "a line that is not JSON": (asking("a.jsonl", rows({}) + "{"), "line 2"),
    "a row without an answer": (asking("a.jsonl", '{"prompt": "Which?"}\n'), "answer"),
    "an answer that is no choice": (asking("a.jsonl", rows({"answer": "c"})), "choices"),
    "two families in a file": (
        asking("a.jsonl", rows({}, {"family": "reasoning", "id": "2"})),
        "family",
    ),
    "a table without a column": (asking("a.csv", "prompt\nWhich?\n"), "answer"),
    "an unknown protocol": (sweep(MODEL, "--protocols", "asking"), "asking"),
    "a protocol's wrong parameter": (
        sweep(MODEL, "--protocols", "continuation[norm=loud]"),
        "loud",
    ),
    "an unknown ablation": (sweep(MODEL, "--ablation", "delete"), "delete"),
    "a setting without a value": (sweep(MODEL, "--ablation", "noise", "--set", "scale"), "scale"),
    "a layer that is not there": (sweep(MODEL, "--sites", "L99"), "99"),
    "a site that is none": (sweep(MODEL, "--sites", "layer three"), "layer three"),
    "unknown positions": (sweep(MODEL, "--at", "somewhere"), "somewhere"),
    "a limit of nothing": (sweep(MODEL, "--limit", "0"), "limit"),
    "a limit that is no number": (sweep(MODEL, "--limit", "many"), "many"),
    "memory that is no size": (sweep(MODEL, "--memory", "lots"), "lots"),
    "an unknown executor": (sweep(MODEL, "--executor", "magic"), "magic"),
    "a prompt that is too long": (sweep(MODEL, "--tasks", "copying"), "context"),
    "a chat without a template": (sweep(MODEL, "--chat"), "template"),
    "a plugin that is not there": (sweep(MODEL, "--plugin", "{}/no.py"), "no.py"),
    "a plugin with a mistake": (plugin("def ("), "mine.py"),
    "a file in the run folder's place": (a_file_for_a_folder, "cannot be written"),
    "a folder of another run": (another_run, "of another run"),
    "a report of no run": (lambda folder: ["report", str(folder)], "is not a run folder"),
    "a comparison with no run": (lambda folder: ["compare", "a", "b"], "is not a run folder"),
    "the status of no run": (lambda folder: ["status", str(folder)], "progress.json"),
    "a damaged manifest": (broken_run("manifest.json", b"{", "report", "{}/run"), "manifest.json"),
    "damaged rows": (broken_run("rows.sqlite", b"rows" * 99, "report", "{}/run"), "rows.sqlite"),
    "damaged progress": (broken_run("progress.json", b"1", "status", "{}/run"), "progress.json"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_gives_a_one_line_error_and_changes_no_file(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = KINDS[kind]
    command = make(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert main(command) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert errors[0].startswith("layerroles: error: ")
    assert words in errors[0]
    assert all(file.read_bytes() == content for file, content in before.items())


def test_there_are_enough_of_them() -> None:
    assert len(KINDS) >= 30
