"""What every registered ablation must do; a new one is tested here automatically.

Fields are filled by their defaults, `reference` and `donor` by small ones; an ablation with other
fields without a default has an instance in `MADE`.
"""

import dataclasses
import inspect
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import layerroles as lr
from layerroles.ablations import ABLATIONS
from tests.support.random_models import random_model

DOCS = Path(__file__).resolve().parents[3] / "docs"
MADE: dict[str, lr.Ablation] = {}
REQUESTS = [("abc", " = de"), ("hello there x", " 12"), ("7 + 5", " = x")]
SITES = (
    lr.Site(0),
    lr.Site(1, "attn"),
    lr.Site(1, "mlp"),
    lr.Site(2, "head", 3),
    lr.Site(2, "kv_group", 1),
    lr.Site(1, "stream"),
    lr.Site(1, "mixer"),
)
# The package's own; tests register others.
EVERY = [name for name in ABLATIONS if ABLATIONS[name].__module__.startswith("layerroles.")]

every = pytest.mark.parametrize("name", EVERY)


@cache
def made(name: str) -> lr.Ablation:
    """An instance of the ablation."""
    if name in MADE:
        return MADE[name]
    given: dict[str, object] = {}
    for field in dataclasses.fields(ABLATIONS[name]):
        if field.name == "reference":
            given["reference"] = lr.Reference(["abcd", "x = 12, y", "hello there"])
        elif field.name == "donor":
            given["donor"] = random_model("llama", seed=1)
    return ABLATIONS.make(name, given)


@cache
def conditions(name: str) -> list[lr.Condition]:
    """One condition for each site that the ablation may be applied to, block 0 among them."""
    found = []
    for site in SITES:
        try:
            found.append(lr.Condition({site: made(name)}))
        except lr.InputError:  # as it says, such as Skip at a head
            continue
    assert found, f"{name} takes no site"
    return found


def logprobs(name: str, executor: str, requests: list[tuple[str, str]]) -> np.ndarray:
    engine = lr.Engine(random_model("llama"), executor=executor)  # type: ignore[arg-type]
    return np.asarray(engine.loglikelihood(requests, conditions(name)).logprob)


@every
def test_it_is_a_frozen_dataclass_with_a_docstring_under_its_name(name: str) -> None:
    kind = ABLATIONS[name]
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert (inspect.getdoc(kind) or "").split("\n")[0].endswith(".")
    assert made(name).name == name
    assert made(name) == dataclasses.replace(made(name))  # equal by its fields


@every
def test_neither_batch_nor_padding_matters(name: str) -> None:
    together = logprobs(name, "plain", REQUESTS)
    alone = [logprobs(name, "plain", [request])[:, 0] for request in REQUESTS]
    np.testing.assert_allclose(together, np.stack(alone, axis=1), atol=1e-3)


@every
def test_the_engine_gives_what_the_reference_gives(name: str) -> None:
    np.testing.assert_allclose(
        logprobs(name, "auto", REQUESTS), logprobs(name, "plain", REQUESTS), atol=1e-4
    )


@every
def test_text_generated_with_a_cache_is_greedy_when_scored_at_once(name: str) -> None:
    engine = lr.Engine(random_model("llama"), executor="plain")
    length = {"until": ["\0"], "max_gen_toks": 4}
    contexts = [context for context, _ in REQUESTS]
    texts = engine.generate_until([(one, length) for one in contexts], conditions(name))
    read = 0
    for condition, written in zip(conditions(name), texts, strict=True):
        # A token is a character, but for the special ones, which leave no text.
        whole = [(c, text) for c, text in zip(contexts, written, strict=True) if len(text) == 4]
        if whole:
            assert np.all(engine.loglikelihood(whole, [condition]).is_greedy), str(condition)
            read += len(whole)
    assert read


@every
def test_ablation_changes_answers_and_is_fully_removed(name: str) -> None:
    engine = lr.Engine(random_model("llama"), executor="plain")
    before = np.asarray(engine.loglikelihood(REQUESTS).logprob)
    ablated = np.asarray(engine.loglikelihood(REQUESTS, conditions(name)).logprob)
    assert np.all(np.abs(ablated - before).max(axis=1) > 1e-4)
    np.testing.assert_array_equal(np.asarray(engine.loglikelihood(REQUESTS).logprob), before)


@every
def test_ablation_is_public_and_listed_in_the_concepts_page(name: str) -> None:
    kind = ABLATIONS[name].__name__
    assert getattr(lr, kind) is ABLATIONS[name]
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    assert f"| `{kind}(" in text, f"docs/concepts.md has no row for {kind}"
