"""Attention probes: what is reduced piece by piece equals what stored patterns give."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformer_lens import head_detector
from transformer_lens.model_bridge import TransformerBridge

import layerroles as lr
from layerroles.engine import encode_written
from layerroles.models.loading import encode
from layerroles.probes import chunked_prefill
from layerroles.probes.attention import find_question_spans
from layerroles.probes.heads import KINDS
from tests.support.random_models import ARCHITECTURES, WINDOWS, random_model

# Grouped heads, norms of all kinds, parallel blocks, biases for positions, sliding windows, layers
# of another kind, attention that does not go through transformers' interface.
MODELS = (*ARCHITECTURES, *WINDOWS, "bloom", "falcon", "gptj", "neo", "jamba")
QUESTIONS = [
    {
        "prompt": "Read this.\n\nAn ant ate 12 figs. Who ate?",
        "answer": "ant",
        "evidence": ["An ant"],
    },
    {
        "prompt": "One two three four. Two is even.\n\nIs two even? Say yes or no:",
        "answer": "yes",
        "evidence": ["Two is even", "two"],
    },
    {"prompt": "Red, green:", "answer": "blue"},
    {
        "prompt": "abcabcab" * 5 + "\n \ncab bca abc",
        "answer": "a",
        "evidence": ["abcabcab" * 5],
    },
]


@pytest.fixture
def task(tmp_path: Path) -> lr.Task:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    return lr.task("local", path=str(path), family="retrieval")


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in pieces that are shorter than the prompts, and than some rows' padding."""
    monkeypatch.setattr(chunked_prefill, "LONGEST", 7)


def stored(model: TransformerBridge, ids: list[int]) -> dict[int, Tensor]:
    """All patterns of one text `[head query key]`, read alone and at once."""
    layers = chunked_prefill.pattern_layers(model)
    names = {layer: f"blocks.{layer}.attn.hook_pattern" for layer in layers}
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        _, cache = model.run_with_cache(
            tokens,
            names_filter=list(names.values()),
            attention_mask=torch.ones_like(tokens),
            use_cache=False,
        )
    return {layer: cache[name][0] for layer, name in names.items()}


def own_words(model: TransformerBridge, path: Path) -> lr.Task:
    """Questions whose evidence is what the model writes anyway, so that there is much to copy."""
    options = {"until": ["\n"], "max_gen_toks": 24}
    asked = [(prompt, options) for prompt in ("Red:", "One two", "x" * 9, "a b c d", "?", "0 1")]
    texts = lr.Engine(model, executor="plain").generate_until(asked)[0]
    rows = [
        {"prompt": prompt + text, "answer": "x", "evidence": [text.strip()]}
        for (prompt, _), text in zip(asked, texts, strict=True)
        if text.strip()  # some end at once
    ]
    rows.append({"prompt": "nothing to find", "answer": "x"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lr.task("local", path=str(path), family="retrieval")


def of(frame: pd.DataFrame, example: lr.Example, layer: int) -> pd.DataFrame:
    part = frame[(frame.example == example.id) & (frame.layer == layer)]
    assert list(part["head"]) == list(range(len(part)))
    return part


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("name", MODELS)
def test_attention_equals_stored_patterns(name: str, task: lr.Task) -> None:
    model = random_model(name)
    frame = lr.probes.Attention().measure(model, [task])
    for example in task.examples(9, 0):
        ids = encode(model, example.prompt)
        assert len(ids) == len(example.prompt)  # a token for each character
        evidence, asked = torch.zeros(2, len(ids), dtype=torch.bool)
        for start, stop in example.evidence:
            evidence[start:stop] = True
        asked[example.prompt.rstrip().rfind("\n") + 1 :] = True
        asked[0] = False
        for layer, pattern in stored(model, ids).items():
            weights = pattern[:, -1].double()
            mine = of(frame, example, layer)
            expected = {
                "first": weights[:, 0],
                "question": weights[:, asked & ~evidence].sum(-1),
                "entropy": -(weights * weights.clamp(min=1e-300).log()).sum(-1),
            }
            if example.evidence:
                expected["evidence"] = weights[:, evidence].sum(-1)
                assert list(mine.uniform) == pytest.approx(
                    [float(evidence.double().mean())] * len(mine)
                )
            else:
                assert mine[["evidence", "uniform"]].isna().all(axis=None)
            for column, values in expected.items():
                assert list(mine[column]) == pytest.approx(values.tolist(), abs=1e-5), column


def test_a_question_is_the_last_paragraph() -> None:
    def asked(prompt: str) -> list[str]:
        spans = find_question_spans(lr.Example("0", prompt, "x"))
        return [prompt[start:stop] for start, stop in spans]

    assert asked("a\n\nb c\n \nd:\n") == ["d:"]
    assert asked("a\nb ") == ["a\nb"]
    assert asked("") == []


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("name", MODELS)
def test_head_scores_equal_those_of_transformer_lens(name: str, task: lr.Task) -> None:
    model = random_model(name)
    frame = lr.probes.HeadScores().measure(model, [task])
    detections = {
        "previous": head_detector.get_previous_token_head_detection_pattern,
        "duplicate": head_detector.get_duplicate_token_head_detection_pattern,
        "induction": head_detector.get_induction_head_detection_pattern,
    }
    for example in task.examples(9, 0):
        ids = encode(model, example.prompt)
        for layer, pattern in stored(model, ids).items():
            mine = of(frame, example, layer)
            for kind, detect in detections.items():
                keys = detect(torch.tensor([ids]))
                share = float(keys.bool().any(-1).float().mean())
                assert list(mine[f"with_{kind}"]) == pytest.approx([share] * len(mine))
                expected = [
                    head_detector.compute_head_attention_similarity_score(
                        one,
                        keys,
                        exclude_bos=False,
                        exclude_current_token=False,
                        error_measure="mul",
                    )
                    # Of a head with a learned sink, the weights of a token sum to less than 1.
                    * float(one.sum() / len(one))
                    for one in pattern
                ]
                assert list(mine[kind] * share) == pytest.approx(expected, abs=1e-5)


def test_a_text_without_repetition_has_no_induction_score(tmp_path: Path) -> None:
    path = tmp_path / "short.jsonl"
    path.write_text(json.dumps({"prompt": "abc", "answer": "d"}))
    frame = lr.probes.HeadScores().measure(
        random_model("llama"), [lr.task(f"local:{path}", family="language")]
    )
    assert frame.previous.notna().all()
    assert frame[["duplicate", "induction"]].isna().all(axis=None)
    assert (frame.with_previous == 2 / 3).all()
    assert (frame.with_induction == 0).all()


def test_repeated_tokens_score_only_what_repeats() -> None:
    model = random_model("llama")
    frame = lr.probes.HeadScores().measure_repeated(model, length=10, limit=3, seed=5)
    assert len(frame) == 3 * 3 * 4
    assert set(frame.task) == {"repeated_tokens"}
    # Within the second half each token has one key of each kind, in the first none.
    assert (frame.with_duplicate == 0.5).all()
    assert (frame.with_induction == 0.5).all()
    assert (frame[list(KINDS)].to_numpy() > 0).all()
    again = lr.probes.HeadScores().measure_repeated(model, length=10, limit=2, seed=5)
    pd.testing.assert_frame_equal(again, frame[: len(again)])
    other = lr.probes.HeadScores().measure_repeated(model, length=10, limit=2, seed=6)
    assert not (other.induction == again.induction).any()
    with pytest.raises(lr.InputError, match="2 to 96 here, not limit=1 and length=97"):
        lr.probes.HeadScores().measure_repeated(model, length=97, limit=1)


def test_retrieval_scores_under_a_condition_leave_out_examples_without_evidence(
    tmp_path: Path,
) -> None:
    model = random_model("llama", seed=1)
    task = own_words(model, tmp_path / "own.jsonl")
    probe = lr.probes.RetrievalScore(max_gen_toks=4)
    frame = probe.measure(model, [task], condition=lr.Condition({lr.Site(1): lr.Skip()}))
    examples = task.examples(9, 0)
    assert set(frame.example) == {each.id for each in examples if each.evidence}
    assert len(set(frame.example)) < len(examples)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2_window", "neox", "falcon", "jamba"])
def test_retrieval_scores_equal_those_of_stored_patterns(name: str, tmp_path: Path) -> None:
    model = random_model(name, seed=1)  # one that writes more than an end
    task = own_words(model, tmp_path / "own.jsonl")
    frame = lr.probes.RetrievalScore(max_gen_toks=12).measure(model, [task])
    examples = [example for example in task.examples(9, 0) if example.evidence]
    assert set(frame.example) == {example.id for example in examples}
    options = {"until": ["\n"], "max_gen_toks": 12}
    asked = encode_written(model, [(example.prompt, options) for example in examples])
    (answers,) = lr.Engine(model, executor="plain").write(asked, [lr.Condition({})])
    for example, answer in zip(examples, answers, strict=True):
        prompt, new = encode(model, example.prompt), answer.ids
        needle = {n for start, stop in example.evidence for n in range(start, stop)}
        for layer, pattern in stored(model, [*prompt, *new[:-1]]).items():
            mine = of(frame, example, layer)
            most = pattern[:, len(prompt) - 1 :].argmax(-1)  # [head step]
            for head, row in zip(mine.itertuples(), most.tolist(), strict=True):
                copied = {
                    key
                    for key, token in zip(row, new, strict=True)
                    if key in needle and prompt[key] == token
                }
                assert head.copied == len(copied)
                assert head.score == pytest.approx(len(copied) / len(needle), abs=1e-5)
                assert head.n_evidence == len(needle)
                assert head.n_written == len(new)
                assert head.recall == sum(prompt[key] in new for key in needle) / len(needle)
    assert frame.copied.sum() > 0  # or the test says nothing


@pytest.mark.usefixtures("pieces")
def test_patterns_of_chosen_heads() -> None:
    model, text = random_model("qwen3"), "a text of some length"
    heads = [lr.Site(2, "head", 1), lr.Site(0, "head", 3)]
    frame = lr.probes.head_patterns(model, text, heads, queries=10)
    patterns = stored(model, encode(model, text))
    assert set(zip(frame.layer, frame["head"], strict=True)) == {(2, 1), (0, 3)}
    assert len(frame) == 2 * sum(range(12, 22))
    for row in frame.itertuples():
        expected = patterns[row.layer][row.head, row.query, row.key]
        assert row.weight == pytest.approx(float(expected), abs=1e-5)
        assert (row.query_token, row.key_token) == (text[row.query], text[row.key])
    with pytest.raises(lr.InputError, match=r"not of L1\.mlp"):
        lr.probes.head_patterns(model, text, [lr.Site(1, "mlp")])
    with pytest.raises(lr.InputError, match="head 4 is out of range"):
        lr.probes.head_patterns(model, text, [lr.Site(1, "head", 4)])
    with pytest.raises(lr.InputError, match="a text of 0 tokens"):
        lr.probes.head_patterns(model, "", heads)


def test_pieces_get_shorter_as_prompts_get_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    monkeypatch.setattr(chunked_prefill, "MOST_WEIGHTS", 2 * 4 * 100 * 20)
    tokens = torch.full((2, 100), 5)
    shapes = []
    chunked_prefill.read_patterns(
        model, tokens, torch.ones_like(tokens), lambda _, x, start: shapes.append((start, *x.shape))
    )
    assert shapes[::3] == [
        (start, 2, 4, 20, start + 20) for start in range(0, 100, 20)
    ]  # three layers a piece
    assert math.prod(max(shapes)[1:]) <= 2 * 4 * 100 * 20


def test_hook_that_does_not_fire_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_prefill, "forward", lambda *_, **__: (torch.zeros(1, 1, 9), None))
    tokens = torch.full((1, 3), 5)
    with pytest.raises(lr.InputError, match=r"does not run through blocks\.0\.attn"):
        lr.probes.chunked_prefill.read_patterns(
            random_model("llama"), tokens, torch.ones_like(tokens), lambda *_: None
        )
