"""What every test runs under: shapes and types are checked, and nothing reaches for the hub."""

import os

import pytest

# Before anything imports the libraries that read these.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "disabled"
if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

# Every annotated shape and type of the package is checked at each call, in doctests too.
install_import_hook("layerroles", "beartype.beartype")


@pytest.fixture(autouse=True)
def kept_references(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """References are kept for the session only: none is read that another version wrote."""
    folder = tmp_path_factory.getbasetemp() / "kept"
    monkeypatch.setattr("layerroles.ablations.saved.cache_folder", lambda: folder)
