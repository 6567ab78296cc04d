"""How an answer fails: form apart from skill, repetition, coherence; the noise floor and chance."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import layerroles as lr
from layerroles.ablations import INTACT
from layerroles.engine import Score, Scored, Writing
from layerroles.models.loading import encode
from layerroles.protocols import Answer, Asked, LikelihoodProtocol
from layerroles.protocols.failure_modes import (
    distinct_share,
    is_in_form,
    make_details,
    repeated_share,
)
from layerroles.protocols.thinking_parser import Reply
from layerroles.tasks import Grade
from tests.support.random_models import random_model


@pytest.fixture(autouse=True)
def nothing_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """All questions of these short files are asked."""
    monkeypatch.setattr("layerroles.tasks.task_base_classes.n_reserved", lambda n: 0)


def questions(folder: Path, n: int = 6) -> lr.Task:
    file = folder / "questions.jsonl"
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"{i}: which letter?",
            "answer": "abcdef"[i % 6],
            "choices": ["abcdef"[i % 6], "?"],
            "family": "knowledge",
        }
        for i in range(n)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lr.task(f"local:{file}", max_gen_toks=8)


class Wordy(lr.Engine):
    """Writes the right answer; under any condition always with a word more."""

    def __init__(self, model: Any, answers: dict[tuple[int, ...], str], broken: str) -> None:
        super().__init__(model)
        self.answers = answers
        self.broken = broken

    def answer_each(
        self, asked: Sequence[Any], conditions: Sequence[lr.Condition]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        if isinstance(asked[0][0], Scored):  # coherence
            yield from super().answer_each(asked, conditions)
            return
        for which, requests in enumerate(asked):
            for place, condition in enumerate(conditions):
                form = "{}" if condition == INTACT else self.broken
                texts = [form.format(self.answers[request.context]) for request in requests]
                yield (
                    which,
                    place,
                    [
                        Writing(text, 9, True, True, True, tuple(encode(self.model, text)))
                        for text in texts
                    ],
                )


@pytest.mark.parametrize("broken", ["Surely {}", "{} indeed"])
@pytest.mark.parametrize("name", ["local", "kv_retrieval", "word_problems"])
def test_a_model_that_adds_a_word_loses_the_format_and_not_the_skill(
    name: str, broken: str, tmp_path: Path
) -> None:
    model = random_model("llama")
    made = {
        "local": questions(tmp_path),
        "kv_retrieval": lr.task("kv_retrieval", pairs=4),
        "word_problems": lr.task("word_problems", steps=1, num_fewshot=0),
    }
    task = made[name]
    examples = task.examples(6, 0)
    answers = {tuple(encode(model, e.context(worked=True))): f" {e.answer}" for e in examples}
    (skip,) = lr.each_layer(model, lr.Skip(), layers=[1])
    engine = Wordy(model, answers, broken)
    sweep = lr.Sweep(model, [task], [skip], protocols=["generation"], limit=6, engine=engine)
    frame = sweep.run(tmp_path / "run").frame.set_index("condition")
    intact, hurt = frame.loc["intact"], frame.loc[skip.name]
    assert intact.correct.all() and intact.strict.all() and intact.form.all()
    assert hurt.correct.all()
    assert (hurt.score == 1).all() and (hurt.outcome == "correct").all()
    assert not hurt.strict.any()
    assert not hurt.form.any()


def test_the_form_of_wrong_answers() -> None:
    facts = lr.task("facts")
    example = dataclasses.replace(facts.examples(1, 0)[0], answer="Rome", choices=("Rome", "Bonn"))
    example = dataclasses.replace(example, shots=())
    for response, form in [
        (" Rome", True),
        (" Bonn.", True),
        (" Rome, of course", False),
        (" well Bonn", False),
        ("", False),
    ]:
        assert facts.grade(response, example).form is form
    numbers, values = lr.task("word_problems"), lr.task("kv_retrieval")
    sum_of = lr.Example("x", "p", "7")
    for response, form in [
        (" 3 + 4 = 8. The answer is 8.", True),
        (" 8", True),
        (" So it is 7", False),
    ]:
        assert numbers.grade(response, sum_of).form is form
    value = lr.Example("x", "p", '"river"')
    for response, form in [(' "lamp"', True), (" lamp", False), (' a "river"', False)]:
        assert values.grade(response, value).form is form
    assert values.grade(' a "river"', value).flexible
    assert not values.grade(' a "lamp" or river', value).flexible


def test_form_where_the_task_does_not_say() -> None:
    strict, loose, wrong = (
        Grade(True, True, True),
        Grade(False, True, True),
        Grade(False, False, True),
    )
    assert is_in_form(strict, "correct")
    assert not is_in_form(loose, "correct")
    assert is_in_form(wrong, "wrong")
    kept = dataclasses.replace(wrong, form=True)
    for outcome in ("empty", "no answer", "truncated", "degenerate"):
        assert not is_in_form(kept, outcome)  # type: ignore[arg-type]  # a string


def test_repetition_and_distinct_runs() -> None:
    assert repeated_share("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_share("a b c") == 0
    assert distinct_share("a b a b", 1) == 0.5
    assert distinct_share("a b a b", 2) == pytest.approx(2 / 3)
    assert distinct_share("a", 2) is None


class OneAfterTheOther(lr.Engine):
    """Holds the memory of one question at a time."""

    asking = False

    def answer_each(
        self, asked: Sequence[Any], conditions: Sequence[lr.Condition]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        assert not self.asking
        self.asking = True
        yield from super().answer_each(asked, conditions)
        self.asking = False


def test_details_of_what_was_written() -> None:
    text = "a b c d a b c d"
    expected = {
        "repetition": repeated_share(text),
        "distinct_1": 0.5,
        "distinct_2": distinct_share(text, 2),
    }
    assert make_details(text, Reply(text, "", None)) == expected
    assert make_details(text, Reply("d", "a b", True)) == {**expected, "thinking": "a b"}


def test_coherence_is_what_the_intact_model_thinks_of_a_text(tmp_path: Path) -> None:
    model = random_model("llama")
    task = questions(tmp_path)
    (skip,) = lr.each_layer(model, lr.Skip(), layers=[1])
    sweep = lr.Sweep(
        model,
        [task],
        [skip],
        protocols=["generation", "letter"],
        limit=6,
        coherence=True,
        engine=OneAfterTheOther(model),
    )
    frame = sweep.run(tmp_path / "run").frame
    frame = frame[(frame.protocol == "generation") & (frame.condition == skip.name)]
    contexts = {example.id: example.context(worked=True) for example in task.examples(6, 0)}
    n_scored = 0
    for row in frame.itertuples():
        details = json.loads(row.details)
        assert {"repetition", "distinct_1", "distinct_2"} <= set(details)
        if not row.response.strip() or row.n_tokens != len(row.response):
            continue  # it ended with a token that is not in the text
        found = lr.Engine(model, executor="plain").score(
            [
                Scored(
                    tuple(encode(model, contexts[row.example])), tuple(encode(model, row.response))
                )
            ],
            [INTACT],
        )[0][0]
        assert details["coherence"] == pytest.approx(found.logprob / found.n_tokens, abs=1e-4)
        n_scored += 1
    assert n_scored
    off = lr.Sweep(model, [task], [skip], protocols=["generation"], limit=6)
    frame = off.run(tmp_path / "off").frame
    assert not frame.details.str.contains("coherence").any()


def test_the_noise_floor_of_every_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = random_model("llama"), questions(tmp_path)
    protocols = ["continuation", "generation", "answer_logprob"]

    def sweep(limit: int, **options: bool) -> lr.Sweep:
        return lr.Sweep(model, [task], [], protocols=protocols, limit=limit, **options)

    result = sweep(5).run(tmp_path / "run")
    floors = result.manifest["noise_floor"]
    assert [(f["task"], f["protocol"], f["n"]) for f in floors] == [
        (task.label, name, 5) for name in protocols
    ]
    for floor in floors:
        own = result.frame[result.frame.protocol == floor["protocol"]]
        assert floor["intact"] == pytest.approx(own.score.mean())
        assert floor["score"] == pytest.approx(own.score.mean(), abs=1e-4)
        assert 0 <= floor["n_changed"] <= 5
    asked: list[int] = []
    own_answer = lr.Engine.answer_each

    def counted(engine: lr.Engine, requests: Any, conditions: Any) -> Any:
        asked.append(len(requests[0]))
        return own_answer(engine, requests, conditions)

    monkeypatch.setattr(lr.Engine, "answer_each", counted)
    again = sweep(5).run(tmp_path / "run")
    assert asked == []
    assert again.manifest["noise_floor"] == floors
    larger = sweep(6).run(tmp_path / "run")
    assert [floor["n"] for floor in larger.manifest["noise_floor"]] == [6, 6, 6]
    assert max(asked) <= 4 * 2  # by fours, of two choices
    asked.clear()
    assert sweep(3).run(tmp_path / "run").manifest["noise_floor"] == larger.manifest["noise_floor"]
    assert asked == []
    off = sweep(5, noise_floor=False).run(tmp_path / "off")
    assert off.manifest["noise_floor"] == []


def test_answers_that_change_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = random_model("llama"), questions(tmp_path)
    own = lr.Engine.answer_each

    def shifted(engine: lr.Engine, requests: Any, conditions: Any) -> Any:
        for which, place, found in own(engine, requests, conditions):
            if len(requests[0]) == 4:  # another batch shape
                found = [dataclasses.replace(one, logprob=one.logprob * 1.1) for one in found]
            yield which, place, found

    monkeypatch.setattr(lr.Engine, "answer_each", shifted)
    sweep = lr.Sweep(model, [task], [], protocols=["answer_logprob"], limit=6)
    (floor,) = sweep.run(tmp_path / "run").manifest["noise_floor"]
    assert (floor["n"], floor["n_changed"]) == (6, 4)  # the two that are left are asked together
    assert floor["score"] < floor["intact"]


class Guess(LikelihoodProtocol):
    """An accuracy whose chance cannot be stated; shuffling the answers gives .25."""

    name = "guess"  # type: ignore[assignment]  # not registered

    def check(self, example: lr.Example) -> None: ...

    def context(self, example: lr.Example) -> str:
        return example.prompt

    def chance(self, examples: Sequence[lr.Example]) -> float | None:
        return None

    def continuations(self, example: lr.Example) -> list[str]:
        return [f" {example.answer}"]

    def judge(self, example: lr.Example, scores: list[Score]) -> Answer:
        return Answer(1.0, True, None, "correct", "", "ok", False, 1)

    def prepare(self, engine: Any, task: Any, examples: Any, *, chat: bool = False) -> Asked:
        made = super().prepare(engine, task, examples, chat=chat)
        return Shuffled(made)


class Shuffled(Asked):
    apart = True

    def __init__(self, made: Asked) -> None:
        self.made, self.requests = made, made.requests

    def judge(self, results: Sequence[Any]) -> list[Answer]:
        return self.made.judge(results)

    def shuffled(self, results: Sequence[Any]) -> float | None:
        assert len(results) == len(self.requests)
        return 1 / len(results)


def test_chance_is_estimated_where_it_cannot_be_stated(tmp_path: Path) -> None:
    model, task = random_model("llama"), questions(tmp_path)

    def run(limit: int, **options: bool) -> lr.SweepResult:
        sweep = lr.Sweep(model, [task], [], protocols=[Guess()], limit=limit, **options)
        return sweep.run(tmp_path / "run")

    # A larger limit estimates it again, a smaller one changes nothing.
    for limit, n in [(5, 5), (5, 5), (6, 6), (4, 6)]:
        (cell,) = run(limit, noise_floor=limit != 5).manifest["cells"]
        assert (cell["chance"], cell["chance_from"]) == (1 / n, "shuffled answers")
    assert run(6).intact().chance.item() == pytest.approx(1 / 6)


def test_a_judge_that_returns_no_answer_raises_a_one_line_error(tmp_path: Path) -> None:
    class Silent(Guess):
        def prepare(self, engine: Any, task: Any, examples: Any, *, chat: bool = False) -> Asked:
            made = super().prepare(engine, task, examples, chat=chat)
            made.judge = lambda results: [None for _ in results]  # type: ignore[method-assign]
            return made

    sweep = lr.Sweep(random_model("llama"), [questions(tmp_path)], [], protocols=[Silent()])
    with pytest.raises(lr.InputError, match=r"^protocol 'guess': judge returned None, which is no"):
        sweep.run(tmp_path / "run")


def test_a_task_may_bring_its_own_protocol(tmp_path: Path) -> None:
    made = questions(tmp_path)

    class Own(type(made)):  # type: ignore[misc]
        protocol = Guess()

        label = "own"

        name = "own"

    task = Own(made.path, max_gen_toks=8)
    sweep = lr.Sweep(random_model("llama"), [task, made], [], protocols=["letter"])
    assert [cell.names for cell in sweep.cells] == [("own", "guess"), (made.label, "letter")]
