"""Chat on the real model, whose tokenizer has a template."""

import json
from pathlib import Path

import pytest

import layerroles as lr
from layerroles.models.loading import encode
from layerroles.protocols import protocol
from tests.support.smollm2 import model

QUESTIONS = {
    "What is the capital of France?": "Paris",
    "Name the capital city of Japan.": "Tokyo",
    "What is 2 + 2?": "4",
}


@pytest.fixture
def task(tmp_path: Path) -> lr.Task:
    file = tmp_path / "questions.jsonl"
    rows = [
        {
            "prompt": prompt,
            "answer": answer,
            "choices": [answer, "Tuesday"],
            "evidence": [prompt.split()[-1]],
            "family": "knowledge",
        }
        for prompt, answer in QUESTIONS.items()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lr.task(f"local:{file}", max_gen_toks=24)


def test_questions_are_asked_in_the_models_own_template(task: lr.Task) -> None:
    example = task.examples(1, 0)[0]
    prompt = protocol("generation").prompt(model(), example, chat=True)
    assert prompt.startswith("<|im_start|>system\n")
    assert prompt.endswith(f"<|im_start|>user\n{example.prompt}<|im_end|>\n<|im_start|>assistant\n")
    start = model().tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert encode(model(), prompt).count(start) == 3
    (asked,) = (
        protocol("generation").prepare(lr.Engine(model()), task, [example], chat=True).requests
    )
    evidence = model().tokenizer.decode([asked.context[place] for place in asked.evidence or ()])
    assert evidence.strip() == example.prompt.split()[-1]


def test_a_chat_model_answers_and_ends_its_turn(task: lr.Task, tmp_path: Path) -> None:
    protocols = ["generation", "continuation", "answer_logprob"]
    sweep = lr.Sweep(model(), [task], [], protocols=protocols, chat=True, coherence=True)
    frame = sweep.run(tmp_path / "run").frame
    written = frame[frame.protocol == "generation"]
    assert written.correct.all()
    assert (written.n_tokens < 24).all()  # ended by itself
    assert not written.response.str.contains("<|im_end|>", regex=False).any()
    assert frame[frame.protocol == "continuation"].correct.all()
    coherence = [json.loads(details)["coherence"] for details in written.details]
    assert all(-1 < nats < 0 for nats in coherence)  # what the model itself wrote, greedily
