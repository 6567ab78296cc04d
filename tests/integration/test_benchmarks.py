"""The benchmarks: request files, agreement of all methods, the written page."""

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
import torch

import layerroles as lr
from benchmarks import replayed_run
from layerroles.roles import describe_decided
from tests.support.random_models import model_path

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


def options(dtype: str) -> argparse.Namespace:
    """What the ways of answering are given."""
    return argparse.Namespace(
        model=str(model_path("llama")),
        dtype=dtype,
        batch_size=2,
        memory=None,
        read_back=False,
        softmax_dtype=None,
    )


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

    page = (out / "workloads.md").read_text(encoding="utf-8")
    assert all(f"- `{name}`: " in page for name in made)
    assert "The first 9 questions" in page
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
    args = options("float32")
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


def test_page_is_written_and_saved_measurements_are_reused(
    script: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed, runner = script("speed"), script("runner")
    calls: list[str] = []

    def here(command: list[str], **_: object) -> None:
        """Run in this process, because a new one takes ten seconds to start."""
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


@pytest.mark.experiments
def test_scores_and_their_differences_between_methods_are_reported(
    script: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed, runner = script("speed"), script("runner")
    calls: list[list[str]] = []

    def here(command: list[str], **_: object) -> None:
        calls.append(command[2:])
        runner.main(command[2:])

    monkeypatch.setattr(speed.subprocess, "run", here)
    requests, out, kept = tmp_path / "requests", tmp_path / "page.md", tmp_path / "kept"
    graded = [{**row, "right": place % 2 == 0} for place, row in enumerate(SCORED)]
    write(requests / "own.jsonl", SCORED)
    write(tmp_path / "scored" / "own.jsonl", graded)
    write(tmp_path / "scored" / "texts.jsonl", [{**row, "answer": "x"} for row in WRITTEN])
    words = ["--model", str(model_path("llama")), "--requests", str(requests), "--only", "none"]
    words += ["--dtype", "bfloat16", "--scores", str(tmp_path / "scored"), "--score-sizes", "2,3"]
    speed.main([*words, "--kept", str(kept), "--out", str(out)])

    found = json.loads((kept / "speed.json").read_text(encoding="utf-8"))
    own, texts = found["scores own"], found["scores texts"]
    loops = ["lm-eval 2", "lm-eval 2*", "lm-eval 3", "lm-eval 3*"]
    ways = ["engine", "float32", *loops]
    assert list(own["accuracies"]) == ways
    assert {len(each) for each in own["accuracies"].values()} == {4}  # intact and three layers
    assert own["examples"] == 3
    pairs = {tuple(pair["between"]): pair for pair in own["pairs"]}
    assert {pair for pair in pairs if {*pair} <= {*loops}} == {
        ("lm-eval 2", "lm-eval 2*"), ("lm-eval 2", "lm-eval 3"), ("lm-eval 2*", "lm-eval 3*"),
        ("lm-eval 3", "lm-eval 3*"),
    }  # fmt: skip
    assert len(pairs) == 1 + 2 * 4 + 4
    apart = [
        abs(own["accuracies"]["engine"][name] - own["accuracies"]["lm-eval 2*"][name])
        for name in ("intact", "L0", "L1", "L2")
    ]
    assert pairs["engine", "lm-eval 2*"]["largest"] == pytest.approx(max(apart))
    assert pairs["engine", "lm-eval 2*"]["mean"] == pytest.approx(sum(apart) / 4)

    assert list(texts["accuracies"]) == ["engine", "float32", "lm-eval 2", "lm-eval 3"]
    line = next(
        x for x in out.read_text(encoding="utf-8").splitlines() if "`engine`, `lm-eval 2*`" in x
    )
    assert line.startswith("| own, 3 | `engine`, `lm-eval 2*` | 4 | ")

    asked = [(call[0], call[call.index("--batch-size") + 1]) for call in calls]
    loops = [("lm-eval", "2"), ("lm-eval", "2"), ("lm-eval", "3"), ("lm-eval", "3")]
    assert asked[:6] == [("engine", "16"), ("engine", "16"), *loops]
    assert [call[call.index("--dtype") + 1] for call in calls[:2]] == ["bfloat16", "float32"]
    assert ["--read-back" in call for call in calls[:6]] == [False, False, True, True, True, True]
    exact = ["--softmax-dtype float32" in " ".join(call) for call in calls]
    assert exact == [False, False, False, True, False, True, False, False, False, False]

    speed.main([*words, "--kept", str(kept), "--out", str(out)])
    assert len(calls) == 10  # kept
    words[-1] = "2"
    with pytest.raises(SystemExit, match="scores own were asked with --score-sizes"):
        speed.main([*words, "--kept", str(kept), "--out", str(out)])
    assert json.loads((kept / "speed.json").read_text(encoding="utf-8")) == found


def test_an_answer_is_right_if_it_begins_so(script: Load) -> None:
    rows = [{"kind": "generate_until", "context": "", "answer": r"v4\."} for _ in range(3)]
    assert script("scores").graded(rows, [" v4. And", "v40", "So v4."]) == [True, False, False]


def test_options_of_another_way_are_refused(
    script: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["engine", "--requests", "none", "--out", "none", "--softmax-dtype", "float32"]
    with pytest.raises(SystemExit):
        script("runner").main(words)
    assert "engine: --read-back and --softmax-dtype are lm-eval's" in capsys.readouterr().err


def test_methods_are_compared_under_their_shared_conditions(script: Load) -> None:
    rows = [
        {"context": c, "kind": "loglikelihood", "right": r} for c in "ab" for r in (True, False)
    ]
    first, second = [[[-1.0, True], [-2.0, True]] * 2, [[-2.0, True], [-1.0, True]] * 2]
    mixed = [*first[:2], *second[:2]]
    answers = {
        "engine": {"intact": first, "L0": first, "L1": second},
        "loop": {"intact": first, "L0": mixed, "L1": mixed},
        "other": {"intact": first, "L0": second},
    }
    found = {way: {"answers": each} for way, each in answers.items()}
    compared = script("scores").compared(rows, found)
    assert compared["accuracies"]["loop"] == {"intact": 1.0, "L0": 0.5, "L1": 0.5}
    by_pair = {(*pair["between"], pair["conditions"]): pair for pair in compared["pairs"]}
    assert set(by_pair) == {
        ("engine", "loop", 2), ("engine", "loop", 3), ("engine", "other", 2), ("loop", "other", 2)
    }  # fmt: skip
    whole = by_pair["engine", "loop", 3]
    assert (whole["largest"], whole["mean"], whole["same"]) == (
        0.5,
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    )
    assert (whole["first_right"], whole["second_right"]) == (1, 1)
    assert by_pair["engine", "other", 2]["same"] == 0.5
    assert by_pair["engine", "other", 2]["first_right"] == 2


def test_the_loops_log_probabilities_are_rounded_as_its_model_unless_asked(script: Load) -> None:
    """lm-eval's `softmax_dtype`: in float32 the loop reads out as the engine does."""
    runner, sites = script("runner"), [None]
    args = options("bfloat16")
    engine = runner.engine(args, SCORED, sites)["answers"][0]
    apart = {}
    for softmax_dtype in (None, "float32"):
        args.softmax_dtype = softmax_dtype
        loop = runner.loop(runner.LOOPS["lm-eval"], args, SCORED, sites)["answers"][0]
        pairs = list(zip(engine, loop, strict=True))
        apart[softmax_dtype] = sum(abs(one - other) for (one, _), (other, _) in pairs)
        sums = [other for _, (other, _) in pairs]
        coarse = [float(torch.tensor(value).bfloat16()) == value for value in sums]
        assert all(coarse) if softmax_dtype is None else not any(coarse)
    assert apart["float32"] < apart[None]


@pytest.mark.experiments
def test_replay_of_a_full_run_matches_a_run_until_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(4,), inert=(5,))
    asked = {
        "tasks": [task for task in made.tasks if task.family == "retrieval"],
        "conditions": [
            condition
            for at in ("all", "after_first")
            for condition in lr.each_layer(made.model, lr.Skip(), at=at)
        ],
        "protocols": ["generation"],
        "limit": 96,
    }
    lr.Sweep(made.model, **asked, only_needed=False).run(tmp_path / "whole")
    decided = lr.Sweep(made.model, **asked, until="decided").run(tmp_path / "decided")
    argv = ["replayed_run", str(tmp_path / "whole"), "--limit", "96", "--fixed", "96"]
    monkeypatch.setattr(sys, "argv", argv)
    replayed_run.main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{describe_decided(decided)}; 0 conditions lack answers"
    assert re.fullmatch(
        r"\d verdicts were given before all answers; 0 are outside with all", printed[1]
    )
    assert printed[2].startswith("judged once at 96: 6 verdicts, 672 answers")
    layers = lr.localize(decided).layers
    assert f"| {replayed_run.counts(layers)} |" in printed[6]
