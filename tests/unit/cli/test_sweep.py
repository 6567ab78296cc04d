"""What `layerroles sweep` makes of its options; the model and the sweep itself are scripted."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import pandas as pd
import pytest

import layerroles
import layerroles as lr
from layerroles.ablations import Condition, Reference
from layerroles.backends import Backend, Local, Ray
from layerroles.cli import main
from layerroles.models import loading
from tests.support.random_models import model_path, random_model

PLUGIN = '''
from dataclasses import dataclass

import layerroles as lr


@lr.ablation("scale_in_a_test")
@dataclass(frozen=True)
class Scale(lr.Ablation):
    """Multiply the site's write by `factor`."""

    factor: float = 0.5

    def edit(self, write, ctx):
        return self.factor * write
'''


CLASS_VARIABLE = """
from dataclasses import dataclass
from typing import ClassVar

import layerroles as lr


@dataclass(frozen=True)
class Scaled(lr.Ablation):
    unit: ClassVar[str]
    factor: float = 0.5

    def edit(self, write, ctx):
        return self.factor * write


@lr.ablation("halve_in_a_test")
@dataclass(frozen=True)
class Halve(Scaled):
    pass
"""


class ScriptedResult:
    """A result with one task, one protocol and one condition."""

    def intact(self) -> pd.DataFrame:
        return pd.DataFrame(
            [
                {
                    "task": "facts[b]",
                    "protocol": "generation",
                    "n": 32,
                    "score": 0.75,
                    "score_low": 0.579,
                    "score_high": 0.868,
                    "chance": 0.0,
                }
            ]
        )

    def effects(self) -> pd.DataFrame:
        row = {"task": "facts[b]", "protocol": "generation", "score": 0.25, "n": 32}
        row |= {"detectable": 0.4375, "unit": "accuracy"}
        row |= {"format_effect": -0.25, "format_low": -0.4, "format_high": -0.1}
        effect = {"effect": -0.5, "ci_low": -0.66, "ci_high": -0.29}
        harm = {"harm": 0.667, "harm_low": 0.39, "harm_high": 0.88, "p_adjusted": 0.0004}
        nothing = {"effect": 0.0, "ci_low": -0.1, "ci_high": 0.1, "p_adjusted": 1.0}
        return pd.DataFrame(
            [
                {**row, "condition": "skip L1", **nothing, "harm": float("nan")},
                {**row, "condition": "skip L0", **effect, **harm},
            ]
        )


class ScriptedSweep:
    """Remembers what it was asked for."""

    made: ClassVar[list[Self]] = []

    def __init__(
        self, model: object, tasks: Any, conditions: Sequence[Condition], **options: Any
    ) -> None:
        self.model, self.tasks, self.conditions = model, tasks, conditions
        self.options = options
        self.made.append(self)

    def run(self, path: Path, *, backend: Backend, report: Path | None) -> ScriptedResult:
        self.path, self.backend, self.report = path, backend, report
        if path.name == "interrupted":
            raise KeyboardInterrupt
        return ScriptedResult()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """A model of 4 layers with 2 heads in place of any; what was loaded, and how."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def load(name: str, **options: Any) -> SimpleNamespace:
        calls.append((name, options))
        return SimpleNamespace(cfg=SimpleNamespace(n_layers=4, n_heads=2, d_model=8, d_head=4))

    monkeypatch.setitem(layerroles.__dict__, "load", load)
    monkeypatch.setitem(layerroles.__dict__, "Sweep", ScriptedSweep)
    monkeypatch.setitem(layerroles.__dict__, "Engine", lambda _model, **options: options)
    monkeypatch.setattr(ScriptedSweep, "made", [])
    return calls


def sweep(*options: str, out: str = "runs/x") -> ScriptedSweep:
    """The sweep that these options ask for."""
    assert main(["sweep", "--model", "m", "--out", out, *options]) == 0
    return ScriptedSweep.made[-1]


@pytest.mark.usefixtures("loaded")
def test_defaults() -> None:
    asked = sweep()
    assert [condition.name for condition in asked.conditions] == [
        *(f"skip L{layer}" for layer in range(4)),
        *(f"skip L{layer} after_first" for layer in range(4)),
    ]
    assert [task.label for task in asked.tasks] == [
        "kv_retrieval@2",
        "facts@2",
        "word_problems@3",
        "copying@3",
    ]
    assert asked.options == {
        "protocols": ["continuation", "generation"],
        "until": None,
        "limit": None,
        "seed": 0,
        "engine": {"executor": "auto", "memory": None},
        "chat": False,
        "coherence": False,
        "noise_floor": True,
        "only_needed": True,
    }
    assert asked.path == Path("runs/x")
    assert asked.report is None


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("options", "until"),
    [
        (["--until", "decided"], lr.Decided()),
        (["--minutes", "3"], lr.Decided(minutes=3.0)),
        (["--until", "decided", "--minutes", "3", "--limit", "64"], lr.Decided(minutes=3.0)),
        (["--until", "claims", "--ablation", "skip,mean"], lr.Decided(goal="claims")),
    ],
)
def test_until_decided(options: list[str], until: lr.Decided) -> None:
    asked = sweep(*options)
    assert asked.options["until"] == until
    assert asked.options["limit"] == (64 if "--limit" in options else None)


@pytest.mark.usefixtures("loaded")
def test_a_script_reads_the_worst_effects(capsys: pytest.CaptureFixture[str]) -> None:
    sweep("--json", "--top", "1")
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"run", "intact", "effects"}
    assert found["run"] == "runs/x"
    assert found["intact"][0]["score"] == 0.75
    assert found["effects"][0]["effect"] == -0.5


@pytest.mark.usefixtures("loaded")
def test_every_position_can_be_asked_for() -> None:
    asked = sweep("--sites", "L3", "--at", "prompt,generated,evidence,last")
    names = [condition.name for condition in asked.conditions]
    assert names == ["skip L3 prompt", "skip L3 generated", "skip L3 evidence", "skip L3 last"]


def test_every_option_arrives(loaded: list[tuple[str, dict[str, Any]]]) -> None:
    asked = sweep(
        *["--tasks", "kv_retrieval[pairs=20],facts", "--ablation", "zero,skip"],
        *["--sites", "L1:3,L0.attn", "--at", "after_first"],
        *["--protocols", "letter,continuation[norm=byte]"],
        *["--chat", "--coherence", "--no-noise-floor"],
        *["--limit", "5", "--seed", "7", "--num-fewshot", "1"],
        *["--dtype", "float32", "--device", "cpu", "--revision", "main"],
        *["--executor", "plain", "--memory", "2GB"],
        *["--every-layer", "--report", "a.html"],
    )
    assert loaded == [("m", {"dtype": "float32", "device": "cpu", "revision": "main"})]
    assert [condition.name for condition in asked.conditions] == [
        f"{name} {site} after_first"
        for name in ("zero", "skip")
        for site in ("L1", "L2", "L0.attn")
    ]
    assert [task.name for task in asked.tasks] == ["kv_retrieval", "facts"]
    assert asked.tasks[0].pairs == 20
    assert [task.num_fewshot for task in asked.tasks] == [1, 1]
    engine = {"executor": "plain", "memory": "2GB"}
    assert asked.options == {
        "protocols": ["letter", "continuation[norm=byte]"],
        "until": None,
        "limit": 5,
        "seed": 7,
        "engine": engine,
        "chat": True,
        "coherence": True,
        "noise_floor": False,
        "only_needed": False,
    }
    assert asked.report == Path("a.html")


def test_workers_read_the_weights_and_this_process_none(
    loaded: list[tuple[str, dict[str, Any]]],
) -> None:
    asked = sweep("--backend", "ray", "--workers", "3", "--gpus-per-worker", "2")
    assert asked.backend == Ray(workers=3, gpus_per_worker=2.0)
    more = sweep("--backend", "ray", "--address", "auto", "--timeout", "60")
    assert more.backend == Ray(address="auto", workers="auto", timeout=60.0)
    assert [options["device"] for _, options in loaded] == ["meta", "meta"]
    assert isinstance(sweep().backend, Local)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--backend", "rey"], "unknown backend 'rey': did you mean 'ray'? known are local, ray"),
        (["--workers", "2"], "workers is an option of backend='ray', not of 'local'"),
        (["--backend", "ray", "--workers", "two"], "--workers 'two' is neither auto nor a number"),
        (["--backend", "ray", "--workers", "9" * 5000], "9' is neither auto nor a number"),
        (["--backend", "ray", "--device", "cpu"], "--device cpu is of --backend local"),
        (["--backend", "ray", "--timeout", "0"], "timeout=0.0 is not a number above 0"),
    ],
)
@pytest.mark.usefixtures("loaded")
def test_invalid_backend_options_give_an_error(
    options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "--model", "m", "--out", "runs/x", *options]) == 2
    assert line in capsys.readouterr().err


@pytest.mark.usefixtures("loaded")
def test_an_ablation_of_a_plugin_with_a_setting(tmp_path: Path) -> None:
    plugin = tmp_path / "scale.py"
    plugin.write_text(PLUGIN)
    asked = sweep(
        *["--plugin", str(plugin), "--ablation", "scale_in_a_test", "--set", "factor=0.25"],
        *["--sites", "L3", "--at", "all"],
    )
    (condition,) = asked.conditions
    (edit,) = condition.edits.values()
    assert (condition.name, edit.parameters()) == (
        "scale_in_a_test[factor=0.25] L3",
        {"factor": 0.25},
    )


@pytest.mark.usefixtures("loaded")
def test_a_class_variable_is_no_parameter(tmp_path: Path) -> None:
    plugin = tmp_path / "halve.py"
    plugin.write_text(CLASS_VARIABLE)
    asked = sweep(
        *["--plugin", str(plugin), "--ablation", "halve_in_a_test", "--set", "factor=0.5"],
        *["--sites", "L3", "--at", "all"],
    )
    assert [condition.name for condition in asked.conditions] == ["halve_in_a_test L3"]


@pytest.mark.usefixtures("loaded")
def test_a_declared_reference_is_made_of_the_asked_tasks_held_out_prompts() -> None:
    asked = sweep("--ablation", "mean", "--tasks", "facts", "--sites", "L0", "--at", "all")
    (condition,) = asked.conditions
    (reference,) = condition.references
    assert reference == Reference()
    assert reference.is_open


@pytest.mark.usefixtures("loaded")
def test_a_result_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    sweep("--tasks", "facts")
    shown = capsys.readouterr().out
    assert "facts[b]" in shown, "brackets in a name are no markup"
    assert "0.750 [0.579, 0.868]" in shown
    assert "-0.500 [-0.660, -0.290]" in shown
    assert "0.667 [0.390, 0.880]" in shown
    assert "<.001" in shown
    assert "-0.250 [-0.400, -0.100]" in shown, "the form of answers beside their skill"
    assert "Minimum detectable effect (80% power after correction): 0.438 at n = 32" in shown
    assert shown.index("skip L0") < shown.index("skip L1"), "most harmful first"
    assert "layerroles report runs/x" in shown


@pytest.mark.usefixtures("loaded")
def test_only_the_intact_table(capsys: pytest.CaptureFixture[str]) -> None:
    sweep("--tasks", "facts", "--top", "0")
    assert "skip L0" not in capsys.readouterr().out


@pytest.mark.usefixtures("loaded")
def test_an_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--model", "m", "--out", "runs/interrupted", "--tasks", "facts"]) == 130
    shown = capsys.readouterr().err
    assert shown == (
        "layerroles: stopped; what is done is kept in runs/interrupted, the same command goes on\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "fact"], "unknown task 'fact'"),
        (["--tasks", "facts,facts"], "'facts' more than once"),
        (["--tasks", "kv_retrieval[pears=2]"], "no parameter 'pears'"),
        (["--tasks", "local:no/such/file.jsonl"], "no/such/file.jsonl"),
        (["--protocols", "generatoin"], "unknown protocol 'generatoin'"),
        (["--protocols", "continuation[norm=bits]"], "norm='bits' is unknown: known are sum"),
        (["--protocols", "letter[norm=sum]"], "protocol 'letter' has no parameter 'norm'"),
        (["--ablation", "skp"], "unknown ablation 'skp'"),
        (["--at", "first"], "unknown at='first'"),
        (["--limit", "0"], "--limit 0"),
        (["--limit", "-3"], "--limit -3"),
        (["--set", "factor=1"], "--set 'factor': no such parameter"),
        (["--set", "factor"], "--set 'factor' is not of the form name=value"),
        (["--plugin", "no_such_file.py"], "plugin 'no_such_file.py'"),
        (["--sites", "L4"], "layer 4 is out of range"),
        (["--sites", "L0.H2", "--ablation", "zero"], "head 2 is out of range"),
        (["--sites", "L0.H1"], "heads cannot be skipped"),
        (["--sites", "L0.mpl"], "unknown part 'mpl'"),
        (["--sites", "three"], "'three'"),
        (["--executor", "fast"], "unknown executor 'fast'"),
        (["--memory", "much"], "memory='much' is not a size"),
    ],
)
def test_a_mistake_names_the_value(
    options: list[str],
    message: str,
    loaded: list[tuple[str, dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["sweep", "--model", "m", "--out", "runs/x", *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("layerroles: error: ")
    assert shown.err.count("\n") == 1
    assert message in shown.err
    if "--sites" not in options:
        assert not loaded, "what can be refused without the model is refused before it is loaded"


def test_lists(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plugin = tmp_path / "scale.py"
    plugin.write_text(PLUGIN.replace("scale_in_a_test", "scale_in_a_list"))
    assert main(["ablations", "--plugin", str(plugin)]) == 0
    shown = capsys.readouterr().out
    assert "factor=0.5" in shown
    assert all(name in shown for name in ("skip", "zero", "mean", "scale_in_a_list"))
    assert main(["tasks"]) == 0
    shown = capsys.readouterr().out
    assert all(f in shown for f in ("retrieval", "knowledge", "reasoning", "language", "local"))


def test_sites(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["sites", str(model_path("llama"))]) == 0
    shown = capsys.readouterr().out
    assert "3 layers of 4 heads, 2 key/value heads" in shown
    written = ("L2.attn", "L2.mlp", "L2.H3", "L2.KV1", "L2.stream", "all.head", "all.kv_group")
    assert all(site in shown for site in written)
    assert "no:" not in shown
    assert len(re.findall(r"\d\.\de[-+]\d\d", shown)) == 3  # a relative error for each layer
    # As if attention and MLP did not add up in one layer.
    known = loading.prepared(random_model("llama"))
    checks = replace(known.checks, holds=(True, False, True), identity_error=(0.0, 0.5, 0.0))
    monkeypatch.setattr("layerroles.models.prepared", lambda model: replace(known, checks=checks))
    assert main(["sites", str(model_path("llama"))]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "not in L1" in shown
    assert "5.0e-01" in shown
