"""The benchmarks: request files are made, every way of answering agrees, a page is written."""

import argparse
import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.random_models import model_path

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")

Load = Callable[[str], ModuleType]
Rows = list[dict[str, Any]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Import a script as Python does when it is run: its own folder comes first."""
    monkeypatch.setattr(sys, "path", [BENCHMARKS, *sys.path])
    return import_module


def write(file: Path, rows: Rows) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def data(folder: Path) -> Path:
    """Two questions of each benchmark (of MMLU, ten of one subject and one of another)."""
    chosen = [
        {"query": f"Question: {n}?\nAnswer:", "choices": ["so", "no"], "gold": n} for n in (0, 1)
    ]
    prefixes = [{"format": f"{kind}_5shot", "prefix": f"{kind}\n\n"} for kind in ("mc", "rc")]
    write(folder / "arc_easy" / "test.jsonl", chosen)
    write(folder / "arc_easy" / "fewshot_prefix.jsonl", prefixes)
    write(folder / "hellaswag" / "validation_2.jsonl", chosen)
    lettered = [
        {"question": f"{subject} {n}? ", "subject": subject, "choices": list("wxyz"), "answer": 2}
        for subject, count in (("art", 10), ("law", 1))
        for n in range(count)
    ]
    write(folder / "mmlu" / "dev.jsonl", [lettered[0], lettered[1], lettered[-1]])
    write(folder / "mmlu" / "validation.jsonl", lettered)
    solved = [{"question": f"Q{n}", "answer": f"So.\n#### 1,00{n}"} for n in range(7)]
    write(folder / "gsm8k" / "train_7.jsonl", solved)
    write(folder / "gsm8k" / "test.jsonl", solved[:2])
    records = [[f"k{n}", f"v{n}."] for n in range(75)]
    asked = [{"ordered_kv_records": records, "key": key} for key in ("k1", "k40")]
    write(folder / "kv_retrieval" / "kv_75_keys.jsonl", asked)
    return folder


def test_request_files_are_made_of_benchmarks(script: Load, tmp_path: Path) -> None:
    out = tmp_path / "requests"
    words = ["--data", str(data(tmp_path / "data")), "--out", str(out), "--examples", "9"]
    script("workloads").main(words)
    made = {file.stem: script("runner").read(file) for file in out.glob("*.jsonl")}
    counts = {name: len(rows) for name, rows in made.items()}
    assert counts == {
        "arc_5shot": 4, "hellaswag_0shot": 4, "mmlu_5shot": 36, "gsm8k_5shot": 2, "kv_10pairs": 4
    }  # fmt: skip

    arc = {"kind": "loglikelihood", "context": "rc\n\nQuestion: 1?\nAnswer:"}
    assert made["arc_5shot"][2:] == [
        {**arc, "continuation": " so", "right": False},
        {**arc, "continuation": " no", "right": True},
    ]
    assert made["hellaswag_0shot"][0]["context"] == "Question: 0?\nAnswer:"

    shown = "w\nB. x\nC. y\nD. z\nAnswer:"
    first, *_, last = made["mmlu_5shot"]
    shots = "".join(f"art {n}?\nA. {shown} C\n\n" for n in (0, 1))
    assert first["context"] == f"{shots}art 0?\nA. {shown}"
    assert [row["continuation"] for row in made["mmlu_5shot"][:4]] == [" A", " B", " C", " D"]
    assert [row["right"] for row in made["mmlu_5shot"][:4]] == [False, False, True, False]
    assert last["context"] == f"law 0?\nA. {shown} C\n\nlaw 0?\nA. {shown}"  # after eight of art

    problem = made["gsm8k_5shot"][1]
    shots = "".join(f"Question: Q{n}\nAnswer: So.\n#### 1,00{n}\n\n" for n in range(5))
    assert problem["context"] == f"{shots}Question: Q1\nAnswer:"
    assert (problem["until"], problem["max_gen_toks"]) == (["Question:", "<|im_end|>"], 96)
    texts = ["So,\n#### 1001", "#### $1001.", "#### 10012", "#### 1001.5", "1001"]
    right = [re.match(problem["answer"], text) is not None for text in texts]
    assert right == [True, True, False, False, False]

    keys = [re.search('Key: "(.*)"', row["context"]) for row in made["kv_10pairs"]]
    assert [key and key[1] for key in keys] == ["k1", "k40", "k38", "k2"]  # each record, then again
    pairs = ",\n".join(f' "k{n}": "v{n}."' for n in range(35, 45))
    assert made["kv_10pairs"][1] == {
        "kind": "generate_until",
        "context": f'JSON data:\n{{{pairs}}}\n\nKey: "k40"\nCorresponding value: "',
        "until": ['"', "\n"],
        "max_gen_toks": 40,
        "answer": r"v40\.",
    }

    told = (out / "workloads.md").read_text(encoding="utf-8")
    assert all(f"- `{name}`: " in told for name in made)
    assert "The first 9 questions" in told
    with pytest.raises(SystemExit, match="holds no arc_easy"):
        script("workloads").main(["--data", str(tmp_path), "--out", str(out)])


SCORED: Rows = [
    {"kind": "loglikelihood", "context": context, "continuation": f" {ending}"}
    for context in ("a", "some words", "The 3 of them said that")
    for ending in ("x", "no, yes")
]
WRITTEN: Rows = [
    {"kind": "generate_until", "context": context, "until": ["2", "/M"], "max_gen_toks": 12}
    for context in ("fafba", "cdfbaebd", "aabbccddeeff", "a", "xyz" * 9)
]


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (SCORED, ["intact", "L0", "L2", "L1.H2"]),
        # Not L0: without the first layer, transformers loses count of what lm-eval's loop has read.
        (WRITTEN, ["intact", "L1", "L2", "L1.H2"]),
    ],
)
def test_all_ways_answer_alike_in_float32(script: Load, rows: Rows, names: list[str]) -> None:
    runner = script("runner")
    sites = [None if name == "intact" else runner.site(name) for name in names]
    args = argparse.Namespace(
        model=str(model_path("llama")), dtype="float32", batch_size=2, memory=None, read_back=False
    )
    expected = runner.engine(args, rows, sites)["answers"]
    for way in ("hooks", "plain", "lm-eval"):
        found = runner.loop(runner.LOOPS[way], args, rows, sites)["answers"]
        assert len(found) == len(sites)
        for name, one, other in zip(names, expected, found, strict=True):
            if rows is WRITTEN:
                assert other == one, (way, name)
                continue
            for (logprob, greedy), (theirs, too) in zip(one, other, strict=True):
                assert theirs == pytest.approx(logprob, abs=1e-3), (way, name)
                assert too == greedy
    assert len({str(each) for each in expected}) == len(names)  # no condition is another
    if rows is WRITTEN:
        lengths = {len(text) for each in expected for text in each}
        assert max(lengths) == 12 > min(lengths)  # some end by themselves


def test_a_page_is_written_and_measurements_are_kept(
    script: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed, runner = script("speed"), script("runner")
    calls: list[str] = []

    def here(command: list[str], **_: object) -> None:
        """Not in a process of its own, of which each takes ten seconds to start."""
        calls.append(command[2])
        runner.main(command[2:])

    monkeypatch.setattr(speed.subprocess, "run", here)
    requests, kept, out = tmp_path / "requests", tmp_path / "kept", tmp_path / "page.md"
    write(requests / "own.jsonl", SCORED)
    write(requests / "other.jsonl", SCORED)
    (requests / "workloads.md").write_text("## What is asked\n", encoding="utf-8")
    words = ["--model", str(model_path("llama")), "--dtype", "float32", "--requests", str(requests)]
    words += ["--only", "own", "--batch-sizes", "2", "--ways", "plain"]
    words += ["--kept", str(kept), "--out", str(out)]
    speed.main(words)
    page = out.read_text(encoding="utf-8")
    measured = (kept / "speed.json").read_text(encoding="utf-8")
    assert calls == ["engine", "lm-eval", "plain", "engine", "engine"]
    found = json.loads(measured)["own"]
    assert (found["requests"], found["conditions"]) == (6, 4)
    assert set(found["seconds"]) == {"engine", "lm-eval 2", "plain"}
    assert found["same"] == dict.fromkeys(
        ["float32 = engine", "float32 = lm-eval 2", "engine = lm-eval 2"], 1.0
    )
    assert "## What is asked" in page
    table = page.split("## Sweeps")[1].split("\n\n")[1].splitlines()
    assert table[0].endswith("| ratio | plain |")
    assert table[2].startswith("| own | 6 | 1 | ")
    assert len(table) == 3

    speed.main(words)
    assert len(calls) == 5
    assert (kept / "speed.json").read_text(encoding="utf-8") == measured
    assert out.read_text(encoding="utf-8") == page
    with pytest.raises(SystemExit, match="was measured with"):
        speed.main([*words, "--memory", "1GB"])
