"""In float32 the fused engine answers as the reference does: every kind of edit, at every layer.

Once with blocks as they are, into which the short requests here fit whole, and once with small
ones, so that what the requests share becomes trunks, as it does in requests of real length.
"""

from collections import Counter
from collections.abc import Sequence

import pytest

import layerroles as lr
from layerroles.ablations import Condition, resolve_references
from layerroles.engine.fused.executor import Fused
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.planning.memory import Budget
from layerroles.engine.planning.plan import make_plan
from layerroles.engine.reference_executor import Plain
from layerroles.engine.requests import Score, collect_answers, encode_scored, encode_written
from tests.support.block_sizes import blocks_as_they_are, small_blocks
from tests.support.random_models import ALL_ARCHITECTURES, WINDOWS, random_model

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


def conditions(kind: str, n_layers: int) -> list[Condition]:
    """One for each layer, with the intact model among them."""
    part, edit = KINDS[kind]
    sites = [lr.Site(n, part, 1 if part == "head" else None) for n in range(n_layers)]
    first, *others = [Condition({site: edit}) for site in sites]
    return [first, Condition({}), *others]


def choices(scores: Sequence[Score]) -> list[int]:
    """The likeliest ending of each context."""
    endings: dict[str, list[float]] = {}
    for (context, _), score in zip(PAIRS, scores, strict=True):
        endings.setdefault(context, []).append(score.logprob)
    return [max(range(len(each)), key=each.__getitem__) for each in endings.values()]


# Every architecture meets one kind first, and one architecture every kind.
WAYS = [
    pytest.param(
        architecture,
        kind,
        marks=() if architecture == "llama" or (a + k) % len(KINDS) == 0 else pytest.mark.matrix,
    )
    for a, architecture in enumerate([*ALL_ARCHITECTURES, "deepseek_v3", "gemma4", *WINDOWS])
    for k, kind in enumerate(KINDS)
]


@pytest.mark.parametrize(("architecture", "kind"), WAYS)
def test_answers_are_the_references(architecture: str, kind: str) -> None:
    model = random_model(architecture)
    asked = conditions(kind, model.cfg.n_layers)
    references = resolve_references(model, asked)
    # Alone, and without a cache, which without layer 0 would be wrong in transformers.
    plain = Plain(model, references, batch_size=1, use_cache=False)
    pairs, texts = encode_scored(model, PAIRS), encode_written(model, ASKED)
    scores = collect_answers(plain.answer([pairs], asked))
    writings = collect_answers(plain.answer([texts], asked))
    fused = Fused(Twin(model), references, Budget(2**28))
    for sizes in (blocks_as_they_are, small_blocks):
        with sizes() as looked:
            found = collect_answers(fused.answer([pairs], asked))
            assert collect_answers(fused.answer([texts], asked)) == writings
        assert looked is None or min(looked.values()) > 0
        for place, expected in enumerate(scores):
            for one, two in zip(expected, found[place], strict=True):
                assert one.logprob == pytest.approx(two.logprob, abs=1e-4)
                assert (one.is_greedy, one.changed) == (two.is_greedy, two.changed)
            assert choices(found[place]) == choices(expected)


@pytest.mark.parametrize("architecture", ["llama", *WINDOWS])
def test_a_beginning_that_only_endings_share_with_a_text_is_its_own_context(
    architecture: str,
) -> None:
    """Three texts share a trunk; beyond it, one shares a trunk with two endings but no text."""
    model = random_model(architecture)
    asked = conditions("skip", model.cfg.n_layers)
    begun = BRANCH + "one of them goes on for long "
    pairs = encode_scored(model, [(begun, one + "and so it goes on and on. " * 2) for one in "xy"])
    options = {"max_gen_toks": 6}
    texts = encode_written(
        model, [(begun + "q", options), (BRANCH + "q", options), (BRANCH + "a b c", options)]
    )
    fused = Fused(Twin(model), {}, Budget(2**28))
    with small_blocks() as looked:
        (group,) = make_plan([*pairs, *texts], asked, fused.twin.shape, fused.budget).groups
        n_sharing = Counter(
            trunk for ids in group.sequences[len(pairs) :] for trunk in group.packed.trunks(ids)
        )
        assert min(n_sharing.values()) == 1 < max(n_sharing.values())
        answers = {
            (number, condition): found
            for number, condition, found in fused.answer([pairs, texts], asked)
        }
    assert min(looked.values()) > 0
    plain = Plain(model, {}, batch_size=1, use_cache=False)
    for number, condition, found in plain.answer([pairs, texts], asked):
        if number:
            assert answers[number, condition] == found
        else:
            for one, two in zip(answers[number, condition], found, strict=True):
                assert one.logprob == pytest.approx(two.logprob, abs=1e-4)
