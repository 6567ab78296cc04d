"""Twins are not trained on what they are tested on; swaps build the donor that they describe."""

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import layerroles as lr
from layerroles.tasks import vocabulary
from tests.support.random_models import CONFIGS, model_path, random_model, tokenizer
from tests.support.synthetic import synthetic_result

FOLDER = Path(__file__).resolve().parents[3] / "experiments"
TASK = "word_problems[steps=1,num_fewshot=0]"
TOKENS = torch.tensor([[5, 9, 40, 7, 22, 13, 60, 8]])


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts find each other, as they do when they are run."""
    monkeypatch.syspath_prepend(str(FOLDER))


def run(monkeypatch: pytest.MonkeyPatch, script: str, *given: object) -> None:
    monkeypatch.setattr(sys, "argv", [script, *map(str, given)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / script), run_name="__main__")
    if ended.value.code:
        raise ended.value


def fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *given: object
) -> str:
    """The one-line error of a script."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *given)  # type: ignore[arg-type]
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def skeletons(text: str, vocabulary: set[str]) -> set[str]:
    """The sentences of a text with the drawn words masked."""
    masked = re.sub(
        r"\w+", lambda m: "_" if m[0].isdigit() or m[0].casefold() in vocabulary else m[0], text
    )
    return {part.strip() for part in re.split(r"(?<=[.?])\s", masked)}


def test_held_out_problems_share_no_words_or_sentences_with_lessons() -> None:
    import lessons

    asked = {
        word.casefold() for word in (*vocabulary.NAMES, *vocabulary.THINGS, *vocabulary.PLACES)
    }
    asked |= {"bags", "baskets", "boxes", "jars"}
    taught = {word.casefold() for word in (*lessons.NAMES, *lessons.THINGS, *lessons.PLACES)}
    assert len(taught) == len(lessons.NAMES) + len(lessons.THINGS) + len(lessons.PLACES)
    assert not asked & taught
    problems = lessons.make_problems(600, 0)
    in_lessons = {
        word for one in problems for word in re.findall(r"\w+", one.prompt.casefold())
    } - {"question", "answer"}
    assert not in_lessons & asked
    lesson_skeletons = set().union(
        *(
            skeletons(one.prompt.split("\n")[0].removeprefix("Question: "), taught)
            for one in problems
        )
    )
    held_out = set()
    for level in (1, 2, 3):
        for example in lr.task("word_problems", steps=3, level=level).examples(70, 0):
            text = example.prompt.split("\n")[0].removeprefix("Question: ")
            held_out |= skeletons(text, asked)
            assert not {*re.findall(r"\w+", text.casefold())} & taught
    # As many as there are templates: everything that is drawn was masked.
    kinds = ("OPENINGS", "GAINS", "LOSSES", "PARTS", "BEYOND", "JOINT")
    kinds = (*kinds, "QUESTIONS", "OWNED", "BOTH")
    n_lessons = sum(len(getattr(lessons, kind)) for kind in kinds)
    assert len(lesson_skeletons) == n_lessons
    assert len(held_out) > 400
    assert not lesson_skeletons & held_out


def test_the_solver_is_exact_and_lessons_are_the_same_under_a_seed() -> None:
    import lessons

    problems = lessons.make_problems(200, 3)
    for one in problems:  # nothing is brought to where other things lie already
        places = [word for word in re.findall(r"\w+", one.prompt) if word in lessons.PLACES]
        assert len(places) == len(set(places))
    assert problems[:50] == lessons.make_problems(50, 3)
    assert problems != lessons.make_problems(200, 4)
    assert len({one.prompt for one in problems}) == 200
    signs, kinds = set(), set()
    for one in problems:
        story = one.prompt[slice(*one.evidence[0])]
        first, *others = map(int, re.findall(r"\d+", story))
        steps = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", one.solution)
        number, remaining = first, list(others)
        compared = "on top" in story or "beyond that" in story
        for place, (before, sign, by, after) in enumerate(steps):
            # The second step of a comparison adds the larger number to the smaller one.
            both = compared and place == 1
            assert (int(before), int(by)) == (
                (first, number) if both else (number, remaining.pop(0))
            )
            number = int(before) + int(by) * (1 if sign == "+" else -1)
            assert int(after) == number > 0
            signs.add(sign)
        assert not remaining  # every number was used
        kinds.add((compared, len(steps)))
        assert one.solution.endswith(f" The answer is {number}.") and one.answer == str(number)
        assert lessons.make_story_lesson(one) == lessons.Lesson("Story:", story, one.id)
    assert signs == {"+", "-"}
    assert kinds == {(compared, steps) for compared in (False, True) for steps in (1, 2, 3)}


def test_only_what_is_taught_is_learned() -> None:
    import training
    from lessons import Lesson

    given = [Lesson("Question: 1?\nAnswer:", "One."), Lesson("Q: 2?", "Two, or so.")]
    ids, labels = training.encode_lessons(given, tokenizer())
    assert tokenizer().decode(ids) == "Question: 1?\nAnswer: One.\n\nQ: 2? Two, or so.\n\n"
    assert tokenizer().decode(labels[labels >= 0]) == " One.\n\n Two, or so.\n\n"
    fed = training.make_batches(given * 3, tokenizer(), texts=2, packed=2, seed=0)
    batch = next(fed)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert ((batch["labels"] >= 0) <= (batch["attention_mask"] == 1)).all()
    assert not torch.equal(batch["input_ids"], next(fed)["input_ids"])
    mixed = [Lesson("Q", f"{kind}{n}", kind) for n in range(7) for kind in "xyz"]
    fed = training.make_batches(mixed, tokenizer(), texts=1, packed=3, seed=0)
    for batch, _ in zip(fed, range(9)):  # noqa: B905
        assert len(set(tokenizer().decode(batch["input_ids"][0])) & set("xyz")) == 1


def test_own_solutions_are_those_that_came_out_right(monkeypatch: pytest.MonkeyPatch) -> None:
    import lessons

    problems = lessons.make_problems(60, 1)
    kinds = {one.id: [each for each in problems if each.id == one.id] for one in problems}
    shots = {kind: own[: lessons.SHOTS] for kind, own in kinds.items()}
    asked = [one for one in problems if one not in shots[one.id]]
    assert len(kinds) == 9 and len(asked) > 20

    class Scripted:
        def __init__(self, model: object) -> None: ...

        def generate_until(self, requests: list[tuple[str, Any]]) -> list[list[str]]:
            texts = [text for text, _ in requests]
            assert all(text.endswith(one.prompt) for text, one in zip(texts, asked, strict=True))
            for text, one in zip(texts, asked, strict=True):
                before = [f"{shot.prompt} {shot.solution}" for shot in shots[one.id]]
                assert text.split("\n\n") == [*before, one.prompt]
            return [
                [
                    f" So. The answer is {one.answer}." if place % 2 else " The answer is 999."
                    for place, one in enumerate(asked)
                ]
            ]

    monkeypatch.setattr(lr, "Engine", Scripted)
    found = lessons.make_own_lessons(None, problems)
    assert [one.prompt for one in found] == [one.prompt for one in asked[1::2]]
    assert found[0].target == f"So. The answer is {asked[1].answer}."


@pytest.mark.experiments
def test_twins_are_made_kept_and_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = model_path("llama"), tmp_path / "twins"
    options = ("--model", base, "--steps", 2, "--texts", 1, "--lessons", 12, "--limit", 0)
    options = (*options, "--rate", 0.01, "--out", out)
    run(monkeypatch, "distill.py", *options, "--twin", "solver", "--twin", "control")
    made = json.loads((out / "solver" / "distill.json").read_text(encoding="utf-8"))
    assert made["asked"]["steps"] == len(made["losses"]) == 2
    inputs = AutoTokenizer.from_pretrained(out / "solver")("abc", return_tensors="pt")
    logits = []
    for folder in (base, out / "solver", out / "control"):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.inference_mode():
            logits.append(model(**inputs).logits)
    assert all((logits[0] - each).abs().max() > 1e-3 for each in logits[1:])
    assert (logits[1] - logits[2]).abs().max() > 1e-3

    capsys.readouterr()
    examined = ("--model", base, "--task", TASK, "--limit", 2, "--dtype", "float32")
    examined = (*examined, "--out", tmp_path / "examined")
    run(monkeypatch, "held_out.py", *examined, "--also", out / "solver")
    told = capsys.readouterr().out.split("\n")
    assert told[0] == f"{TASK} by generation:" and told[2].startswith("solver: 0.00 [0.00, ")
    error = fails(monkeypatch, capsys, "held_out.py", *examined, "--also", base)
    assert "--also: the last parts of the models' names must differ" in error

    # Finished twins are reused, but not under other settings.
    weights = out / "solver" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    run(monkeypatch, "distill.py", *options, "--twin", "solver")
    assert weights.stat().st_mtime_ns == before
    error = fails(monkeypatch, capsys, "distill.py", *options, "--twin", "solver", "--seed", 1)
    assert "was made with" in error and "use another --out" in error
    with monkeypatch.context() as patched:
        patched.setattr("lessons.make_own_lessons", lambda base, problems: [])
        error = fails(patched, capsys, "distill.py", *options, "--twin", "self")
    assert "self: 0 lessons are too few" in error
    late = ("--minutes", 0, "--twin", "solver", "--out", tmp_path / "late")
    error = fails(monkeypatch, capsys, "distill.py", *options[:-2], *late)
    assert "more than --minutes 0" in error and not (tmp_path / "late" / "solver").exists()
    assert "--steps is 2 or more" in fails(
        monkeypatch, capsys, "distill.py", *options, "--steps", 1
    )

    asked = ("--task", TASK, "--limit", 4, "--swap-limit", 3, "--parts", 3, "--dtype", "float32")
    asked = (*asked, "--swaps", "single,span,fraction")
    asked = ("--model", base, *asked, "--out", tmp_path / "compared")
    capsys.readouterr()
    named = ("--twin", out / "solver", "--control", out / "control")
    run(monkeypatch, "distillation.py", *asked, *named)
    shown = capsys.readouterr().out
    kept = json.loads((tmp_path / "compared" / "findings.json").read_text(encoding="utf-8"))
    told = "\n".join(kept["findings"])
    assert told in shown
    assert kept["findings"][-1].startswith(
        "Taught against base, under skip alone, each by its own interval, not corrected: mean harm "
        "of solver cannot be compared; "
    )
    assert "mean harm of control" not in told
    for name in ("base", "solver", "control"):
        assert f"the skill of {name} is not measurable" in told
    assert "solver into base (n = 3), what changes the host's score of" in told
    assert (tmp_path / "compared" / "report.html").is_file()
    assert (tmp_path / "compared" / "solver" / "report.html").is_file()
    swaps = pd.read_csv(tmp_path / "compared" / "swaps.csv")
    swaps = swaps[swaps["swap"].str.contains("solver")]
    # Three single layers, as many spans, the first 1, 2, 3 and the last 2, 1; there and back.
    assert len(swaps) == 2 * 11
    assert set(swaps["swap"]) == {"solver into base", "base into solver"}


def test_a_small_step_moves_the_weights_where_passes_are_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = model_path("llama")
    options = ("--model", base, "--steps", 2, "--texts", 1, "--lessons", 12, "--limit", 0)
    options = (*options, "--rate", 2e-5, "--twin", "solver")
    weights = [AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()]
    for dtype in ("float32", "bfloat16"):
        run(monkeypatch, "distill.py", *options, "--dtype", dtype, "--out", tmp_path / dtype)
        made = AutoModelForCausalLM.from_pretrained(tmp_path / dtype / "solver", dtype="auto")
        assert made.dtype == torch.float32
        weights.append(made.state_dict())
    before, exact, half = (
        torch.cat([one[name].flatten() for name in weights[0] if "layers" in name])
        for one in weights
    )
    moved = exact != before
    assert moved.float().mean() > 0.9
    assert (half != before)[moved].float().mean() > 0.9  # 0.1 of them if weights are bfloat16
    assert torch.corrcoef(torch.stack([half - before, exact - before]))[0, 1] > 0.9


def test_twins_are_called_better_by_intervals_that_account_for_templates() -> None:
    """Templates of six questions each; where a model is right is drawn by template."""
    from held_out import describe_base_comparison, list_scores

    rng, names, wrong = np.random.default_rng(0), [f"q{n}" for n in range(200)], 0
    template = np.arange(200) % 34

    def asked(rate: np.ndarray) -> lr.SweepResult:
        frame = pd.DataFrame(
            {
                **{"task": TASK, "family": "reasoning", "protocol": "generation"},
                **dict.fromkeys(("ablation", "at", "site", "part"), ""),
                **{"layer": pd.NA, "head": pd.NA},
                **{"condition": "intact", "example": names, "status": "ok"},
                "score": (rng.random(200) < rate[template]).astype(float),
            }
        )
        clusters = [f"t{place}" for place in template]
        examples = pd.DataFrame(
            {"task": TASK, "example": names, "answer": "7", "guesses": "{}", "cluster": clusters}
        )
        cell = {"task": TASK, "protocol": "generation", "unit": "accuracy"}
        return lr.SweepResult(frame, {"cells": [cell]}, examples)

    for _ in range(40):  # neither is better in truth
        runs = {name: asked(rng.beta(4, 2, 34)) for name in ("base", "twin")}
        wrong += "twin is neither better nor worse" not in describe_base_comparison(runs)
    assert wrong <= 5  # 2 of 40 expected; 8 without clusters
    clear = {"base": asked(np.full(34, 0.2)), "twin": asked(np.full(34, 0.8))}
    assert describe_base_comparison(clear).endswith("twin is better.")
    base, twin, difference = list_scores(clear)
    assert base.endswith("n = 200") and twin.startswith("twin: 0.")
    assert difference.startswith("twin - base: +0.")


@pytest.mark.experiments
def test_changed_taught_twin_is_distinguished_from_its_control(tmp_path: Path) -> None:
    from twins import list_twin_changes

    made = {
        "base": lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(5,), inert=()),
        "taught": lr.planted(n_layers=6, retrieval=(1, 3), reasoning=(4,), inert=(), strength=0.4),
        "other": lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(5,), inert=(), seed=3),
    }
    runs = {
        name: lr.Sweep(
            plant.model,
            [lr.task("planted_chain", strength=0.4 if name == "taught" else 1.0)],
            lr.each_layer(plant.model, lr.Skip()),
            protocols=["generation"],
            limit=40,
            noise_floor=False,
        ).run(tmp_path / name)
        for name, plant in made.items()
    }
    # The same questions under the same name, of which the second model loses fewer.
    runs["taught"].frame["task"] = runs["base"].frame["task"].iloc[0]
    for cell in runs["taught"].manifest["cells"]:
        cell["task"] = runs["base"].manifest["cells"][0]["task"]
    ids = runs["base"].frame["example"].unique()
    theirs = dict(zip(runs["taught"].frame["example"].unique(), ids, strict=True))
    runs["taught"].frame["example"] = runs["taught"].frame["example"].map(theirs)
    runs["taught"] = lr.SweepResult(runs["taught"].frame, runs["taught"].manifest)
    text = "\n".join(list_twin_changes(runs, ["other"], tmp_path))
    assert "mean harm of taught moves down;" in text
    assert "A distilled model reasons more robustly than its base (taught): not shown" in text
    assert "of other" not in text and "not measurable" not in text
    same = "\n".join(
        list_twin_changes({"base": runs["taught"], "more": runs["base"]}, [], tmp_path)
    )
    assert "mean harm of more moves up, against the claim;" in same


def test_layers_that_differ_are_those_of_skip(tmp_path: Path) -> None:
    """Layer 1 differs, under both kinds and with the first token kept; it is named once."""
    from twins import describe_layers

    options = {"n_layers": 6, "n": 200, "ablations": ("mean", "skip")}
    base, twin = (
        synthetic_result(**options, protocols=("generation",), harms={"reasoning": harms})[
            "reasoning"
        ]
        for harms in (
            {at: [0.1, harm, 0.5, 0.9, 0.3, 0.2] for at in ("all", "after_first")}
            for harm in (0.1, 0.9)
        )
    )
    text = describe_layers(base, twin, "twin", tmp_path)
    assert text.endswith("layers whose harms differ, each by its 95% interval: 1")


def test_the_second_kind_is_asked_only_where_skipping_decides() -> None:
    """Mean harms of base and twin: the same with few and with many questions, and lower."""
    from twins import needs_second_kind

    def asked(harm: float, n: int) -> lr.SweepResult:
        given = {"n_layers": 6, "n": n, "ablations": ("skip",), "protocols": ("generation",)}
        harms = {"reasoning": {"all": [harm] * 6}}
        return synthetic_result(**given, harms=harms)["reasoning"]

    assert not needs_second_kind({"base": asked(0.5, 16), "twin": asked(0.5, 16)})
    assert needs_second_kind({"base": asked(0.5, 2000), "twin": asked(0.5, 2000)})  # shown not
    assert needs_second_kind({"base": asked(0.9, 200), "twin": asked(0.1, 200)})  # shown
    both = {"base": asked(0.9, 200), "other": asked(0.9, 8), "twin": asked(0.1, 200)}
    assert needs_second_kind(both)


def test_all_layers_and_the_ends_make_the_donor(tmp_path: Path) -> None:
    from swapping import make_swaps

    base, twin = random_model("llama"), random_model("llama", seed=1)
    one, two = (
        AutoModelForCausalLM.from_pretrained(model_path("llama", seed), attn_implementation="eager")
        for seed in (0, 1)
    )
    back = make_swaps(twin, base, ["fraction", "span", "single"], 3)
    assert list(back)[:6] == ["L0", "L1", "L2", "L0:1", "L1:2", "L2:3"]
    assert list(back)[6:] == ["first 1", "first 2", "first 3", "last 2", "last 1"]
    # The base's first layer and the twin's others, with the twin's ends.
    two.model.layers[0].load_state_dict(one.model.layers[0].state_dict())
    with torch.inference_mode():
        with lr.ablated(twin, back["first 1"]):
            torch.testing.assert_close(twin(TOKENS), two(TOKENS).logits, atol=1e-5, rtol=1e-5)
        # All layers of the base with the twin's ends; then all of the twin's put back into that.
        two.model.layers.load_state_dict(one.model.layers.state_dict())
        two.save_pretrained(tmp_path)
        tokenizer().save_pretrained(tmp_path)
        between = lr.load(tmp_path, dtype="float32")
        with lr.ablated(twin, back["first 3"]):
            assert torch.equal(twin(TOKENS), between(TOKENS))
        intact = twin(TOKENS)
        with lr.ablated(between, make_swaps(between, twin, ["fraction"], 3)["first 3"]):
            assert torch.equal(between(TOKENS), intact)


def test_a_donor_of_another_shape_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = LlamaConfig(**CONFIGS["llama"].to_diff_dict() | {"num_hidden_layers": 2})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "two")
    tokenizer().save_pretrained(tmp_path / "two")
    given = ("--model", model_path("llama"), "--task", TASK, "--limit", 2, "--dtype", "float32")
    given = ("distillation.py", *given, "--out", tmp_path / "out")
    error = fails(monkeypatch, capsys, *given, "--twin", tmp_path / "two")
    assert "cannot be a donor" in error and "num_hidden_layers is 2 there and 3 here" in error
    assert "name at least one --twin" in fails(monkeypatch, capsys, *given)
    error = fails(monkeypatch, capsys, *given, "--twin", "x", "--swaps", "all")
    assert "known are single, span, fraction" in error
    assert "there is no such folder" in fails(monkeypatch, capsys, *given, "--twin", "no-such")
