"""Chat: templates, turns, one BOS token, thinking that is stripped."""

import json
from pathlib import Path
from shutil import copytree

import pytest
from tokenizers.processors import TemplateProcessing
from transformer_lens.model_bridge import TransformerBridge

import layerroles as lr
from layerroles.engine import Writing
from layerroles.models.loading import encode
from layerroles.protocols import PROTOCOLS, LikelihoodProtocol, Turn, protocol
from layerroles.protocols.generation import AskedWritings
from layerroles.protocols.prompt_format import apply_template, join_turns
from layerroles.protocols.thinking_parser import Reply, opens_thinking, split_thinking
from tests.support.random_models import model_path, random_model, tokenizer

# Written here once, so that a tokenizer which adds BOS would write it twice.
TEMPLATE = (
    "<bos>{% for message in messages %}[{{ message.role }}]{{ message.content | trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
ROWS = [
    {
        "id": f"q{i}",
        "prompt": f"{letter}{i}: which letter?\nAnswer:",
        "answer": letter,
        "choices": [letter, "?"],
        "evidence": [f"{letter}{i}"],
        "solution": f"It is {letter}. The answer is {letter}.",
        "family": "retrieval",
    }
    for i, letter in enumerate("abcd")
]


def chatty(folder: Path, template: str = TEMPLATE) -> TransformerBridge:
    copytree(model_path("llama"), folder)
    own = tokenizer()
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    own.chat_template = template
    own.save_pretrained(folder)
    return lr.load(folder, dtype="float32")


@pytest.fixture
def task(tmp_path: Path) -> lr.Task:
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return lr.task(f"local:{file}", max_gen_toks=4, num_fewshot=1)


def test_shots_become_turns(task: lr.Task, tmp_path: Path) -> None:
    model = chatty(tmp_path / "model")
    example = task.examples(1, 0)[0]
    (shot,) = example.shots
    shown = {
        "continuation": shot.answer,
        "exact": shot.answer,
        "answer_logprob": shot.answer,
        "generation": shot.solution,
        "chain_logprob": shot.solution,
    }
    for name, reply in shown.items():
        assert protocol(name).prompt(model, example, chat=True) == (
            f"<bos>[user]{shot.prompt}\n[assistant]{reply}\n[user]{example.prompt}\n[assistant]\n"
        )
        assert protocol(name).context(example) == f"{shot.prompt} {reply}\n\n{example.prompt}"
    turns = protocol("letter").turns(example)
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    assert turns[0].text.endswith(f"letter?\nA. {shot.answer}\nB. ?\nAnswer:")
    assert turns[1].text == "A"
    assert join_turns(turns) == protocol("letter").context(example)


def test_continuations_lose_their_space_and_evidence_is_found(
    task: lr.Task, tmp_path: Path
) -> None:
    model = chatty(tmp_path / "model")
    engine = lr.Engine(model)
    examples = task.examples(4, 0)
    decode = model.tokenizer.decode
    names = ("continuation", "letter", "exact", "generation", "answer_logprob", "chain_logprob")
    for name in names:
        asked = protocol(name).prepare(engine, task, examples, chat=True)
        for request in asked.requests:
            assert request.context[0] == 1 != request.context[1]
            assert request.evidence
            shown = decode([request.context[place] for place in request.evidence])
            assert shown in {row["evidence"][0] for row in ROWS}
    asked = protocol("continuation").prepare(engine, task, examples[:1], chat=True)
    # As in lm-eval: the blank at the seam, here a new line, is scored with the continuation.
    texts = [decode(list(request.continuation)) for request in asked.requests]
    assert texts == [f"\n{choice}" for choice in examples[0].choices]
    (asked,) = [protocol("generation").prepare(engine, task, examples[:1], chat=True)]
    assert asked.requests[0].until == ()


def test_a_text_that_begins_with_bos_gets_no_other(tmp_path: Path) -> None:
    model = chatty(tmp_path / "model")
    assert encode(model, "ab")[0] == 1
    assert encode(model, "<bos>ab") == encode(model, "ab")


def test_a_chat_is_a_run_of_its_own(task: lr.Task, tmp_path: Path) -> None:
    model = chatty(tmp_path / "model")
    conditions = [
        lr.Condition({lr.Site(1): lr.Skip()}),
        lr.Condition({lr.Site(1): lr.Zero()}, at="evidence"),
    ]
    protocols = ["continuation[norm=token]", "generation"]
    sweep = lr.Sweep(model, [task], conditions, protocols=protocols, chat=True)
    result = sweep.run(tmp_path / "run")
    assert result.manifest["chat"] is True
    assert len(result.frame) == 3 * 2 * 4
    assert (result.frame.status == "ok").all()
    plain = lr.Sweep(model, [task], conditions, protocols=protocols)
    with pytest.raises(lr.InputError, match="its chat is True"):
        plain.run(tmp_path / "run")
    plain.run(tmp_path / "plain")
    with pytest.raises(lr.InputError, match="its chat is False"):
        sweep.run(tmp_path / "plain")


def test_missing_or_failing_chat_template_raises(task: lr.Task, tmp_path: Path) -> None:
    with pytest.raises(lr.InputError, match="has no chat template: leave chat out, or") as caught:
        lr.Sweep(random_model("llama"), [task], [], chat=True)
    assert "\n" not in str(caught.value)
    strict = "{{ raise_exception('alternate,\nplease') }}"
    with pytest.raises(lr.InputError, match="does not take these turns") as caught:
        apply_template(chatty(tmp_path / "model", strict), [Turn("user", "a")])
    assert "\n" not in str(caught.value)


def test_a_protocol_with_a_context_only_is_one_turn(task: lr.Task, tmp_path: Path) -> None:
    class Loud(LikelihoodProtocol):
        def check(self, example: lr.Example) -> None: ...

        def context(self, example: lr.Example) -> str:
            return f"HEY! {example.prompt}"

        def chance(self, examples: object) -> float | None:
            return None

        def continuations(self, example: lr.Example) -> list[str]:
            return [f" {example.answer}"]

        judge = PROTOCOLS["answer_logprob"].judge  # type: ignore[attr-defined]

    model = chatty(tmp_path / "model")
    example = task.examples(1, 0)[0]
    prompt = Loud().prompt(model, example, chat=True)
    assert prompt == f"<bos>[user]HEY! {example.prompt}\n[assistant]\n"
    asked = Loud().prepare(lr.Engine(model), task, [example], chat=True)
    assert len(asked.requests) == 1


@pytest.mark.parametrize(
    ("text", "opened", "parts"),
    [
        ("4", False, Reply("4", "", None)),
        ("<think>2 + 2</think>4", False, Reply("4", "2 + 2", True)),
        ("2 + 2</think>\n4", True, Reply("\n4", "2 + 2", True)),
        ("<think>2 + 2 is 4", False, Reply("", "2 + 2 is 4", False)),
        ("2 + 2 is 4", True, Reply("", "2 + 2 is 4", False)),
    ],
)
def test_thinking_is_split_from_the_answer(text: str, opened: bool, parts: Reply) -> None:
    assert split_thinking(text, opened=opened) == parts


def test_a_prompt_may_open_the_thinking() -> None:
    assert opens_thinking("[assistant]\n<think>\n")
    assert not opens_thinking("[assistant]\n<think>\n\n</think>\n")
    assert not opens_thinking("[assistant]\n")


def test_only_what_follows_the_thinking_is_graded(task: lr.Task) -> None:
    engine = lr.Engine(random_model("llama"))
    (example,) = task.examples(1, 0)
    asked = protocol("generation").prepare(engine, task, [example])
    assert isinstance(asked, AskedWritings)

    def judged(text: str, *, ended: bool) -> tuple[object, ...]:
        (answer,) = asked.judge([Writing(text, 9, ended, True, False)])
        kind = answer.thought, answer.outcome, answer.correct, answer.form
        return (*kind, answer.response, answer.details.get("thinking"))

    right = example.answer
    assert judged(f"<think>or z</think>{right}", ended=True) == (
        *(True, "correct", True, True, right, "or z"),
    )
    assert judged(f"<think>it is {right}", ended=False) == (
        *(False, "truncated", False, False, "", f"it is {right}"),
    )
    assert judged(right, ended=True)[:2] == (None, "correct")


def test_a_template_may_open_the_thinking(task: lr.Task, tmp_path: Path) -> None:
    model = chatty(
        tmp_path / "model", TEMPLATE.replace("[assistant]\n{%", "[assistant]\n<think>\n{%")
    )
    sweep = lr.Sweep(model, [task], [], protocols=["generation"], chat=True)
    frame = sweep.run(tmp_path / "run").frame
    # A random model does not close it.
    assert (frame.thought == False).all()  # noqa: E712
    assert set(frame.outcome) == {"truncated"}
    assert not frame.form.any()
