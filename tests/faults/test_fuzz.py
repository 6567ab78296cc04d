"""Arbitrary user files and arguments give a result or a clean one-line error.

For five minutes instead of seconds:  FUZZ=400 python -m pytest tests/faults/test_fuzz.py
"""

import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import layerroles as lr
from layerroles.cli import main
from layerroles.cli.parsing import split_list, split_settings
from layerroles.engine.planning.memory import parse_memory
from layerroles.probes import TunedLens, read_saved
from layerroles.sites import Size, parse_sites
from layerroles.sweep.status import read_status
from layerroles.tasks.local import read_questions

TIMES = int(os.environ.get("FUZZ", "1"))
fuzzed = settings(
    max_examples=15 * TIMES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = ("prompt", "answer", "choices", "evidence", "solution", "family", "id", "other")
ROWS = st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6) | VALUES, max_size=4)
# Close to what is right, so that what comes behind the first check is reached too.
NEARLY = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.text(max_size=20), "answer": st.text(min_size=1, max_size=8)},
        optional={name: VALUES for name in FIELDS[2:]},
    ),
    max_size=4,
)
LABELS = st.text(max_size=30) | st.builds(
    "{}[{}={}]".format,
    st.sampled_from(["facts", "kv_retrieval", "word_problems", "needle", "copying", "generation"]),
    st.text(max_size=10) | st.sampled_from(["pairs", "num_fewshot", "steps", "max_gen_toks"]),
    st.text(max_size=10) | st.integers().map(str),
)


@contextmanager
def clean() -> Iterator[None]:
    """Nothing but a clean, one-line error leaves the context."""
    try:
        yield
    except lr.InputError as error:
        assert str(error).strip()
        assert "\n" not in str(error).strip()


@contextmanager
def a_file(name: str, content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        yield file


def asked(file: Path) -> None:
    task = lr.task(f"local:{file}", family="knowledge")
    for example in task.examples(4, 0):
        example.context(worked=True)
        task.grade("an answer", example)


@fuzzed
@given(st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.csv"]))
def test_bytes_as_questions(content: bytes, name: str) -> None:
    with a_file(name, content) as file, clean():
        asked(file)


@fuzzed
@given(ROWS | NEARLY)
def test_rows_as_questions(rows: list[Any]) -> None:
    text = "\n".join(json.dumps(row) for row in rows)
    with a_file("a.jsonl", text.encode("utf-8", "surrogatepass")) as file, clean():
        asked(file)


@fuzzed
@given(st.text(max_size=200))
def test_tables_as_questions(text: str) -> None:
    content = "prompt,answer,choices,evidence\n" + text
    with a_file("a.csv", content.encode("utf-8", "surrogatepass")) as file, clean():
        asked(file)
        read_questions(file)


@fuzzed
@given(VALUES)
def test_json_as_a_run(value: Any) -> None:
    with a_file("manifest.json", json.dumps(value).encode()) as file:
        with clean():
            lr.read(file.parent)
        (file.parent / "progress.json").write_text(json.dumps(value))
        with clean():
            read_status(file.parent)


PROGRESS = {
    **{"state": "running", "rows_total": 9, "host": "h", "pid": 1, "started": "1", "seconds": 1.0},
    **{"updated": 1.0, "rows_done": 3, "now": "", "reason": ""},
}


@fuzzed
@given(st.sampled_from(sorted(PROGRESS)), VALUES)
def test_one_wrong_value_of_a_progress(name: str, value: Any) -> None:
    text = json.dumps({**PROGRESS, "host": socket.gethostname(), name: value})
    with a_file("progress.json", text.encode()) as file, clean():
        found = read_status(file.parent)
        assert str(found)
        assert found.to_dict()


@fuzzed
@given(st.binary(max_size=300))
def test_bytes_as_a_run(content: bytes) -> None:
    with a_file("manifest.json", content) as file:
        for name in ("progress.json", "rows.sqlite"):
            (file.parent / name).write_bytes(content)
        (file.parent / "probes").mkdir()
        (file.parent / "probes" / "logit_lens.csv").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        (file.parent / "probes" / "logit_lens.sha256").write_text(digest)
        for load in (lr.read, read_status, read_saved):
            with clean():
                load(file.parent)


@fuzzed
@given(st.binary(max_size=300))
def test_bytes_as_a_lens(content: bytes) -> None:
    with a_file("lens.safetensors", content) as file, clean():
        TunedLens.load(file)


READERS: dict[str, Callable[[str], object]] = {
    "task": lr.task,
    "protocol": lr.protocols.protocol,
    "sites": lambda text: parse_sites(text, Size(n_layers=3, n_heads=4, n_kv_heads=2)),
    "memory": parse_memory,
    "list": lambda text: split_list(text, "--tasks"),
    "settings": lambda text: split_settings([text]),
}


@pytest.mark.parametrize("reader", READERS)
@fuzzed
@given(LABELS)
def test_words(reader: str, text: str) -> None:
    with clean():
        READERS[reader](text)


OPTIONS = st.lists(
    st.sampled_from(
        [
            "sweep",
            "report",
            "status",
            "compare",
            "tasks",
            "sites",
            "--tasks",
            "--out",
            "--top",
            "-x",
        ]
    )
    | st.text(max_size=12),
    max_size=5,
)


@settings(fuzzed, max_examples=15 * TIMES)
@given(OPTIONS)
def test_command_lines(words: list[str]) -> None:
    assert main([word.replace("\0", "") for word in words]) in (0, 2)
