"""What the pages print is run: README, tutorials, recipes and every other page with code.

The text runs exactly as printed, block after block of a page in one namespace and an empty folder.
Some things are other than at a reader's, since 30 layers of a real model take minutes on a
processor, and nothing comes from the network:

- Every model that a page names is a stand-in: SmolLM2's own tokenizer, but narrow, with 19 layers
  of random weights. So the numbers of such a page are not tried here; those of the pages on
  `lr.planted` are, whose models are the reader's own.
- The stand-in is asked two questions of a task, whatever the `limit`. Planted models are asked all
  where the page shows what is printed, and four elsewhere.
- A tuned lens is trained for three steps.
- lm-eval's `arc_easy` reads six questions that lie here.
- What a page takes for granted is there: finished runs, a file of questions.

Commands are read by the real command line; those that only look at a finished run are run.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import typer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import layerroles as lr
from layerroles.ablations import At
from layerroles.ablations.base import ABLATIONS
from layerroles.cli import app
from layerroles.harness import tasks
from layerroles.models import bridge_loading, gguf, loading
from layerroles.models.loading import prepared
from layerroles.probes import PROBES, Probe
from layerroles.protocols.base import PROTOCOLS
from layerroles.tasks.base import TASKS
from tests.support import lm_eval_data, page_code
from tests.support.tiers import mark_rest

ROOT = page_code.ROOT
PAGES = sorted(
    ["README.md", *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))]
)
LAYERS, STEPS = 19, 3
QUESTIONS, QUESTIONS_OF_PLANTED = 2, 4

# What cannot run here, and why.
NO_SKILL = "the stand-in has no skill to keep, and finds nothing that it could copy"
HUB = "data from the hub (tests/integration/test_lm_eval.py)"
RAY = "workers of a cluster (tests/integration/test_ray.py)"
LOOKS = "fewer questions than before a first look (tests/unit/sweep/test_until_decided.py)"
ELSEWHERE = {
    "docs/attention.md: retrieval = lr.probes.RetrievalScore()": NO_SKILL,
    'docs/how_to/many_gpus.md: sweep.run("runs/8b", backend="ray")': RAY,
    "docs/how_to/pruned_model.md: plan = lr.plan_pruning(": NO_SKILL,
    "docs/lm_eval.md: import lm_eval": HUB,
    'docs/lm_eval.md: lr.task("lm_eval:mmlu_generative", num_fewshot=5)': HUB,
    "docs/pruning.md: import layerroles as lr": NO_SKILL,
    "docs/pruning.md: # Another seed: other questions.": NO_SKILL,
    "docs/roles.md: cheap = lr.Sweep(": NO_SKILL,
    "docs/results/decided.md: import layerroles as lr": LOOKS,
    "docs/scale.md: import layerroles as lr": RAY,
    "docs/scale.md: # Each claim on these tasks, asked until it is decided.": LOOKS,
    "docs/scale.md: # Two layers, each asked until its verdict is decided.": LOOKS,
}
# Pages that go on from another one, or are a notebook: each is run by a test of its own.
OWN_TESTS = {
    "docs/gotchas.md": "tests/unit/test_documentation.py",
    "docs/tutorials/jupyter.md": "tests/integration/test_notebook.py",
}


def with_code() -> list[str]:
    """The pages with something to run."""
    return [
        page
        for page in PAGES
        if page not in OWN_TESTS
        and any(block.language in ("python", "pycon") for block in page_code.blocks(page))
    ]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which the built-in model is the stand-in."""
    real, kept = gguf.built_in_folder(), gguf.cache_folder()
    config = AutoConfig.from_pretrained(real)
    config.hidden_size, config.head_dim, config.intermediate_size = 36, 4, 48
    config.num_hidden_layers, config.tie_word_embeddings = LAYERS, False
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.1)
        model.lm_head.weight.normal_(0, 1)
        # One coordinate says of every token that the text may end: it does after a few.
        model.model.embed_tokens.weight.normal_(0, 1)[:, 0] = 6.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = model.lm_head.weight[config.eos_token_id] = 0.0
        model.lm_head.weight[config.eos_token_id, 0] = 8.0
    folder: Path = tmp_path_factory.mktemp("cache")
    made = folder / real.relative_to(kept)
    model.save_pretrained(made)
    AutoTokenizer.from_pretrained(real).save_pretrained(made)
    return folder


@pytest.fixture
def reader(
    page: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty folder, the stand-in for every model; what a page registers is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(gguf.CACHE_VARIABLE, str(cache))
    stand_in = str(gguf.built_in_folder())

    def source_of(name: str, known: Callable[[str], str] = bridge_loading.resolve_source) -> str:
        found = known(name)
        return found if Path(found).exists() else stand_in

    for module in (bridge_loading, loading):
        monkeypatch.setattr(module, "resolve_source", source_of)
    shown = any(block.language == "text" for block in page_code.blocks(page))
    few = QUESTIONS, None if shown else QUESTIONS_OF_PLANTED
    monkeypatch.setattr(lr.Sweep, "__init__", _asking(few, lr.Sweep.__init__))
    monkeypatch.setattr(Probe, "measure", _asking(few, Probe.measure))
    fit = lr.probes.TunedLens.fit.__func__
    monkeypatch.setattr(
        lr.probes.TunedLens,
        "fit",
        classmethod(lambda *given, **options: fit(*given, **options | {"steps": STEPS})),
    )
    load_members = tasks.load_members
    arc = lm_eval_data.arc(tmp_path / "copies" / "ai2_arc")

    def local(name: str, *, data: str, **options: Any) -> dict[str, Any]:
        return load_members(name, data=data or arc * (name == "arc_easy"), **options)

    monkeypatch.setattr(tasks, "load_members", local)
    yield tmp_path
    for registry in (ABLATIONS, TASKS, PROTOCOLS, PROBES):
        for name, made in list(registry._classes.items()):
            if made.__module__ == page_code.MODULE:
                del registry._classes[name]


def _asking(few: tuple[int, int | None], function: Callable[..., Any]) -> Callable[..., Any]:
    """The same with fewer questions for the stand-in and for planted models."""

    def asking(
        self: Any, model: Any, tasks: Any, *given: Any, limit: int = 32, **options: Any
    ) -> Any:
        most = few[prepared(model).origin is None]
        limit = limit if most is None else min(limit, most)
        return function(self, model, tasks, *given, limit=limit, **options)

    return asking


# What pages take for granted.


def finished(folder: Path, *labels: str, ats: tuple[At, ...] = ("all", "after_first")) -> None:
    """A run of the stand-in with probes, and with scores as of a model with skill."""
    model = lr.load("smollm2-135m", dtype="float32")
    tasks = [lr.task(label) for label in labels or ("kv_retrieval", "facts")]
    conditions = [one for at in ats for one in lr.each_layer(model, lr.Skip(), at=at)]
    sweep = lr.Sweep(model, tasks, conditions, noise_floor=False)
    sweep.run(folder)
    with sqlite3.connect(folder / "rows.sqlite") as rows:
        rows.execute("UPDATE rows SET score = abs(random()) % 2")
        intact = lr.Condition({}).hash
        rows.execute("UPDATE rows SET score = 1 WHERE condition = ?", (intact,))
    rows.close()
    for probe in (lr.probes.LogitLens(), lr.probes.Attention()):
        lr.probes.measure_into(folder, probe, model, tasks)


def runs(*names: str) -> Callable[[], None]:
    """Finished runs of the same questions."""

    def make() -> None:
        first, *others = (Path("runs", name) for name in names)
        finished(first, "facts")
        for other in others:
            shutil.copytree(first, other)

    return make


def gallery() -> None:
    """The demo, its run on facts in context, and the table of the experiment on pruning."""
    finished(Path("runs/demo"))
    contexts = ("facts", "facts[context=support]", "facts[context=distractors]")
    finished(Path("runs/rag"), *contexts, ats=("all",))
    Path("runs/pruning").mkdir()
    line = {"family": "reasoning", "task": "word_problems", "protocol": "generation"}
    line |= {"method": "role_aware", "n": 32, "harm_low": -0.04, "harm_high": 0.16}
    lines = [line | {"drop": n, "layers": "[3]", "harm": 0.06 * n} for n in (1, 2)]
    pd.DataFrame(lines).to_csv("runs/pruning/pruning.csv", index=False)


def questions() -> None:
    """The reader's own, and an earlier run."""
    line = {"prompt": "The Tower is in", "answer": "London", "family": "knowledge"}
    Path("questions.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    runs("second")()


GRANTED: dict[str, Callable[[], None]] = {
    "README.md": questions,
    "docs/extending.md": questions,
    "docs/gallery.md": gallery,
    "docs/how_to/paper_figures.md": runs("demo"),
    "docs/report.md": runs("demo", "base", "twin"),
    "docs/statistics.md": runs("base", "distilled"),
}


@pytest.mark.parametrize(
    "page",
    mark_rest(
        "pages",
        with_code(),
        first=[page for page in with_code() if page == "README.md" or "/tutorials/" in page],
    ),
)
def test_the_code_on_a_page_runs_and_prints_what_is_shown(page: str, reader: Path) -> None:
    GRANTED.get(page, lambda: None)()
    wrong = page_code.run_page(page, elsewhere=frozenset(ELSEWHERE))
    assert not wrong, "\n".join(wrong)


def test_blocks_that_run_elsewhere_are_there_and_each_is_one() -> None:
    names = [
        block.name
        for page in PAGES
        for block in page_code.blocks(page)
        if block.language == "python"
    ]
    assert [names.count(name) for name in ELSEWHERE] == [1] * len(ELSEWHERE)
    assert set(GRANTED) <= set(with_code())
    for page, test in OWN_TESTS.items():
        assert (page in PAGES) == (ROOT / test).is_file(), f"{page}, {test}"


def test_a_page_that_prints_something_else_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n", encoding="utf-8")
    (mismatch,) = page_code.run_page(str(page))
    assert "3" in mismatch and "2" in mismatch


# Commands.

OTHER_PROGRAMS = {
    "cd",
    "git",
    "make",
    "pip",
    "python",
    "sky",
    "touch",
    "uv",
    ".venv/bin/pre-commit",
    ".venv/bin/python",
}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_the_command_line_knows_every_command_and_option_on_a_page(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for line, words in page_code.commands(page):
        program, *arguments = words
        where = f"{page}:{line}: {' '.join(words)}"
        if program == "layerroles":
            _parse(arguments, where)
        elif program == "python" and arguments[0] not in ("-m", "-c"):
            _find_script(arguments, where)
        elif program == "make":
            assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text(), where
        else:
            assert program in OTHER_PROGRAMS, where


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_commands_are_in_console_blocks(page: str) -> None:
    for block in page_code.blocks(page):
        where = f"{page}:{block.line}"
        if block.language in ("bash", "sh", "shell"):
            assert block.code.startswith("#!"), f"{where}: commands are `console`, behind `$ `"
        elif block.language == "console":
            assert list(page_code._commands(block)), f"{where}: no command behind `$ `"


def test_commands_are_found_in_pipes_and_scripts(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    script = "#!/bin/bash\nsrun x -- \\\n    layerroles status runs/a\n"
    page.write_text(
        f"```console\n$ cd a && layerroles tasks | \\\n  head\n```\n\n```bash\n{script}```\n",
        encoding="utf-8",
    )
    assert [words for _, words in page_code.commands(str(page))] == [
        *(["cd", "a"], ["layerroles", "tasks"], ["head"]),
        ["layerroles", "status", "runs/a"],
    ]


def _parse(arguments: list[str], where: str) -> None:
    """Parse the options as the command line does, without running the command."""
    group = typer.main.get_command(app)
    name, *options = (word for word in arguments if word != "OPTIONS")
    if name.startswith("--"):
        assert any(name in param.opts for param in group.params), where
        return
    assert name in group.commands, where  # type: ignore[attr-defined]
    command = group.commands[name]  # type: ignore[attr-defined]
    try:
        command.make_context(name, options)
    except typer.TyperException as error:
        pytest.fail(f"{where}: {error.format_message()}")


def _find_script(arguments: list[str], where: str) -> None:
    """The script is there, and it or what it shares with others names every option."""
    script = ROOT / arguments[0]
    assert script.is_file(), where
    text = "".join(file.read_text(encoding="utf-8") for file in script.parent.glob("*.py"))
    for word in arguments[1:]:
        if word.startswith("--"):
            option = word.removeprefix("--no-").removeprefix("--").partition("=")[0]
            assert f'"--{option}"' in text or f'"--no-{option}"' in text, f"{where}: {word}"
