"""Protocols: labels, norms, chains of thought, plain texts, one item under all of them."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import layerroles as lr
from layerroles.engine import Score
from layerroles.protocols import Continuation, Generation, protocol
from layerroles.protocols.chain_logprob import split_steps
from layerroles.protocols.text_logprob import split_windows
from layerroles.tasks import Example
from tests.support.random_models import random_model

# As in MMLU: a question, four choices; and a solution that shows the way.
ITEM = {
    "prompt": "Which is odd?\nAnswer:",
    "answer": "7",
    "choices": ["4", "7", "12 or 8", "six"],
    "solution": "4 and 8 are even. So is 6.\nThe answer is 7.",
    "family": "knowledge",
}
EVERY = [
    "letter",
    "continuation",
    "continuation[norm=token]",
    "continuation[norm=byte]",
    "continuation[norm=unconditional]",
    "exact",
    "generation",
    "answer_logprob",
    "chain_logprob",
]


@pytest.fixture
def task(tmp_path: Path) -> lr.Task:
    file = tmp_path / "mmlu.jsonl"
    other = {**ITEM, "prompt": "Which is a prime?\nAnswer:"}
    file.write_text("".join(json.dumps(item) + "\n" for item in (ITEM, other)))
    return lr.task(f"local:{file}", max_gen_toks=4)


def test_one_item_under_every_protocol(task: lr.Task, tmp_path: Path) -> None:
    model = random_model("llama")
    conditions = lr.each_layer(model, lr.Skip(), layers=[1])
    found = [
        lr.Sweep(
            model,
            [task],
            conditions,
            protocols=EVERY,
            engine=lr.Engine(model, executor=name),  # type: ignore[arg-type]  # a string
        ).run(tmp_path / name)
        for name in ("plain", "auto")
    ]
    plain, auto = (each.frame.set_index(["condition", "protocol"]) for each in found)
    assert set(plain.xs("intact").index) == set(EVERY)
    assert len(plain) == 2 * 2 * len(EVERY)
    assert (plain.status == "ok").all()
    assert plain.response.tolist() == auto.response.tolist()
    np.testing.assert_allclose(plain.score, auto.score, atol=1e-4)
    units = {cell["protocol"]: cell["unit"] for cell in found[0].manifest["cells"]}
    assert units["chain_logprob"] == units["answer_logprob"] == "nats per token"
    assert units["continuation[norm=byte]"] == "accuracy"
    assert set(found[0].effects().protocol) == set(EVERY)


def test_norms_follow_their_definitions(task: lr.Task) -> None:
    model = random_model("llama")
    engine = lr.Engine(model)
    (example,) = task.examples(1, 0)
    texts = [f" {choice}" for choice in example.choices]
    after = engine.loglikelihood([(example.prompt, text) for text in texts])
    alone = engine.loglikelihood([("", text) for text in texts])
    n_bytes = [len(choice.encode()) for choice in example.choices]
    expected = {
        "sum": after.logprob[0],
        "token": after.logprob[0] / after.n_tokens,
        "byte": after.logprob[0] / n_bytes,
        "unconditional": after.logprob[0] - alone.logprob[0],
    }
    for norm, compared in expected.items():
        asked = Continuation(norm=norm).prepare(engine, task, [example])
        (found,) = engine.score(asked.requests, [lr.Condition({})])
        (answer,) = asked.judge(found)
        assert answer.response == example.choices[int(compared.argmax())]
        margin = compared[1] - np.delete(compared, 1).max()
        assert answer.details["margin"] == pytest.approx(margin, abs=1e-4)
        assert answer.details["logprobs"] == pytest.approx(after.logprob[0].tolist(), abs=1e-4)


def test_a_norm_decides_which_choice_wins(task: lr.Task) -> None:
    (example,) = task.examples(1, 0)
    example = replace(example, choices=("é", "abcd"), answer="abcd")

    def winner(norm: str, *numbers: tuple[float, int]) -> str:
        scores = [Score(nats, False, n, True, False) for nats, n in numbers]
        return Continuation(norm=norm).judge(example, scores).response

    both = (-3.0, 1), (-5.0, 2)
    assert winner("sum", *both) == "é"
    assert winner("token", *both) == "abcd"
    assert winner("byte", (-3.0, 1), (-5.9, 2)) == "abcd"  # two bytes against four
    assert winner("byte", (-3.0, 1), (-6.1, 2)) == "é"
    assert winner("unconditional", *both, (-4.0, 1), (-9.0, 2)) == "abcd"


def test_labels_and_parameters() -> None:
    assert protocol("continuation").label == "continuation"
    assert protocol("continuation[norm=byte]") == Continuation(norm="byte")
    assert protocol("continuation", norm="byte").label == "continuation[norm=byte]"
    assert protocol("generation[max_gen_toks=7]") == Generation(max_gen_toks=7)
    for label, line in [
        ("continuation[norm=bits]", "norm='bits' is unknown: known are sum, token, byte, uncond"),
        ("continuation[by=byte]", "protocol 'continuation' has no parameter 'by': known are norm"),
        ("continuation[byte]", "parameter 'byte' is not of the form key=value"),
        ("letter[norm=sum]", "has no parameter 'norm': known are none"),
        ("continuations", "unknown protocol 'continuations': did you mean 'continuation'"),
        ("generation[max_gen_toks=-1]", "max_gen_toks=-1 is not a whole number from 0 to"),
    ]:
        with pytest.raises(lr.InputError) as caught:
            protocol(label)
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)


def test_protocols_may_be_given_as_such(task: lr.Task, tmp_path: Path) -> None:
    both = [Continuation(norm="byte"), "continuation[norm=byte]", "continuation"]
    sweep = lr.Sweep(random_model("llama"), [task], [], protocols=both)
    assert [cell.names[1] for cell in sweep.cells] == ["continuation[norm=byte]", "continuation"]


def test_a_solution_is_parted_into_steps() -> None:
    text = "2 + 3.5 = 5.5. So far!  Then\n\n5.5 - 1 = 4.5.\nThe answer is 4.5."
    assert split_steps(text) == [
        " 2 + 3.5 = 5.5.",
        " So far!",
        "  Then",
        "\n\n5.5 - 1 = 4.5.",
        "\nThe answer is 4.5.",
    ]
    assert "".join(split_steps(text)) == f" {text}"


def test_steps_add_up_to_the_whole_chain(task: lr.Task) -> None:
    model = random_model("llama")
    engine = lr.Engine(model)
    (example,) = task.examples(1, 0)
    asked = protocol("chain_logprob").prepare(engine, task, [example])
    (found,) = engine.score(asked.requests, [lr.Condition({})])
    (answer,) = asked.judge(found)
    whole = engine.loglikelihood([(example.prompt, f" {example.solution}")])
    # Tokens are characters here: none merges at a seam.
    assert answer.n_tokens == whole.n_tokens[0]
    assert answer.score * answer.n_tokens == pytest.approx(whole.logprob[0, 0], abs=1e-3)
    assert len(answer.details["steps"]) == 3
    sums = [s * score.n_tokens for s, score in zip(answer.details["steps"], found, strict=True)]
    assert sum(sums) == pytest.approx(answer.score * answer.n_tokens)


def test_a_chain_needs_a_solution(tmp_path: Path) -> None:
    with pytest.raises(lr.InputError, match="'chain_logprob' needs worked solutions, and example"):
        lr.Sweep(random_model("llama"), [lr.task("facts")], [], protocols=["chain_logprob"])


@pytest.mark.parametrize("name", ["continuation", "letter"])
@pytest.mark.parametrize(("choices", "how_many"), [((), "none"), (("7",), "only one")])
def test_choosing_needs_two_choices(name: str, choices: tuple[str, ...], how_many: str) -> None:
    with pytest.raises(lr.InputError) as caught:
        protocol(name).check(Example("1", "Which is odd?", "7", choices=choices))
    assert str(caught.value) == (
        f"protocol {name!r} needs choices, and example '1' has {how_many}: "
        f"use generation, exact or answer_logprob"
    )


def test_plain_text_is_asked_under_its_own_protocol(tmp_path: Path) -> None:
    model = random_model("llama")
    file = tmp_path / "texts.txt"
    file.write_text("A short text.\n\n" + "Another, longer than its model. " * 20 + "\n\n\nÄhm\n")
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps(ITEM))
    tasks = [lr.task("plain_text", path=str(file)), lr.task(f"local:{questions}")]
    conditions = lr.each_layer(model, lr.Skip(), layers=[1])
    result = lr.Sweep(model, tasks, conditions, protocols=["letter"]).run(tmp_path / "run")
    frame = result.frame[result.frame.task == tasks[0].label]
    assert set(frame.protocol) == {"text_logprob"}
    assert set(result.frame.protocol) == {"text_logprob", "letter"}
    assert (frame.score < 0).all()
    cell = next(c for c in result.manifest["cells"] if c["protocol"] == "text_logprob")
    assert (cell["unit"], cell["chance"], cell["family"]) == ("nats per byte", None, "language")
    with pytest.raises(lr.InputError, match="'text_logprob' scores plain texts, and example"):
        lr.Sweep(model, tasks, [], protocols=["text_logprob"])


def test_a_long_text_is_scored_in_the_windows_of_lm_eval() -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    for n in (1, 8, 9, 16, 17, 23, 40):
        ids = list(range(100, 100 + n))
        theirs = [
            make_disjoint_window(pair)
            for pair in get_rolling_token_windows(ids, 1, max_seq_len=8, context_len=1)
        ]
        mine = [
            (list(each.context), list(each.continuation)) for each in split_windows((1,), ids, 9)
        ]
        assert mine == theirs
        assert [token for _, new in mine for token in new] == ids


def test_nats_per_byte_of_a_text() -> None:
    model = random_model("llama")
    task = lr.task("plain_text")
    (example,) = task.examples(1, 0)
    engine = lr.Engine(model)
    asked = protocol("text_logprob").prepare(engine, task, [example])
    assert len(asked.requests) == 2  # its characters are tokens, more than the model reads at once
    (found,) = engine.score(asked.requests, [lr.Condition({})])
    (answer,) = asked.judge(found)
    assert answer.n_tokens == len(example.answer)
    whole = engine.loglikelihood([("", example.answer[:255])])
    assert found[0].logprob == pytest.approx(whole.logprob[0, 0], abs=1e-3)
    assert answer.score == pytest.approx(answer.details["nats"] / len(example.answer.encode()))


def test_passages_of_the_package() -> None:
    task = lr.task("plain_text")
    examples, apart = task.examples(99, 0), task.held_out(99, 0)
    assert (len(examples), len(apart)) == (32, 8)
    assert not {example.answer for example in examples} & set(apart)
    assert all(60 <= len(example.answer.split()) <= 120 for example in examples)
    assert task.examples(5, 0) == examples[:5] != task.examples(5, 1)
    assert all(first != second for first, second in pairwise(task.examples(9, 0)))


def test_a_text_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "coded.txt").write_bytes(b"caf\xe9")
    for name, line in [
        ("empty.txt", "holds no text"),
        ("none.txt", "cannot be read: No such file"),
        ("coded.txt", "cannot be read: it is not UTF-8"),
    ]:
        with pytest.raises(lr.InputError, match=line) as caught:
            lr.task("plain_text", path=str(tmp_path / name))
        assert name in str(caught.value)


def test_a_reference_of_passages_that_are_asked_is_refused() -> None:
    model = random_model("llama")
    (text, *_) = lr.task("plain_text").examples(1, 0)
    conditions = lr.each_layer(model, lr.Mean(lr.Reference([text.answer[:99]])), layers=[1])
    lr.Sweep(model, [lr.task("plain_text")], conditions)
    conditions = lr.each_layer(model, lr.Mean(lr.Reference([text.answer])), layers=[1])
    with pytest.raises(lr.InputError, match="its reference holds prompts that the sweep asks"):
        lr.Sweep(model, [lr.task("plain_text")], conditions)


def test_the_steps_of_a_chain_in_a_chat_join_to_the_solution() -> None:
    example = Example(id="1", prompt="Q", answer="17", solution="10 + 7 = 17. The answer is 17.")
    pairs = protocol("chain_logprob").pairs(example, "CTX\n", chat=True)  # type: ignore[attr-defined]
    assert pairs == [
        ("CTX\n", "10 + 7 = 17."),
        ("CTX\n10 + 7 = 17.", " The answer is 17."),
    ]


@pytest.mark.parametrize("template", range(1, 4))
@pytest.mark.parametrize("name", ["kv_retrieval", "facts", "word_problems", "copying"])
def test_letters_follow_the_question_without_the_cue_of_its_wording(
    name: str, template: int
) -> None:
    for example in lr.task(name, template=template, num_fewshot=1).examples(8, 0):
        letter = protocol("letter")
        context = letter.context(example)
        question = context.rsplit("\n\n", 1)[-1].split("\nA. ")[0]
        assert not question.endswith(":"), question
        assert question == example.prompt[: len(question)]
        spans = letter.evidence(example)
        assert spans is not None
        assert [context[slice(*span)] for span in spans] == [
            example.prompt[slice(*span)] for span in example.evidence
        ]


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("kv_retrieval", ':\nA. "'),
        ("facts", " as\nA. "),
        ("word_problems", "?\nA. "),
        ("copying", "\nCopy of the text:\nA. "),
    ],
)
def test_letters_follow_the_default_wording_as_before(name: str, end: str) -> None:
    (example,) = lr.task(name).examples(1, 0)
    assert end in protocol("letter").context(example)
