"""Protocols that score given answers: `exact` asks whether greedy decoding would write one."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

import layerroles as lr
from layerroles.ablations import INTACT, Condition
from layerroles.engine.requests import Score, Written
from layerroles.protocols import Exact, protocol
from layerroles.tasks import Example
from tests.support.random_models import ARCHITECTURES, model_path, random_model
from tests.support.tiers import mark_rest

QUESTION = Example(id="1", prompt="Which is odd?\nAnswer:", answer="7", choices=("4", "7"))
TASK = lr.task("facts")  # an answer is judged without it
PROMPTS = [f"a{letter}" for letter in "abcdefghijklmnopqrst"]


def conditions(model: object) -> list[Condition]:
    return [INTACT, *lr.each_layer(model, lr.Skip())]  # type: ignore[arg-type]  # a bridge


class Unspaced(Exact):
    """The answer without a space before it, as in a chat: random models seldom begin with one."""

    def continuations(self, example: Example) -> list[str]:
        return [text[1:] for text in super().continuations(example)]


def questions(engine: lr.Engine, asked: list[Condition], n_tokens: int = 3) -> list[Example]:
    """Questions with what each condition writes as an answer, and with wrong answers."""
    requests = [(prompt, {"max_gen_toks": n_tokens}) for prompt in PROMPTS]
    written = engine.generate_until(requests, asked)
    right = {
        (prompt, text)
        for texts in written
        for prompt, text in zip(PROMPTS, texts, strict=True)
        if len(text) == n_tokens
    }
    wrong = {(prompt, f"{text[:-1]}{'?' if text[-1] != '?' else '!'}") for prompt, text in right}
    both = sorted(right | wrong)
    return [Example(id=f"{prompt} {text}", prompt=prompt, answer=text) for prompt, text in both]


@pytest.mark.parametrize(
    "architecture", mark_rest("matrix", ARCHITECTURES, first=["llama", "gpt2"])
)
def test_exact_is_what_greedy_decoding_writes_under_every_executor(architecture: str) -> None:
    model = random_model(architecture)
    engine, asked = lr.Engine(model, executor="plain"), conditions(model)
    examples = questions(engine, asked)
    prepared = Unspaced().prepare(engine, TASK, examples)
    requests = prepared.requests
    writing = [Written(each.context, (), len(each.continuation)) for each in requests]
    written = [
        [float(one.ids == each.continuation) for one, each in zip(own, requests, strict=True)]
        for own in engine.write(writing, asked)
    ]
    # Each condition writes some of the answers and not others.
    assert all(0 < sum(own) < len(own) for own in written)
    for executor in ("plain", "hooked", "fused"):
        found = lr.Engine(model, executor=executor).score(requests, asked)
        assert [[a.score for a in prepared.judge(own)] for own in found] == written, executor


def test_exact_is_lm_evals_is_greedy() -> None:
    model, folder = random_model("llama"), model_path("llama")
    engine = lr.Engine(model)
    examples = questions(engine, [INTACT])
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lm = HFLM(pretrained=hf, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=1)
    pairs = [(one.prompt, one.answer) for one in examples]
    theirs = lm.loglikelihood(
        [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)], disable_tqdm=True
    )
    asked = Unspaced().prepare(engine, TASK, examples)
    (found,) = engine.score(asked.requests, [INTACT])
    answers = asked.judge(found)
    assert [answer.correct for answer in answers] == [bool(greedy) for _, greedy in theirs]
    assert {answer.correct for answer in answers} == {True, False}
    for answer, (nats, _) in zip(answers, theirs, strict=True):
        assert answer.details["logprob"] == pytest.approx(nats, abs=1e-3)


def test_an_answer_or_an_alias_has_to_be_greedy() -> None:
    example = replace(QUESTION, aliases=("seven",))
    yes, no = Score(-1.0, True, 2, True, True), Score(-2.0, False, 3, True, False)
    right = Exact().judge(QUESTION, [yes])
    assert (right.score, right.correct, right.outcome) == (1.0, True, "correct")
    assert right.response == "7"
    assert (right.details, right.n_tokens, right.changed) == ({"logprob": -1.0}, 2, True)
    wrong = Exact().judge(example, [no, no])
    assert (wrong.score, wrong.correct, wrong.outcome, wrong.response) == (0.0, False, "wrong", "")
    assert Exact().judge(example, [no, yes]).response == "seven"
    broken = Exact().judge(example, [yes, replace(no, logprob=math.nan, finite=False)])
    assert (broken.status, broken.correct, broken.details) == ("not finite", None, {})
    assert math.isnan(broken.score)


def test_what_is_read_is_what_continuation_reads_and_generation_without_solutions() -> None:
    for name in ("copying", "facts", "kv_retrieval", "word_problems"):
        (example,) = lr.task(name).examples(1, 0)
        context = Exact().context(example)
        assert context == protocol("continuation").context(example)
        solved = any(shot.solution for shot in example.shots)
        assert (context != protocol("generation").context(example)) == solved


def test_sweep_runs_exact_together_with_other_protocols(tmp_path: Path) -> None:
    model, file = random_model("gpt2"), tmp_path / "questions.jsonl"  # it writes many spaces
    engine = lr.Engine(model)
    texts = engine.generate_until([(prompt, {"max_gen_toks": 3}) for prompt in PROMPTS])[0]
    rows = [
        {"prompt": prompt, "answer": answer, "choices": [answer, "no"], "family": "language"}
        for prompt, text in zip(PROMPTS, texts, strict=True)
        if (answer := text.strip())
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = lr.task(f"local:{file}", num_fewshot=0, max_gen_toks=3)
    protocols = ["continuation", "exact", "generation"]
    sweep = lr.Sweep(model, [task], lr.each_layer(model, lr.Skip()), protocols=protocols)
    result = sweep.run(tmp_path / "run")
    cells = {cell["protocol"]: cell for cell in result.manifest["cells"]}
    assert (cells["exact"]["chance"], cells["exact"]["unit"]) == (0.0, "accuracy")
    own = result.frame[result.frame["protocol"] == "exact"]
    assert 0 < own["score"].mean() < 1
    assert (own["response"].astype(bool) == (own["score"] == 1)).all()
    contexts = result.examples["contexts"].map(json.loads)
    assert all(set(each) == set(protocols) and len(set(each.values())) == 1 for each in contexts)
    pd.testing.assert_frame_equal(lr.read(tmp_path / "run").frame, result.frame)
    assert set(result.effects()["protocol"]) == set(protocols)
    assert set(lr.localize(result).claims["protocol"]) >= {"exact - continuation"}
