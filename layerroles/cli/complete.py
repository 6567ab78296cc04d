"""What a shell completes: names of tasks, ablations, models, figures; run folders.

A shell asks at every press of a key, so nothing is imported here: registered names are read from
the source, and a test compares all names with the registries. Of a list with commas, its last name
is completed.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_DECORATOR = re.compile(r'^@(?:ablation|register)\("(\w+)"\)', re.MULTILINE)


def _registered(*folders: str) -> tuple[str, ...]:
    """The names that modules of these folders register, without an import of them."""
    files = [file for folder in folders for file in (_PACKAGE / folder).glob("*.py")]
    return tuple(sorted(n for file in files for n in _DECORATOR.findall(file.read_text("utf-8"))))


ABLATIONS = _registered("ablations")
TASKS = _registered("tasks", "harness")
PROTOCOLS = _registered("protocols")
PROBES = tuple(name for name in _registered("probes") if name != "tuned_lens")  # read from a file
ATS = ("all", "after_first", "prompt", "generated", "evidence", "last")
METHODS = ("role_aware", "likelihood", "block_influence", "angular", "random")
EXECUTORS = ("auto", "fused", "hooked", "plain")
BACKENDS = ("local", "ray")
FAMILIES = ("retrieval", "knowledge", "reasoning", "commonsense", "language")
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")
TARGETS = ("cpu", "measured", "a100-40gb", "a100-80gb", "h100", "h200", "l4", "l40s", "rtx4090")
FIGURES = (
    *("role_map", "harm_map", "depth_contrasts", "head_harms", "pair_excess", "depth_profile"),
    *("likelihood_hides", "outcome_profile", "lens_trajectories", "decision_margin"),
    *("attention_map", "head_map", "influence_profile", "similarity_triangle"),
    "direct_against_total",
)
FORMATS = ("pdf", "svg", "png", "html")
WIDTHS = ("column", "full")
BUILT_IN = "smollm2-135m"
_LOOKED_AT = 500  # entries of a folder

Complete = Callable[[str], list[str]]


def one_of(names: Iterable[str]) -> Complete:
    """A completion for one of these names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def list_of(names: Iterable[str]) -> Complete:
    """A completion for a list with commas of these names."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        said = before.split(",")
        left = [name for name in names if name not in said]
        return [f"{before}{comma}{name}" for name in left if name.startswith(last)]

    return complete


def runs(incomplete: str) -> list[str]:
    """Run folders: those that begin so, here or in a folder that begins so, or in `runs`."""
    found = set(_below(incomplete))
    if not incomplete:
        found |= set(_below("runs/"))
    return sorted(found)


def models(incomplete: str) -> list[str]:
    """The built-in model, and what the Hugging Face cache of this machine holds."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    kept = [
        folder.name.removeprefix("models--").replace("--", "/")
        for folder in _folders(cache)
        if folder.name.startswith("models--")
    ]
    return one_of([BUILT_IN, *sorted(kept)])(incomplete)


def _below(incomplete: str) -> Iterator[str]:
    """Runs as they are typed: a shell takes no word that begins otherwise, `./` and `~` kept."""
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
    return (folder / "manifest.json").is_file()


def _folders(parent: Path) -> list[Path]:
    try:
        return [entry for entry in islice(parent.iterdir(), _LOOKED_AT) if entry.is_dir()]
    except OSError:
        return []
