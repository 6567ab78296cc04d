"""Sweeps: rows, resuming, extending, refusing; protocols and probes on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from torch import Tensor

import layerroles as lr
from layerroles.protocols import PROTOCOLS
from layerroles.protocols.failure_modes import outcome, repeated_share
from layerroles.tasks import Grade
from tests.support.random_models import model_path, random_model
from tests.support.scale import Scale

FAMILIES = {"retrieval": "abcdef", "reasoning": "uvwxyz"}


def questions(folder: Path, family: str, n: int = 12) -> lr.Task:
    letters = FAMILIES[family]
    file = folder / f"{family}.jsonl"
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"{letters[i % 6]}{i}: which letter?",
            "answer": letters[i % 6],
            # The answer is the first choice of half of the questions, and the last of the others.
            "choices": [letters[i % 6], letters[(i + 1) % 6], "?"][:: 1 if i < 6 else -1],
            "evidence": [letters[i % 6] + str(i)],
            "family": family,
        }
        for i in range(n)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return asked(file)


def asked(file: Path) -> lr.Task:
    return lr.task(f"local:{file}", max_gen_toks=4)


@pytest.fixture
def tasks(tmp_path: Path) -> list[lr.Task]:
    return [questions(tmp_path, family) for family in FAMILIES]


def rows(result: lr.SweepResult) -> pd.DataFrame:
    keys = ["condition", "task", "protocol", "example"]
    frame = result.frame.sort_values(keys, ignore_index=True)
    # As numbers, so that they can be compared as such.
    return frame.assign(details=[list(_numbers(json.loads(d or "[]"))) for d in frame.details])


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _numbers(each)
    elif isinstance(value, float):
        yield value


def first_two(ctx: lr.EditContext) -> Tensor:
    return ctx.positions < 2


def test_where_conditions_act(tasks: list[lr.Task], tmp_path: Path) -> None:
    model = random_model("llama")
    ats = ["prompt", "generated", "last", "evidence", first_two]
    conditions = [lr.Condition({lr.Site(1): Scale(-1.0)}, at=at) for at in ats]  # type: ignore[arg-type]
    protocols = ["continuation", "letter", "generation"]
    found = [
        lr.Sweep(
            model,
            tasks,
            conditions,
            protocols=protocols,
            limit=6,
            engine=lr.Engine(model, executor=name),  # type: ignore[arg-type]  # a string
        ).run(tmp_path / name)
        for name in ("auto", "plain")
    ]
    columns = ["condition", "at", "task", "protocol", "example", "score", "response", "changed"]
    pd.testing.assert_frame_equal(*(rows(each)[columns] for each in found))
    assert found[0].manifest["executors"] == ["fused"]
    frame = found[0].frame.set_index("at")
    assert set(frame.index) == {"all", "prompt", "generated", "last", "evidence", "first_two"}
    # Of these questions, the first two characters (which are tokens) are the evidence.
    for column in ("score", "response"):
        evidence, by_function = frame.loc["evidence", column], frame.loc["first_two", column]
        assert evidence.tolist() == by_function.tolist()
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "Why?", "answer": "so", "family": "language"}\n')
    with pytest.raises(lr.InputError, match="does not say where the evidence"):
        lr.Sweep(model, [asked(bare)], conditions, protocols=["generation"])


def test_evidence_is_found_where_the_prompt_says_it_again(tmp_path: Path) -> None:
    file = tmp_path / "again.jsonl"
    row = {
        "prompt": "The cat sat. The dog ran. Who sat?\nAnswer:",
        "answer": "cat",
        "choices": ["cat", "dog"],
        "evidence": [[0, 7]],
        "family": "language",
    }
    file.write_text(json.dumps(row))
    (example,) = lr.task(f"local:{file}").examples(1, 0)
    for name in ("continuation", "letter", "exact", "generation", "answer_logprob"):
        protocol = PROTOCOLS[name]()
        ((start, end),) = protocol.evidence(example) or []
        assert protocol.context(example)[start:end] == "The cat"
        assert (start, end) == (0, 7)


def test_one_row_for_each_condition_task_protocol_and_example(
    tasks: list[lr.Task], tmp_path: Path
) -> None:
    model = random_model("llama")
    conditions = [*lr.each_layer(model, lr.Skip()), *lr.each_head(model, lr.Zero(), layers=[1])]
    protocols = ["continuation", "letter", "answer_logprob", "generation"]
    sweep = lr.Sweep(model, tasks, conditions, protocols=protocols, limit=5)
    result = sweep.run(tmp_path / "run")
    assert len(result.frame) == (1 + 3 + 4) * 2 * 4 * 5
    assert not rows(result).duplicated(["condition", "task", "protocol", "example"]).any()
    assert set(result.frame.condition) == {"intact", *(c.name for c in conditions)}
    assert (result.frame.status == "ok").all()
    assert result.frame[result.frame.condition == "intact"].layer.isna().all()
    assert set(result.frame[result.frame.condition == "zero L1.H2"]["head"]) == {2}
    assert not result.frame[result.frame.condition == "intact"].changed.any()
    assert result.frame[result.frame.condition == "skip L1"].changed.all()
    logprobs = result.frame[result.frame.protocol == "answer_logprob"]
    assert (logprobs.score < 0).all()
    assert logprobs.correct.isna().all()
    assert list(lr.read(tmp_path / "run").frame.columns) == list(result.frame.columns)
    pd.testing.assert_frame_equal(lr.read(tmp_path / "run").frame, result.frame)
    cells = {(c["task"], c["protocol"]): c for c in result.manifest["cells"]}
    assert cells[tasks[0].label, "letter"]["chance"] == pytest.approx(1 / 3)
    assert cells[tasks[0].label, "answer_logprob"]["chance"] is None
    assert set(result.effects().condition) == {c.name for c in conditions}


def test_scores_are_those_of_the_engine(tasks: list[lr.Task], tmp_path: Path) -> None:
    model = random_model("llama")
    (skip,) = lr.each_layer(model, lr.Skip(), layers=[1])
    task = tasks[0]
    sweep = lr.Sweep(model, [task], [skip], protocols=["answer_logprob", "continuation"], limit=4)
    frame = sweep.run(tmp_path / "run").frame
    for example in task.examples(4, 0):
        pairs = [(example.prompt, f" {choice}") for choice in example.choices]
        found = lr.Engine(model, executor="plain").loglikelihood(pairs, [skip])
        mine = frame[(frame.condition == skip.name) & (frame.example == example.id)]
        by_protocol = mine.set_index("protocol").score
        right = example.choices.index(example.answer)
        expected = found.logprob[0, right] / found.n_tokens[right]
        assert by_protocol["answer_logprob"] == pytest.approx(expected, abs=1e-4)
        assert by_protocol["continuation"] == (found.logprob[0].argmax() == right)


def test_a_finished_run_is_extended_and_nothing_is_done_twice(
    tasks: list[lr.Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("llama")
    first, *others = lr.each_layer(model, lr.Skip())
    lr.Sweep(model, tasks, [first], protocols=["continuation"], limit=3).run(tmp_path / "run")
    n_asked: list[int] = []
    own = lr.Engine.answer_each

    def counted(engine: lr.Engine, asked: list, conditions: list) -> object:
        n_asked.append(sum(map(len, asked)) * len(conditions))
        return own(engine, asked, conditions)

    monkeypatch.setattr(lr.Engine, "answer_each", counted)
    same = lr.Sweep(model, tasks, [first], protocols=["continuation"], limit=3)
    same.run(tmp_path / "run")
    assert n_asked == []
    larger = lr.Sweep(
        model,
        tasks,
        [first, *others],
        protocols=["continuation"],
        limit=6,
        noise_floor=False,
    )
    result = larger.run(tmp_path / "run")
    # 3 choices: 3 new examples under 2 old conditions, 6 examples under 2 new ones; 2 tasks.
    assert sum(n_asked) == 3 * 2 * (2 * 3 + 2 * 6)
    fresh = larger.run(tmp_path / "fresh")
    pd.testing.assert_frame_equal(rows(result), rows(fresh), atol=1e-5)
    # A smaller sweep on the same folder takes nothing away.
    assert len(same.run(tmp_path / "run").frame) == len(result.frame)


def test_a_tasks_protocols_are_asked_together_where_they_lack_the_same(
    tasks: list[lr.Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("llama")
    conditions = lr.each_layer(model, lr.Skip())
    calls: list[tuple[list[int], int]] = []
    own = lr.Engine.answer_each

    def noted(engine: lr.Engine, asked: list, conditions: list) -> object:
        calls.append(([len(each) for each in asked], len(conditions)))
        return own(engine, asked, conditions)

    monkeypatch.setattr(lr.Engine, "answer_each", noted)
    both = ["continuation", "generation"]
    once = {"noise_floor": False, "limit": 4}
    apart = lr.Sweep(model, tasks[:1], conditions, protocols=both[:1], **once)
    apart.run(tmp_path / "run")
    assert calls == [([12], 4)]
    calls.clear()
    whole = lr.Sweep(model, tasks, conditions, protocols=both, **once)
    result = whole.run(tmp_path / "run")
    # The first task lacks generation only; the second is asked under both at once.
    assert calls == [([4], 4), ([12, 4], 4)]
    pd.testing.assert_frame_equal(
        rows(result), rows(whole.run(tmp_path / "fresh")), check_exact=False, atol=1e-5
    )


def test_a_killed_sweep_goes_on_to_the_same_rows(tasks: list[lr.Task], tmp_path: Path) -> None:
    """One process is killed, this one goes on."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys, time
import layerroles as lr
from layerroles.sweep.store import Store
own = Store.add_rows
Store.add_rows = lambda *given: (own(*given), time.sleep(0.4))[0]
model = lr.load({str(model_path("llama"))!r}, dtype="float32")
tasks = [lr.task("local:" + path, max_gen_toks=4) for path in {[str(t.path) for t in tasks]!r}]
print("ready", flush=True)
sweep = lr.Sweep(model, tasks, lr.each_layer(model, lr.Skip()), limit=6, coherence=True)
sweep.run(sys.argv[1])
""",
        encoding="utf-8",
    )
    run, whole = tmp_path / "run", tmp_path / "whole"
    command = [sys.executable, str(script), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while not (run / "rows.sqlite").exists() or not len(_done(run)):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    n_done = len(_done(run))
    assert 0 < n_done < 4 * 2 * 2 * 6
    model = random_model("llama")
    for folder in (run, whole):
        conditions = lr.each_layer(model, lr.Skip())
        lr.Sweep(model, tasks, conditions, limit=6, coherence=True).run(folder)
    pd.testing.assert_frame_equal(rows(lr.read(run)), rows(lr.read(whole)), atol=1e-5)
    assert len(lr.read(run).frame) == 4 * 2 * 2 * 6


def _done(run: Path) -> pd.DataFrame:
    try:
        return lr.read(run).frame
    except lr.InputError:
        return pd.DataFrame()


def test_another_run_is_refused(tasks: list[lr.Task], tmp_path: Path) -> None:
    model = random_model("llama")
    lr.Sweep(model, tasks, [], protocols=["continuation"], limit=2).run(tmp_path / "run")
    other = lr.Sweep(random_model("qwen3"), tasks, [], protocols=["continuation"], limit=2)
    with pytest.raises(lr.InputError, match="of another run: its model weights is"):
        other.run(tmp_path / "run")
    seeded = lr.Sweep(model, tasks, [], protocols=["continuation"], limit=2, seed=1)
    with pytest.raises(lr.InputError, match="its seed is 0"):
        seeded.run(tmp_path / "run")
    file = Path(tasks[0].path)
    file.write_text(file.read_text().replace("which letter", "what letter"), encoding="utf-8")
    changed = lr.Sweep(model, [asked(file)], [], protocols=["continuation"], limit=2)
    with pytest.raises(lr.InputError, match="in other words"):
        changed.run(tmp_path / "run")
    assert len(lr.read(tmp_path / "run").frame) == 4


def test_two_conditions_of_one_name_are_refused_and_a_name_stays(
    tasks: list[lr.Task], tmp_path: Path
) -> None:
    model = random_model("llama")

    def run(condition: lr.Condition) -> lr.SweepResult:
        sweep = lr.Sweep(model, tasks[:1], [condition], protocols=["continuation"], limit=2)
        return sweep.run(tmp_path / "run")

    texts = ["one text", "another text"]
    run(lr.Condition({lr.Site(1): lr.Mean(lr.Reference(texts))}))
    with pytest.raises(lr.InputError, match="holds another condition called 'mean L1'"):
        run(lr.Condition({lr.Site(1): lr.Mean(lr.Reference(texts[:1]))}))
    run(lr.Condition({lr.Site(2): lr.Skip()}))
    result = run(lr.cumulative(model, lr.Skip(), order="top-down")[0])  # the same, called otherwise
    assert [c["name"] for c in result.manifest["conditions"]] == ["intact", "mean L1", "skip L2"]


def test_concurrent_writers_and_damaged_folders_raise(tasks: list[lr.Task], tmp_path: Path) -> None:
    from layerroles.sweep.store import lock_folder

    sweep = lr.Sweep(random_model("llama"), tasks, [], protocols=["continuation"], limit=1)
    sweep.run(tmp_path / "run")
    with (
        lock_folder(tmp_path / "run"),
        pytest.raises(lr.InputError, match="being written by another process"),
    ):
        sweep.run(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text("{")
    with pytest.raises(lr.InputError, match=r"manifest\.json is damaged"):
        lr.read(tmp_path / "run")
    with pytest.raises(lr.InputError, match="is not a run folder"):
        lr.read(tmp_path / "nothing")
    other = lr.Sweep(random_model("qwen3"), tasks, [], protocols=["continuation"], limit=1)
    known = other.run(tmp_path / "b").manifest
    cells = [cell | {"task": "copying"} for cell in known["cells"]]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(known | {"cells": cells}))
    with pytest.raises(lr.InputError, match="the two are of different runs"):
        lr.read(tmp_path / "run")
    for broken in ({"cells": 5}, {"conditions": [5]}, {"model": "llama"}, {"cells": [{}]}):
        text = json.dumps(known | broken)
        (tmp_path / "run" / "manifest.json").write_text(text)
        with pytest.raises(lr.InputError, match=r"manifest\.json is not that of a run"):
            lr.read(tmp_path / "run")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(lr.InputError, match="cannot be written"):
        sweep.run(file / "run")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"limit": 0}, "limit=0"),
        ({"tasks": []}, "at least one task"),
        ({"protocols": ["likelihood"]}, "unknown protocol 'likelihood'"),
        ({"conditions": [lr.Condition({lr.Site(9): lr.Skip()})]}, "layer 9 is out of range"),
    ],
)
def test_invalid_arguments_raise_input_error(
    changed: dict[str, object], line: str, tasks: list[lr.Task]
) -> None:
    given = {"tasks": tasks, "conditions": [], "protocols": ["generation"], "limit": 2} | changed
    with pytest.raises(lr.InputError) as caught:
        lr.Sweep(random_model("llama"), given.pop("tasks"), given.pop("conditions"), **given)
    assert line in str(caught.value)


def test_a_reference_that_is_asked_is_refused(tasks: list[lr.Task]) -> None:
    model = random_model("llama")
    example = tasks[0].examples(4, seed=0)[3]
    as_shot = f"Other words.\n\n{example.prompt} {example.answer}\n\nAnd a question:"
    for text in (example.prompt, f"A shot.\n\n{example.prompt}", as_shot):
        mean = lr.Mean(lr.Reference(["of no task", text]))
        conditions = lr.each_layer(model, mean, layers=[1])
        lr.Sweep(model, tasks, conditions, limit=3)
        with pytest.raises(lr.InputError, match="its reference holds prompts that the sweep asks"):
            lr.Sweep(model, tasks, conditions, limit=4)


def test_a_changed_question_file_is_not_mixed_into_a_run(tmp_path: Path) -> None:
    """Questions without ids are named by their content, so a corrected one is another question."""
    file, model = tmp_path / "mine.jsonl", random_model("llama")
    lines = [f'{{"prompt": "a{n} is", "answer": "b", "family": "language"}}\n' for n in range(12)]

    def run(limit: int) -> lr.SweepResult:
        asked = lr.Sweep(
            model, [lr.task(f"local:{file}")], [], protocols=["answer_logprob"], limit=limit
        )
        return asked.run(tmp_path / "run")

    file.write_text("".join(lines))
    assert len(run(4).frame) == 4
    assert len(run(8).frame) == 8
    assert len(run(4).frame) == 8  # what is stored stays
    file.write_text("".join(line.replace('"b"', '"c"') for line in lines))
    for limit in (8, 4):
        with pytest.raises(lr.InputError, match="its questions have changed"):
            run(limit)
    file.write_text("".join(lines[3:]))
    with pytest.raises(lr.InputError, match="its questions have changed"):
        run(12)
    assert len(lr.read(tmp_path / "run").frame) == 8


def test_an_example_without_choices_cannot_be_chosen_from(tmp_path: Path) -> None:
    file = tmp_path / "open.jsonl"
    file.write_text('{"prompt": "a", "answer": "b", "family": "language"}\n')
    task = lr.task(f"local:{file}")
    with pytest.raises(lr.InputError, match="protocol 'continuation' needs choices"):
        lr.Sweep(random_model("llama"), [task], [], protocols=["continuation"])


def test_numbers_that_are_not_finite_are_not_wrong_answers(
    tasks: list[lr.Task], tmp_path: Path
) -> None:
    model = random_model("llama")
    broken = lr.Condition({lr.Site(1): Scale(float("inf"))}, name="broken")
    frame = lr.Sweep(model, tasks, [broken], limit=2).run(tmp_path / "run").frame
    found = frame[frame.condition == "broken"]
    assert (found.status == "not finite").all()
    assert found.score.isna().all()
    assert found.correct.isna().all()


def test_how_an_answer_fails() -> None:
    right, wrong = Grade(True, True, True), Grade(False, False, True)
    silent = Grade(False, False, False)
    loop = "the cat and the dog " * 8
    assert outcome("  \n", silent, ended=True) == "empty"
    assert outcome("12", right, ended=True) == "correct"
    assert outcome(loop, wrong, ended=False) == "degenerate"
    assert outcome("a b", silent, ended=True) == "no answer"
    assert outcome("a b", silent, ended=False) == "truncated"
    assert outcome("13", wrong, ended=True) == "wrong"
    assert repeated_share(loop) > 0.5
    assert repeated_share("a few words only") == 0


def test_the_lens_ends_in_the_models_own_output(tasks: list[lr.Task]) -> None:
    for architecture in ("llama", "gemma2", "gpt2", "neox"):
        model = random_model(architecture)
        frame = lr.probes.LogitLens().measure(model, tasks, limit=3)
        assert set(frame.layer) == {-1, 0, 1, 2}
        assert len(frame) == 2 * 3 * 4
        last = frame[frame.layer == 2].set_index(["task", "example"]).logprob
        for task in tasks:
            for example in task.examples(3, 0):
                found = lr.Engine(model).loglikelihood([(example.prompt, f" {example.answer}")])
                # " a": the blank is shared by all choices, the letter tells them apart.
                blank = lr.Engine(model).loglikelihood([(example.prompt, " ")])
                expected = found.logprob[0, 0] - blank.logprob[0, 0]
                assert last[task.label, example.id] == pytest.approx(expected, abs=1e-3)


def test_attention_to_the_evidence_equals_a_stored_pattern(tasks: list[lr.Task]) -> None:
    import torch

    model = random_model("llama")
    frame = lr.probes.Attention().measure(model, tasks[:1], limit=3)
    assert len(frame) == 3 * 3 * 4
    for example in tasks[0].examples(3, 0):
        ids = torch.tensor([lr.models.encode(model, example.prompt + " ")])
        with torch.inference_mode():
            _, cache = model.run_with_cache(ids, names_filter=["blocks.1.attn.hook_pattern"])
        start, end = example.evidence[0]  # a token for each character
        share = cache["blocks.1.attn.hook_pattern"][0, 2, -1, start:end].sum()
        mine = frame[(frame.example == example.id) & (frame.layer == 1) & (frame["head"] == 2)]
        assert mine.evidence.item() == pytest.approx(float(share), abs=1e-5)
        assert mine.uniform.item() == pytest.approx((end - start) / ids.shape[1])


def test_probes_of_another_model_are_kept_out_of_a_run(
    tasks: list[lr.Task], tmp_path: Path
) -> None:
    model, lens = random_model("llama"), lr.probes.LogitLens()
    lr.Sweep(model, tasks, [], protocols=["continuation"], limit=1).run(tmp_path)
    frame = lr.probes.measure_into(tmp_path, lens, model, tasks, limit=1)
    with pytest.raises(lr.InputError, match="is of another model: its weights are"):
        lr.probes.measure_into(tmp_path, lens, random_model("qwen3"), tasks, limit=1)
    pd.testing.assert_frame_equal(lr.probes.read_saved(tmp_path)[0], frame)


def test_a_probe_is_kept_and_read_back(
    tasks: list[lr.Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, lens = random_model("llama"), lr.probes.LogitLens()
    first = lr.probes.measure_into(tmp_path, lens, model, tasks, limit=2)
    monkeypatch.setattr(lr.probes.Probe, "measure", None)  # would fail if it measured again
    again = lr.probes.measure_into(tmp_path, lens, model, tasks, limit=2)
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(lr.probes.read_saved(tmp_path)[0], first)
    with pytest.raises(TypeError):  # a larger limit is another measurement
        lr.probes.measure_into(tmp_path, lens, model, tasks, limit=3)


def test_disk_errors_raise_input_error_and_model_errors_pass_through(
    tasks: list[lr.Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = lr.Sweep(random_model("llama"), tasks, [], protocols=["continuation"], limit=1)

    def broken(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lr.Engine, "answer_each", broken)
        with pytest.raises(OSError, match="No space left"):
            sweep.run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", broken)
        with pytest.raises(lr.InputError, match="cannot be written: No space left on device"):
            sweep.run(tmp_path / "run")
    assert len(sweep.run(tmp_path / "run").frame) == 2


def test_an_engine_of_another_model_is_refused(tasks: list[lr.Task]) -> None:
    with pytest.raises(lr.InputError, match="one of another model"):
        lr.Sweep(random_model("llama"), tasks, [], engine=lr.Engine(random_model("qwen3")))


# In a process of its own: here each call's types are checked before it begins.
MISUSED = """
import sys
from dataclasses import dataclass
import layerroles as lr

model, task = lr.load(sys.argv[1]), lr.task("facts")

@lr.ablation("forgetful")
@dataclass(frozen=True)
class Forgetful(lr.Ablation):
    def edit(self, write, ctx):
        write * 2

def forget():
    with lr.ablated(model, lr.Condition({lr.Site(1, "mlp"): Forgetful()})):
        model("a")

skip, engine, lens = lr.each_layer(model, lr.Skip()), lr.Engine(model), lr.probes.LogitLens()
for call in sys.argv[2:]:
    try:
        eval(call)
        print("taken")
    except lr.InputError as error:
        print(error)
"""
# Each call, and what is said of it.
MISUSES = """
lr.Sweep(model, "facts", skip)
    tasks='facts' is one, not several: write ['facts']
lr.Sweep(model, ["facts"], skip)
    'facts' is no task: lr.task('facts') makes one
lr.Sweep(model, task, skip)
    is one, not several: write [
lr.Sweep(model, [task], [lr.Skip()])
    Skip() is no condition: lr.each_layer(model, ablation) makes some,
lr.Sweep(model, [task], skip[0])
    is one, not several: write [
lr.Sweep(model, [task], skip, protocols="continuation")
    protocols='continuation' is one, not several: write ['continuation']
lr.Sweep(model, [task], skip, limit="8")
    limit='8' is no whole number: int(...) makes one
lr.each_layer(model, lr.Skip)
    Skip is a class: write Skip()
forget()
    forgetful on L1.mlp returned None: an edit returns the write, changed or not
engine.loglikelihood(("a", "b"), skip)
    request 0: 'a' is no pair of a context and a continuation, or of a context and options
engine.loglikelihood(["ab"], skip)
    request 0: 'ab' is no pair
engine.loglikelihood([("a", "b"), ("a", "b", "c")], skip)
    request 1: ('a', 'b', 'c') is no pair
engine.loglikelihood(None, skip)
    request 0: None is no pair
engine.loglikelihood([("a", "b")], skip[0])
    conditions=Condition('skip L0') is one, not several: write [Condition('skip L0')]
engine.loglikelihood([("a", "b")], lr.Skip())
    Skip() is no condition: lr.each_layer(model, ablation) makes some,
engine.generate_until(["abc"], skip)
    request 0: 'abc' is no pair
engine.generate_until([("a", None)], skip)
    request 0: None are no options, such as {
engine.generate_until([("a", {3: "."})], skip)
    request 0: unknown option '3', known are until, max_gen_toks
engine.generate_until([("a", {})], [lr.Skip()])
    Skip() is no condition
engine.plan(["abc"], skip)
    request 0: 'abc' is no pair
engine.plan([("a", "b")], None)
    None is no condition
lr.ablated(model, lr.Skip()).__enter__()
    Skip() is no condition
lr.ablated(model, skip).__enter__()
    condition=<3 conditions: skip L0, skip L1, skip L2> is a list: take one of it
lr.AblatedLM(model, {lr.Site(1): lr.Skip()})
    {Site('L1'): Skip()} is no condition
lr.Condition([lr.Site(1)])
    a condition maps sites to ablations: [Site('L1')] is no such map
lr.each_layer(model, lr.Skip(), layers=1)
    layers=1 is one, not several: write [1]
lens.measure(model, task)
    is one, not several: write [Facts(
lens.measure(model, ["facts"])
    'facts' is no task: lr.task('facts') makes one
lens.measure(model, [task], condition=skip)
    condition=<3 conditions: skip L0, skip L1, skip L2> is a list: take one of it
lens.read(model, ["a"], condition=lr.Skip())
    Skip() is no condition
lr.plan_pruning(model, drop=1, tasks=["facts"])
    'facts' is no task
lr.Sweep(model, [task], skip, seed=-1)
    seed=-1 is not a whole number of 0 or more
lr.Sweep(model, [task], skip, seed="a")
    seed='a' is not a whole number of 0 or more
lr.Engine(model, memory=8e9)
    memory=8000000000.0 is not a size: write 8GB, 500MB or whole bytes
lr.Engine(model, memory=[1])
    memory=[1] is not a size
lr.Engine(model, batch_size="16").loglikelihood([("a", "b")])
    batch_size='16' is not a whole number above 0
lr.Engine(model, batch_size=None).loglikelihood([("a", "b")])
    batch_size=None is not a whole number above 0
engine.loglikelihood([("a", "b")], skip, evidence=5)
    evidence=5 is not a list with spans for each request
engine.loglikelihood([("a", "b")], skip, evidence="a")
    evidence='a' is not a list with spans for each request
engine.loglikelihood([("a", "b")], skip, evidence=[5])
    request 0: evidence=5 is not a list of spans
"""


def test_common_misuse_raises_one_line_errors() -> None:
    _, *lines = MISUSES.splitlines()
    calls, messages = lines[::2], map(str.strip, lines[1::2])
    done = subprocess.run(
        [sys.executable, "-c", MISUSED, model_path("llama"), *calls],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for call, expected, line in zip(calls, messages, done.stdout.splitlines(), strict=True):
        assert expected in line, call
