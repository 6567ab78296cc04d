"""The command line: help, one-line errors, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

import layerroles
from layerroles.cli import app, main, printing

COMMANDS = (
    *("sweep", "estimate", "probe", "status", "report", "compare", "prune"),
    *("tasks", "ablations", "sites", "demo", "figures", "export-rows"),
)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one-line error of a wrong command."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("layerroles: error: ")
    return shown.err.removeprefix("layerroles: error: ").strip()


def test_without_a_command_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_every_command_is_there() -> None:
    assert sorted(command.name or "" for command in app.registered_commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example:" in shown
    assert f"layerroles {command}" in shown.split("Example:")[1]


def test_brackets_in_help_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["tasks", "--help"])
    assert "kv_retrieval[pairs=20]" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"layerroles {layerroles.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["swep"], "no such command 'swep'. Did you mean 'sweep'? (see layerroles --help)"),
        (["xyz"], "no such command 'xyz' (see layerroles --help)"),
        (
            ["sweep", "--modle", "m"],
            "no such option: --modle, did you mean --model? (see layerroles sweep --help)",
        ),
        (["sweep", "--out", "r"], "missing option '--model' (see layerroles sweep --help)"),
        (["sweep", "--model", "m"], "missing option '--out' (see layerroles sweep --help)"),
        (["report"], "missing argument 'RUN' (see layerroles report --help)"),
        (
            ["sweep", "--model", "m", "--out", "r", "--limit", "many"],
            "invalid value for '--limit': it should be a valid integer, not 'many' "
            "(see layerroles sweep --help)",
        ),
        (
            ["sweep", "--model", "m", "--out", "r", "--top", "-1"],
            "invalid value for '--top': it should be greater than or equal to 0, not '-1' "
            "(see layerroles sweep --help)",
        ),
        (["demo", "--limit", "0"], "--limit 0 asks for nothing: give 1 or more"),
        (["probe", "--out", "r"], "missing option '--model' (see layerroles probe --help)"),
        (
            ["probe", "--model", "m", "--out", "r", "--limit", "0"],
            "--limit 0 asks for nothing: give 1 or more",
        ),
        (
            ["probe", "--model", "m", "--out", "r", "--probe", "attention,attention"],
            "--probe 'attention,attention' names 'attention' more than once",
        ),
        (
            ["sweep", "--model", "m", "--out", ""],
            "the value after '--out' is empty: give one, or leave it out",
        ),
        (["report", ""], "the value after 'report' is empty: give one, or leave it out"),
        (["report", "r", "--out="], "'--out=' has no value: give one, or leave it out"),
        # An empty parameter is a value.
        (["sweep", "--set=suffix="], "missing option '--model' (see layerroles sweep --help)"),
    ],
)
def test_a_mistake_gets_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, *arguments) == line


def test_an_interrupt_is_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(layerroles.__dict__, "read", interrupted)
    assert main(["report", "runs/none"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setitem(layerroles.__dict__, "read", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["report", "runs/none"])


def test_report_writes_beside_the_rows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: list[str | None] = []
    monkeypatch.setitem(layerroles.__dict__, "read", lambda run: f"rows of {run}")
    monkeypatch.setitem(
        layerroles.__dict__,
        "report",
        lambda result, *, probes, findings, path, against: (
            Path(path) if result and not probes and not findings else None,
            beside.append(against),
        )[0],
    )
    assert main(["report", "runs/first"]) == 0
    assert capsys.readouterr().out == "runs/first/report.html\n"
    assert main(["report", "runs/first", "--out", "page.html", "--against", "runs/second"]) == 0
    assert capsys.readouterr().out == "page.html\n"
    assert beside == [None, "rows of runs/second"]


def test_as_a_program_in_a_pipe_that_closes() -> None:
    command = f"{sys.executable} -m layerroles ablations | head -c 1 > /dev/null"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True
    )
    assert "Traceback" not in done.stderr


def test_as_a_program_a_mistake_is_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "layerroles", "sweep"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "layerroles: error: missing option '--model' (see layerroles sweep --help)\n"
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from layerroles.cli import main; main(['sweep', '--help']); "
        "print([m for m in ('torch', 'pandas', 'transformers', 'plotly') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip().endswith("[]")


def test_nothing_that_is_printed_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "\x1b[2J\x07\u202e")
    assert "\\x1b[2J\\x07\\u202e" in line
    printing.print_table("t", ["name"], [["\x1b]0;title\x07"]])
    printing.print_line("\x1b[1mline")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b]0;title\\x07" in out
    assert "\\x1b[1mline" in out


QUICK = {
    "--tasks nonsense": "unknown task 'nonsense'",
    "--tasks kv_retrieval[pairs=0]": "pairs=0",
    "--tasks local:nowhere.jsonl": "nowhere.jsonl does not exist",
    "--protocols exact,genration": "unknown protocol 'genration': did you mean 'generation'?",
    "--ablation skp": "unknown ablation 'skp': did you mean 'skip'?",
    "--at nowhere": "unknown at='nowhere'",
    "--executor slow": "unknown executor 'slow'",
    "--backend cloud": "unknown backend 'cloud'",
    "--sites L5:3": "range 'L5:3' is empty",
    "--limit 0": "--limit 0 asks for nothing",
    "--until claim": "--until 'claim' is unknown: known are decided, claims",
    "--until claims": "--until claims takes two kinds of ablation, and --ablation 'skip' is one",
    "--until decided --limit 16": "--limit 16 is less than the 32 questions before the first look",
    "--minutes -1": "--minutes -1 leaves no time",
}


def test_mistakes_are_answered_before_torch_is_imported() -> None:
    code = (
        "import sys; from layerroles.cli import main\n"
        f"for words in {list(QUICK)}:\n"
        "    code = main(['sweep', '--model', 'm', '--out', 'r', *words.split()])\n"
        "    print(code, [m for m in ('torch', 'pandas', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 []"] * len(QUICK)
    lines = done.stderr.splitlines()
    for line, said in zip(lines, QUICK.values(), strict=True):
        assert line.startswith("layerroles: error: ")
        assert said in line
