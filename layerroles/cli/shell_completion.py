"""Shell completion: names of tasks, ablations, models and figures, and run folders.

A shell runs this at every completion, so no slow modules are imported: registered names are read
from the source files, and a test compares them with the registries. In a list with commas, the last
name is completed.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from itertools import islice
from pathlib import Path

_DECORATOR = re.compile(r'^@(?:ablation|register)\(\s*"(\w+)"', re.MULTILINE)


def _registered(*folders: str) -> tuple[str, ...]:
    """Return the names that modules of these folders register, read from their source."""
    files = [
        file for folder in folders for file in (resources.files("layerroles") / folder).iterdir()
    ]
    texts = [file.read_text("utf-8") for file in files if file.name.endswith(".py")]
    return tuple(sorted(name for text in texts for name in _DECORATOR.findall(text)))


ABLATIONS = _registered("ablations")
TASKS = _registered("tasks", "harness")
PROTOCOLS = _registered("protocols")
PROBES = tuple(name for name in _registered("probes") if name != "tuned_lens")  # read from a file
METHODS = ("role_aware", "likelihood", "block_influence", "angular", "random")
EXECUTORS = ("auto", "fused", "hooked", "plain")
BACKENDS = ("local", "ray")
FAMILIES = ("retrieval", "knowledge", "reasoning", "commonsense", "language")
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")
# What `--until` may name, and the number of questions that such a sweep asks before it first looks
# at its results (see `layerroles.sweep.Decided`).
UNTIL = ("decided", "claims")
FIRST_LOOK = 32
TARGETS = ("cpu", "measured", "a100-40gb", "a100-80gb", "h100", "h200", "l4", "l40s", "rtx4090")
FIGURES = (
    *("role_map", "answers_spent", "harm_map", "depth_contrasts", "head_harms"),
    *("pair_excess", "depth_profile"),
    *("likelihood_hides", "outcome_profile", "lens_trajectories", "decision_margin"),
    *("attention_map", "head_map", "influence_profile", "similarity_triangle"),
    "direct_against_total",
)
FORMATS = ("pdf", "svg", "png", "html")
WIDTHS = ("column", "full")
BUILT_IN = "smollm2-135m"
_LOOKED_AT = 500  # limit on the entries of a folder that are examined

Complete = Callable[[str], list[str]]


def one_of(names: Iterable[str]) -> Complete:
    """Return a function that completes a text to one of these names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def list_of(names: Iterable[str]) -> Complete:
    """Return a function that completes the last item of a list with commas by an unused name."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        said = before.split(",")
        left = [name for name in names if name not in said]
        return [f"{before}{comma}{name}" for name in left if name.startswith(last)]

    return complete


def runs(incomplete: str) -> list[str]:
    """Return run folders that complete a path; for an empty path, also those in `runs`."""
    found = set(_below(incomplete))
    if not incomplete:
        found |= set(_below("runs/"))
    return sorted(found)


def models(incomplete: str) -> list[str]:
    """Complete a model's name: the built-in model, and those in the local Hugging Face cache."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    kept = [
        folder.name.removeprefix("models--").replace("--", "/")
        for folder in _folders(cache)
        if folder.name.startswith("models--")
    ]
    return one_of([BUILT_IN, *sorted(kept)])(incomplete)


def _below(incomplete: str) -> Iterator[str]:
    """Yield run folders that complete a path: matching folders, and folders directly in those.

    Paths stay as typed (`./`, `~`), since a shell drops completions that begin otherwise.
    """
    typed, slash, begun = incomplete.rpartition("/")
    before = typed + slash
    for folder in _folders(Path(os.path.expanduser(before))):  # noqa: PTH111 (it never raises)
        if not folder.name.startswith(begun):
            continue
        if _is_run(folder):
            yield f"{before}{folder.name}"
        else:
            runs = (one for one in _folders(folder) if _is_run(one))
            yield from (f"{before}{folder.name}/{run.name}" for run in runs)


def _is_run(folder: Path) -> bool:
    try:
        return (folder / "manifest.json").is_file()
    except OSError:  # a folder without access
        return False


def _folders(parent: Path) -> list[Path]:
    try:
        return [entry for entry in islice(parent.iterdir(), _LOOKED_AT) if entry.is_dir()]
    except OSError:
        return []
