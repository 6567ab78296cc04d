"""The package as users get it: built, unpacked elsewhere, and imported from there."""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def python(*words: str, folder: Path, path: Path | None = None) -> str:
    """What Python prints, run in a folder; the package is taken from `path`."""
    env = {**os.environ, **({} if path is None else {"PYTHONPATH": str(path)})}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "hatchling", "build", "-d", str(folder), folder=ROOT)
    return folder


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installer lays it out."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel_in(built)) as wheel:
        wheel.extractall(folder)
    return folder


def wheel_in(folder: Path) -> Path:
    (found,) = folder.glob("*.whl")
    return found


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as files:
        return {name: files.read(name) for name in files.namelist()}


def metadata(unpacked: Path) -> Message:
    (file,) = unpacked.glob("*.dist-info/METADATA")
    return HeaderParser().parsestr(file.read_text(encoding="utf-8"))


@pytest.mark.package
def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    names = {name for name in contents(wheel_in(built)) if ".dist-info/" not in name}
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "layerroles").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert names == there
    needed = ("py.typed", "page/page.html.j2", "tasks/facts.tsv", "figures/fonts/OFL.txt")
    assert {f"layerroles/{name}" for name in needed} <= names


@pytest.mark.package
def test_the_sdist_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as files:
        files.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.glob("layerroles-*")
    assert (folder / "CITATION.cff").is_file()
    python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), folder=folder)
    assert contents(wheel_in(tmp_path)) == contents(wheel_in(built))


@pytest.mark.package
def test_the_metadata_are_whole(unpacked: Path) -> None:
    fields = metadata(unpacked)
    assert fields["Name"] == "layerroles"
    assert fields["License-Expression"] == "Apache-2.0 AND OFL-1.1"
    assert fields["Requires-Python"] == ">=3.11"
    assert fields["Description-Content-Type"] == "text/markdown"
    needed = [line for line in fields.get_all("Requires-Dist") if "extra ==" not in line]
    for line in needed:
        assert any(sign in line for sign in "<>"), f"no version is asked of {line}"
    (scripts,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "layerroles = layerroles.cli:main" in scripts.read_text(encoding="utf-8")


@pytest.mark.package
def test_every_extra_of_the_metadata_is_installable_by_name(unpacked: Path) -> None:
    # A name that is spelt otherwise in the messages of the package would send users nowhere.
    extras = set(metadata(unpacked).get_all("Provides-Extra"))
    assert {"lm-eval", "ray", "notebook", "export", "dev", "docs"} <= extras


@pytest.mark.package
def test_the_wheel_works_without_the_clone(unpacked: Path, tmp_path: Path) -> None:
    printed = python("-W", "error", "-c", "import layerroles", folder=tmp_path, path=unpacked)
    assert not printed
    first = str(ROOT / "tests" / "integration" / "first_use.py")
    assert python(first, str(unpacked), folder=tmp_path, path=unpacked).endswith("8 rows\n")
    printed = python("-m", "layerroles", "--help", folder=tmp_path, path=unpacked)
    assert all(command in printed for command in ("sweep", "report", "demo"))


def test_the_versions_agree() -> None:
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {importlib.metadata.version('layerroles')}\n" in cited
