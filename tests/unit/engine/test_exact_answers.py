"""In float32 the fused engine answers as the reference does: every kind of edit, at every layer.

Once with blocks as they are, into which the short requests here fit whole, and once with small
ones, so that what the requests share becomes trunks, as it does in requests of real length.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

import layerroles as lr
from layerroles.ablations import Condition, resolve
from layerroles.engine.fused import attention, packing, prefill
from layerroles.engine.fused.attention import Layout
from layerroles.engine.fused.executor import Fused
from layerroles.engine.fused.kv_cache import Rows
from layerroles.engine.fused.model import Twin
from layerroles.engine.plain import Plain
from layerroles.engine.planning.memory import Budget
from layerroles.engine.requests import Score, scored, written
from tests.support.random_models import ALL_ARCHITECTURES, random_model

REFERENCE = lr.Reference(["one text", "and another text"])
KINDS = {
    "skip": ("block", lr.Skip()),
    "attn": ("attn", lr.Zero()),
    "mlp": ("mlp", lr.Zero()),
    "mean": ("block", lr.Mean(REFERENCE)),
    "head": ("head", lr.Zero()),
}
PREFIX = "Some words that all of the questions begin with. "
BRANCH = PREFIX + "Then some of them go on alike, "
PAIRS = [
    *((start + f"{n}", ending) for start in (PREFIX, BRANCH) for n in "abc" for ending in "xyz"),
    (PREFIX, "the prefix alone is a context"),
    (BRANCH + "q", " a longer continuation than others"),
    (BRANCH + "q", " a longer continuation than all others"),
    ("no prefix", "!"),
    ("", "empty context"),
    ("x", "y"),
    ("x", "y"),
]
ASKED = [
    *((start + "q" * n, {"max_gen_toks": n + 1}) for start in (PREFIX, BRANCH) for n in (1, 4)),
    (BRANCH + "a b c", {"until": ["a", "b", "c", "d", "e"], "max_gen_toks": 9}),
    ("x", {"max_gen_toks": 4}),
]


@contextmanager
def small_blocks() -> Iterator[dict[str, int]]:
    """Within the context, little is read twice; counts how often a trunk is looked at."""
    looked = {"read": 0, "decoded": 0}
    read, decoded = Layout._look_at, Rows._look_at_trunk

    def reading(self: Layout, *args: object) -> None:
        looked["read"] += 1
        read(self, *args)  # type: ignore[arg-type]

    def decoding(self: Rows, *args: object) -> None:
        looked["decoded"] += 1
        decoded(self, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BLOCK", 24)
        patch.setattr(prefill, "BLOCK", 24)
        patch.setattr(packing, "_SHORTEST_TRUNK", 4)
        patch.setattr(attention, "_LONG", 20)
        patch.setattr(Layout, "_look_at", reading)
        patch.setattr(Rows, "_look_at_trunk", decoding)
        yield looked


@contextmanager
def blocks_as_they_are() -> Iterator[None]:
    yield


def conditions(kind: str) -> list[Condition]:
    """One for each layer, with the intact model among them."""
    part, edit = KINDS[kind]
    sites = [lr.Site(n, part, 1 if part == "head" else None) for n in range(3)]
    first, *others = [Condition({site: edit}) for site in sites]
    return [first, Condition({}), *others]


def choices(scores: Sequence[Score]) -> list[int]:
    """The likeliest ending of each context."""
    endings: dict[str, list[float]] = {}
    for (context, _), score in zip(PAIRS, scores, strict=True):
        endings.setdefault(context, []).append(score.logprob)
    return [max(range(len(each)), key=each.__getitem__) for each in endings.values()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", [*ALL_ARCHITECTURES, "deepseek_v3"])
def test_answers_are_the_references(architecture: str, kind: str) -> None:
    model, asked = random_model(architecture), conditions(kind)
    references = resolve(model, asked)
    # Alone, and without a cache, which without layer 0 would be wrong in transformers.
    plain = Plain(model, references, batch_size=1, use_cache=False)
    pairs, texts = scored(model, PAIRS), written(model, ASKED)
    scores, writings = dict(plain.score(pairs, asked)), dict(plain.write(texts, asked))
    fused = Fused(Twin(model), references, Budget(2**28))
    for sizes in (blocks_as_they_are, small_blocks):
        with sizes() as looked:
            found = dict(fused.score(pairs, asked))
            assert dict(fused.write(texts, asked)) == writings
        assert looked is None or min(looked.values()) > 0
        for place, expected in scores.items():
            for one, two in zip(expected, found[place], strict=True):
                assert one.logprob == pytest.approx(two.logprob, abs=1e-4)
                assert (one.is_greedy, one.changed) == (two.is_greedy, two.changed)
            assert choices(found[place]) == choices(expected)
