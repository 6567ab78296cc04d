"""What every test runs under: shapes and types are checked, and nothing reaches for the hub."""

import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Before anything imports the libraries that read these.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "disabled"
if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import pandas as pd
import torch
from beartype import BeartypeConf, BeartypeDecorPlace
from beartype.claw import beartype_package

from tests.support import skips
from tests.support.type_checks import VIOLATION, make_checker

# Every annotated type of the package is checked at each call, in doctests too: by `make_checker`
# where a module names shapes, types imported for type checkers alone, or actors (Ray sends no class
# that beartype decorates); else by beartype's own hook. What a dataclass is given is checked by the
# former only: many check it themselves, in words.
PACKAGE = Path(__file__).parents[1] / "layerroles"
WITH_SHAPES = [
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for file in PACKAGE.rglob("*.py")
    if re.search("from jaxtyping import|TYPE_CHECKING|import ray", file.read_text(encoding="utf-8"))
]
pd.Series.__class_getitem__ = classmethod(lambda cls, of: cls)  # type: ignore[attr-defined]
beartype_package(
    "layerroles",
    conf=BeartypeConf(
        claw_is_pep526=False,
        claw_decor_place_type=BeartypeDecorPlace.FIRST,  # below @dataclass
        violation_type=VIOLATION,
    ),
)
jaxtyping.jaxtyped = make_checker  # the decorator that its import hook writes
jaxtyping.install_import_hook(WITH_SHAPES, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip for a reason that is not on the list fails."""
    return fail_if_unlisted((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """So does a skip of a whole file."""
    return fail_if_unlisted((yield))


def fail_if_unlisted(report: Any) -> Any:
    """Make a failure of a report of a skip, unless its reason is on the list."""
    if report.skipped and not hasattr(report, "wasxfail"):  # an expected failure is no skip
        reason = str(report.longrepr[-1])  # type: ignore[index]  # file, line, reason
        if not skips.is_allowed(reason):
            report.outcome = "failed"
            report.longrepr = f"{reason}: not on the list in tests/support/skips.py"
    return report


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch computes in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def kept_references(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """References are kept for the session only: none is read that another version wrote."""
    folder = tmp_path_factory.getbasetemp() / "kept"
    monkeypatch.setattr("layerroles.ablations.statistics_cache.cache_folder", lambda: folder)


@pytest.fixture(autouse=True)
def shared_models_are_not_written_to() -> Iterator[None]:
    """A test that changes weights loads a model of its own: `lr.load(model_path(...))`."""
    yield
    from tests.support.random_models import changed_models

    assert not changed_models()


@pytest.fixture(autouse=True)
def lm_eval_reads_its_own_tasks_once() -> None:
    """lm-eval reads its thousands of task files again for each folder of a user's own tasks."""
    module = sys.modules.get("lm_eval.tasks._index")
    if module is None or hasattr(module.TaskIndex.build, "__wrapped__"):
        return
    build, own = module.TaskIndex.build, Path(str(module.__file__)).parent
    build_own = functools.cache(lambda: build([own]))

    @functools.wraps(build)
    def build_each(paths: list[Path]) -> dict[str, object]:
        indexes = (build_own() if path == own else build([path]) for path in paths)
        return {name: entry for index in indexes for name, entry in index.items()}

    module.TaskIndex.build = staticmethod(build_each)


@pytest.fixture
def experiment() -> Iterator[Callable[[str], ModuleType]]:
    """Import an experiment as Python does when it is run: its own folder comes first."""
    folder, before = str(Path(__file__).parents[1] / "experiments"), set(sys.modules)
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
            del sys.modules[name]
