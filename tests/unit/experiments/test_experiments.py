"""What the experiments report on results with planted harms, and on wrong options."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import layerroles as lr
from benchmarks.simulated import Simulation
from tests.support.synthetic import synthetic_result, unfinished

Load = Callable[[str], ModuleType]
MMLU = {"question": "q", "subject": "s", "choices": ["a", "b"], "answer": 1}
HELLASWAG = {"query": "q", "choices": ["a", "b"], "gold": 0}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("retrieval", ["--limit", "0"], "--limit 0 is too few: use 1"),
        ("retrieval", ["--limit", "many"], "invalid int value: 'many'"),
        ("retrieval", ["--dtype", "float8"], "unknown dtype 'float8'"),
        ("reasoning", ["--model", "no/such"], "model 'no/such'"),
        ("reading_writing", ["--colour", "red"], "unrecognized arguments: --colour red"),
        ("rag", ["--data", "nowhere"], "'nowhere' holds no validation"),
        ("knowledge", ["--data", "nowhere"], "'nowhere' holds none of openbookqa"),
        ("reasoning", ["--data", "nowhere"], "'nowhere' holds none of gsm8k, mathqa"),
        ("similarity", ["--run", "nowhere"], "'nowhere' is not a run folder"),
        ("protocols", ["mmlu", "--data", "nowhere"], "'nowhere' holds no dev"),
        ("protocols", ["mmlu"], "mmlu takes --data, a folder of JSONL files"),
        ("paper_rules", ["--texts", "3"], "--texts 3: 6 or more"),
        ("audit", ["nowhere.csv"], "'nowhere.csv' cannot be read: No such file"),
        ("audit", [], "the following arguments are required: file; --help lists the options"),
        ("claims", ["--limit", "16"], "--limit 16 is too few: use 32"),
        ("claims", ["--minutes", "-5"], "--minutes -5 leaves no time"),
        ("claims", ["--data", "nowhere"], "'nowhere' holds none of hellaswag"),
        ("retrieval", ["--until", "claims", "--limit", "9"], "--limit 9 is too few: use 32"),
        ("retrieval", ["--until", "decided"], "argument --until: invalid choice: 'decided'"),
        ("all", ["--data", "nowhere"], "'nowhere' is not a folder"),
        ("all", ["--minutes", "5"], "--minutes is for --until claims"),
        ("all", ["--until", "claims", "--minutes", "0"], "--minutes 0 leaves no time"),
        ("all", ["--only", "rag,rug"], "--only rug: known are knowledge"),
    ],
)
def test_invalid_options_give_a_one_line_error(
    name: str,
    given: list[str],
    message: str,
    experiment: Load,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    script, setting = experiment(name), experiment("setting")
    with pytest.raises(SystemExit) as ended:
        setting.run(name, lambda: script.main([*given]))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert line.startswith(f"{name}: error: ")
    assert message in line


def test_claims_on_layers_are_asked_in_the_time_that_the_others_left(
    experiment: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, lines, now = experiment("all"), [], [0.0]

    def note(_name: str, line: list[str]) -> str:
        lines.append(line)
        now[0] += 600.0
        return ""

    monkeypatch.setattr(script, "run_command", note)
    monkeypatch.setattr(script.time, "monotonic", lambda: now[0])
    given = ["--until", "claims", "--out", str(tmp_path)]
    for minutes, left in (("100", "60.0"), ("5", "1.0"), (None, "130.0")):
        lines.clear()
        script.main([*given, *(["--minutes", minutes] if minutes else [])])
        names = [Path(line[1]).stem for line in lines]
        assert names == ["heads", "similarity", "distill", "distillation", "claims"]
        assert [line[-1] for line in lines if "--minutes" in line] == [left]
        asked = dict(itertools.pairwise(lines[3]))
        assert asked["--swap-limit"] == "0"  # swaps decide no claim
        assert asked["--task"] == "word_problems[steps=1]"


def test_a_bad_row_is_named(experiment: Load, tmp_path: Path) -> None:
    (tmp_path / "validation.jsonl").write_text('{"question": 1}\n', encoding="utf-8")
    with pytest.raises(lr.InputError, match=r"validation.jsonl, line 1 is no JSON object with"):
        experiment("rag").main(["--data", str(tmp_path), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("gold", "choices", "message"),
    [
        ("0", ["a", "b"], r"is no JSON object with query \(str\), choices \(list\), gold \(int\)"),
        (0, None, r"is no JSON object with query \(str\), choices \(list\), gold \(int\)"),
        (7, ["a", "b"], "cannot be read as --help says"),
        (-1, ["a", "b"], "cannot be read as --help says"),
        (True, ["a", "b"], "cannot be read as --help says"),
        (0, [1, 2], "cannot be read as --help says"),
    ],
)
def test_a_row_of_wrong_types_is_named(
    gold: object, choices: object, message: str, experiment: Load, tmp_path: Path
) -> None:
    row = json.dumps({"query": "Q", "choices": choices, "gold": gold})
    (tmp_path / "openbookqa").mkdir()
    (tmp_path / "openbookqa" / "test.jsonl").write_text(f"{row}\n", encoding="utf-8")
    with pytest.raises(lr.InputError, match=f"test.jsonl, line 1 {message}"):
        experiment("knowledge").main(["--data", str(tmp_path), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("given", "file", "row"),
    [
        (("protocols", "mmlu"), "dev.jsonl", {**MMLU, "question": 1}),
        (("protocols", "mmlu"), "dev.jsonl", {**MMLU, "answer": "B"}),
        (("protocols", "mmlu"), "dev.jsonl", {**MMLU, "answer": 2}),
        (("protocols", "hellaswag"), "validation.jsonl", {**HELLASWAG, "choices": "ab"}),
        (("protocols", "hellaswag"), "validation.jsonl", {**HELLASWAG, "gold": -1}),
        (("reasoning",), "gsm8k/train.jsonl", {"question": "q", "answer": 4}),
    ],
)
def test_rows_of_benchmarks_are_checked(
    given: tuple[str, ...], file: str, row: dict[str, object], experiment: Load, tmp_path: Path
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(f"{json.dumps(row)}\n", encoding="utf-8")
    name, *more = given
    with pytest.raises(lr.InputError, match=f"{file}, line 1 (is no JSON object with|cannot be)"):
        experiment(name).main([*more, "--data", str(tmp_path), "--out", str(tmp_path / "out")])


def test_an_answer_is_found_in_whole_words(experiment: Load) -> None:
    found = experiment("passages").find_answer("ion", "An ion is no million; Ions are not, ion.")
    assert [one.start() for one in found] == [3, 36]


def test_what_is_not_finished_is_not_judged(experiment: Load) -> None:
    result, sentences = unfinished(synthetic_result(n=400)), experiment("sentences")
    line = sentences.describe_task("facts", sentences.select_role(result, "facts", "generation"))
    assert line.endswith("critical layers: not judged, since the run is not finished.")
    facts, look_up = ("facts", "generation"), ("kv_retrieval", "generation")
    line = sentences.describe_lean_difference("x", result, facts, look_up)
    assert line.startswith("x: not judged, since the run is not finished, +")


def test_no_critical_layer_shown_is_not_none(experiment: Load) -> None:
    result, sentences = synthetic_result(n=12), experiment("sentences")
    row = {**sentences.select_role(result, "facts", "generation"), "critical": []}
    assert sentences.describe_task("facts", row).endswith("critical layers: none shown.")


def test_sentences_describe_the_planted_roles(experiment: Load) -> None:
    result = synthetic_result(n=400)
    sentences = experiment("sentences")
    told = {
        name: sentences.select_role(result, name, "generation")
        for name in ("facts", "kv_retrieval", "word_problems")
    }
    line = sentences.describe_task("facts", told["facts"])
    assert line.startswith("facts: intact 0.78 (n = 400, chance 0.00)")
    assert "critical layers: 0, 1, 23, 24, 29." in line
    facts, look_up = ("facts", "generation"), ("kv_retrieval", "generation")
    assert "leans more on early layers" in sentences.describe_lean_difference(
        "x", result, facts, look_up
    )
    assert "leans more on late layers" in sentences.describe_lean_difference(
        "x", result, look_up, facts
    )
    same = sentences.describe_lean_difference("x", result, facts, facts)
    assert same.startswith("x: no difference in lean is shown, +0.00 [")
    roles = lr.localize(result)
    told = sentences.list_claims(roles, "reasoning")
    assert any(line.startswith("Reasoning needs middle and deep layers (reas") for line in told)
    statuses = roles.claims[roles.claims["family"] == "reasoning"]["status"]
    assert [line.split("): ")[1].split(".")[0] for line in told] == list(statuses)


@pytest.mark.experiments
def test_ways_of_scoring_are_compared_pair_by_pair(experiment: Load) -> None:
    result = synthetic_result(n=400)
    *lines, verdict = experiment("protocols").findings(result)
    cells = result.manifest["cells"]
    assert len(lines) == len(cells)
    assert lines[0].startswith(f"{cells[0]['task']}, {cells[0]['protocol']}: intact 0.")
    shown = re.match(
        r"Importance depends on the scoring: shown in (\d+) of (\d+) pairs of ways", verdict
    )
    assert int(shown[2]) == len(cells) * (len(cells) - 1) // 2
    assert int(shown[1]) == verdict.count("leans more on") > 0


def test_what_generation_costs_more_is_split(experiment: Load) -> None:
    harms = {"continuation": 0.05, "exact": 0.3, "generation": 0.3}
    truth = {("language", protocol): [harm] * 3 for protocol, harm in harms.items()}
    *_, whole, stricter, writing, verdict = experiment("protocols").list_strictness_findings(
        Simulation(truth, n=1000).draw(0)
    )
    assert whole.startswith("Generation needs more of the depth than likelihood (language, gener")
    assert "exact minus continuation +0.2" in stricter
    assert "generation minus exact" in writing
    assert verdict == (
        "Generation needs more of the depth than likelihood: language supported; Exact answers "
        "need more of the depth than likelihood: language supported; Writing needs more of the "
        "depth than exact answers: language contradicted."
    )


def test_contexts_that_need_different_layers_are_distinguished(experiment: Load) -> None:
    with_context = [0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    bare = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5]
    tasks = {"none": ("facts", bare), "support": ("facts[told]", with_context)}
    truth = {
        (task, protocol): harm
        for task, harm in tasks.values()
        for protocol in ("continuation", "generation")
    }
    result = Simulation(truth, n=300, shared=True).draw(0)
    lines = experiment("rag").findings(result, {name: task for name, (task, _) in tasks.items()})
    text = "\n".join(lines)
    assert "support against closed-book, generation: leans more on early layers, +0." in text
    (changed,) = [line for line in lines if line.startswith("facts[told] minus facts, generation, "
                                                            "skip at all")]  # fmt: skip
    assert re.findall(r"L(\d) [+-]0\.\d\d \[", changed) == ["0", "1", "7", "8"]
    claim = "Retrieval augmentation changes which layers matter (generation): supported."
    assert any(line.startswith(claim) for line in lines)


def test_the_table_of_claims_shows_the_layer_that_both_kinds_show_to_change(
    experiment: Load,
) -> None:
    def number(kind: str, layer: int, low: float, high: float) -> dict[str, Any]:
        estimate = (low + high) / 2
        return {"ablation": kind, "quantity": f"L{layer}", "estimate": estimate, "n": 9} | {
            "low": low,
            "high": high,
        }

    # Layers 0 and 1 change more, but only by one kind, or in two directions; layer 3 by estimate.
    own_side = [number("skip", 0, 0.3, 0.7), number("skip", 1, -0.8, -0.4)]
    own_side += [number("mean", 0, -0.2, 0.0), number("mean", 1, 0.3, 0.7)]
    both = [number("skip", 2, -0.4, -0.2), number("mean", 2, -0.5, -0.3)]
    both += [number("skip", 3, -1.5, 0.1), number("mean", 3, -1.5, 0.1)]
    claims = experiment("claims")

    def shown(numbers: list[dict[str, Any]], kind: str) -> str:
        row = {"claim": claims.CONTEXT, "status": "supported", "numbers": numbers}
        return str(claims.describe_numbers(row, kind))

    assert shown(own_side + both, "skip") == "L2 -0.30 [-0.40, -0.20], n = 9"
    assert shown(own_side + both, "mean") == "L2 -0.40 [-0.50, -0.30], n = 9"
    assert shown(own_side, "skip") == "L1 -0.60 [-0.80, -0.40], n = 9"
    assert shown(own_side[:2], "mean") == shown([], "skip") == "not asked"


def test_a_file_of_a_benchmark_that_is_not_utf_8_is_one_line(
    experiment: Load, tmp_path: Path
) -> None:
    (tmp_path / "test.jsonl").write_bytes(b'{"query": "caf\xe9"}\n')
    with pytest.raises(lr.InputError, match=r"test\.jsonl cannot be read as UTF-8: [^\n]+$"):
        experiment("files").read_rows(tmp_path, "test*.jsonl", {"query": str})


@pytest.mark.parametrize(
    ("reading", "writing", "verdict"),
    [
        (0.8, 0.1, "reading needs the layers more than writing: +0."),
        (0.1, 0.8, "writing needs the layers more than reading: -0."),
        (0.0, 0.0, "no difference is shown: +0.00 [-0.03, +0.03]."),
    ],
)
def test_reading_and_writing_are_compared(
    reading: float, writing: float, verdict: str, experiment: Load
) -> None:
    harms = {"retrieval": {"prompt": np.full(6, reading), "generated": np.full(6, writing)}}
    result = synthetic_result(6, 200, harms=harms, protocols=["generation"], churn=0.0)
    line = experiment("reading_writing").describe_costs(result, "kv_retrieval")
    assert verdict in line
    cost = re.search(r"over layers (.+) while reading and (.+) while writing", line)
    assert [float(each) for each in cost.groups()] == pytest.approx([reading, writing], abs=0.1)


def test_reading_and_writing_are_compared_by_templates(experiment: Load) -> None:
    """Two templates, of which one alone is harmed while reading: this shows nothing of others."""
    harms = {"retrieval": {"prompt": np.zeros(6), "generated": np.zeros(6)}}
    result = synthetic_result(6, 40, harms=harms, protocols=["generation"], churn=0.0)
    names = sorted(result.frame["example"].unique())
    harmed = result.frame["example"].isin(names[:20]) & (result.frame["at"] == "prompt")
    frame = result.frame.assign(score=result.frame["score"].mask(harmed, 0.0))
    describe_costs = experiment("reading_writing").describe_costs
    line = describe_costs(lr.SweepResult(frame, result.manifest, result.examples), "kv_retrieval")
    assert "reading needs the layers more than writing: +0." in line
    clusters = ["one" if name in names[:20] else "two" for name in result.examples["example"]]
    examples = result.examples.assign(guesses="{}", cluster=clusters)
    line = describe_costs(lr.SweepResult(frame, result.manifest, examples), "kv_retrieval")
    assert "no difference is shown: +0." in line


def test_the_table_of_claims_has_what_was_reported_and_the_numbers_by_kind(
    experiment: Load,
) -> None:
    """Retrieval leans on shallow layers and copying does not; facts cannot be answered."""
    script = experiment("claims")
    shallow = [0.5] * 3 + [0.0] * 6
    truth = {("retrieval", "exact"): shallow, ("language", "exact"): [0.1] * 9}
    result = Simulation({**truth, ("knowledge", "exact"): [0.0] * 9}).draw(0)
    unknown = result.frame["task"] == "knowledge"
    frame = result.frame.assign(score=result.frame["score"].mask(unknown, 0.0))
    rows = script.claim_rows({"layers": lr.SweepResult(frame, result.manifest, result.examples)})
    lines = script.table(rows).splitlines()[2:]
    assert len(lines) == len(rows) == 2
    retrieval, knowledge = lines
    assert retrieval.startswith("| Retrieval leans on shallow layers | skipping layers 1 and 2")
    assert retrieval.endswith("| supported |")
    numbers = re.findall(
        r"early minus late ([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\], n = 400", retrieval
    )
    assert len(numbers) == 2  # by two kinds
    assert all(0.4 < float(value) < 0.6 for value, *_ in numbers)
    assert "| not measurable: knowledge under exact: " in knowledge


def test_the_table_of_claims_says_why_a_claim_is_not_shown(experiment: Load) -> None:
    script = experiment("claims")
    result = Simulation({("retrieval", "exact"): [0.5] * 3 + [0.0] * 6}, kinds=("skip",)).draw(0)
    (line,) = script.table(script.claim_rows({"layers": result})).splitlines()[2:]
    assert "| not shown: a second kind of ablation, of another mechanism beside deletion" in line
