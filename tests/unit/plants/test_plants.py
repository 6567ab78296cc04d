"""Planted models have the declared roles in the declared layers and heads."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import layerroles as lr
from layerroles.models.loading import prepared
from layerroles.models.provenance import provenance
from layerroles.plants import Plant
from layerroles.plants.planted_language import (
    END,
    ID,
    LAST,
    SUBJECTS,
    WORDS,
    fact_of,
    make_tokenizer,
)
from layerroles.probes import Attention, LogitLens, RetrievalScore, chunked_prefill
from layerroles.tasks import FAMILIES

PLACEMENTS: list[dict[str, Any]] = [
    {},
    {"n_layers": 4, "retrieval": (0, 1), "reasoning": (3,), "knowledge": (0,), "inert": ()},
    {"n_layers": 12, "retrieval": (3, 7), "reasoning": (11,), "knowledge": (9,), "inert": (0, 8)},
    {"n_layers": 5, "retrieval": (0, 2), "reasoning": (4,), "knowledge": (2,), "heads": 4},
    {"n_layers": 6, "inert": (0, 4), "noise": 0.1, "heads": 1},
]
# Those names that differ from the defaults must fit in.
PLACEMENTS[3]["inert"] = (1,)


@cache
def default() -> Plant:
    return lr.planted()


@cache
def asked_of(task: lr.Task, n: int) -> list[lr.Example]:
    return task.examples(n, 3)


def right(
    made: Plant, task: lr.Task, condition: lr.Condition | None = None, n: int = 40
) -> torch.Tensor:
    """Which of the first answers plain TransformerLens gives, as its likeliest next token."""
    examples = asked_of(task, n)
    tokens = torch.tensor([[ID["<bos>"], *map(ID.get, e.prompt.split())] for e in examples])  # type: ignore[arg-type]
    answers = torch.tensor([ID[example.answer] for example in examples])
    with lr.ablated(made.model, condition or lr.Condition({})), torch.no_grad():
        return made.model(tokens)[:, -1].argmax(-1) == answers


def skip(*layers: int) -> lr.Condition:
    return lr.Condition({lr.Site(layer): lr.Skip() for layer in layers})


def solved(example: lr.Example) -> str:
    """The answer to a question, worked out from its text."""
    *pairs, first, last = example.prompt.split()
    values = dict(zip(pairs[::2], pairs[1::2], strict=True))
    if last in ("find", "follow"):
        return values[first] if last == "find" else values[values[first]]
    return WORDS[fact_of(solved_by(example))] if last in SUBJECTS else last


def solved_by(example: lr.Example) -> int:
    """Which person a question is about."""
    return SUBJECTS.index(example.prompt.split()[-1])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_each_family_falls_exactly_without_a_layer_of_its_truth(placement: dict[str, Any]) -> None:
    made = lr.planted(**placement, seed=5)
    for task in made.tasks:
        assert right(made, task).all()
        for layer in range(made.model.cfg.n_layers):
            share = right(made, task, skip(layer)).float().mean()
            if layer in made.truth[task.family]:
                assert share <= 0.15, (task.label, layer)
            else:
                assert share == 1, (task.label, layer)


def test_truth_follows_from_the_placement() -> None:
    made = lr.planted(
        n_layers=9, retrieval=(1, 3), reasoning=(6,), knowledge=(0, 4), inert=(), backup=((6, 8),)
    )
    assert made.roles == {
        "retrieval": (1, 3),
        "reasoning": (6, 8),
        "knowledge": (0, 4),
        "language": (),
    }
    assert made.truth == {
        "retrieval": (1, 3),
        "reasoning": (1, 3),
        "knowledge": (0, 4),
        "language": (),
    }
    assert made.joint == {"retrieval": (), "reasoning": ((6, 8),), "knowledge": (), "language": ()}
    assert [str(site) for site in made.sites["knowledge"]] == ["L0.mlp", "L4.mlp"]
    assert [task.family for task in made.tasks] == list(made.truth)
    assert set(made.truth) <= set(FAMILIES)


@pytest.mark.parametrize("heads", [3])
def test_heads_hold_what_their_layers_do(heads: int) -> None:
    made = lr.planted(n_layers=4, retrieval=(0, 1), reasoning=(3,), inert=(), heads=heads, seed=2)
    for task in made.tasks:
        for condition in lr.each_head(made.model, lr.Zero()):
            (site,) = condition
            share = right(made, task, condition).float().mean()
            assert (share <= 0.15) == (site in made.sites[task.family]), (task.label, str(site))
            assert share in (0, 1) or share <= 0.15
        mlps = lr.each_layer(made.model, lr.Zero(), part="mlp")
        lost = [c for c in mlps if right(made, task, c).float().mean() <= 0.15]
        assert [str(site) for c in lost for site in c] == (
            ["L3.mlp"] if task.family == "knowledge" else []
        )


@pytest.mark.matrix
def test_chosen_heads_share_a_step_and_each_loses_its_own_words() -> None:
    heads_of = {1: (0, 2), 2: (1,), 5: (2, 0, 1)}
    made = lr.planted(heads=3, heads_of=heads_of, strength=0.5)
    placed = {lr.Site(layer, "head", h) for layer, chosen in heads_of.items() for h in chosen}
    assert set(made.sites["reasoning"]) == placed
    assert set(made.sites["retrieval"]) == {site for site in placed if site.layer < 5}
    for task in made.tasks:
        for condition in lr.each_head(made.model, lr.Zero()):
            (site,) = condition
            lost = 1 - float(right(made, task, condition, n=100).float().mean())
            # Of a hundred questions, so within four standard deviations.
            assert lost == pytest.approx(made.harms[task.family].get(site, 0.0), abs=0.15)
            if site not in made.sites[task.family]:
                assert lost == 0
    # The value that is answered says which of the three heads is needed.
    whole = lr.planted(heads=3, heads_of=heads_of)
    chain = next(task for task in whole.tasks if task.family == "reasoning")
    for part, head in enumerate(heads_of[5]):
        without = lr.Condition({lr.Site(5, "head", head): lr.Zero()})
        needed = torch.tensor([WORDS.index(e.answer) % 3 == part for e in asked_of(chain, 60)])
        assert torch.equal(right(whole, chain, without, n=60), ~needed)


def test_what_is_expected_of_whole_layers_and_parts_of_the_table() -> None:
    made = lr.planted(knowledge=(0, 3), strength=0.8)
    assert set(made.harms["retrieval"].values()) == {0.8}
    assert list(made.harms["knowledge"].values()) == pytest.approx([0.4, 0.4], abs=0.1)
    assert made.harms["language"] == {}


@pytest.mark.parametrize(
    ("backup", "family"),
    [((1, 2), "retrieval"), ((3, 5), "retrieval"), ((6, 7), "reasoning"), ((4, 0), "knowledge")],
)
def test_a_backup_shows_only_when_both_layers_are_gone(
    backup: tuple[int, int], family: str
) -> None:
    made = lr.planted(
        n_layers=8, retrieval=(1, 3), reasoning=(6,), knowledge=(4,), inert=(), backup=(backup,)
    )
    task = next(task for task in made.tasks if task.family == family)
    pair = (min(backup), max(backup))
    assert made.joint[family] == (pair,)
    assert not set(pair) & set(made.truth[family])
    assert set(pair) <= set(made.roles[family])
    assert right(made, task, skip(pair[0])).all()
    assert right(made, task, skip(pair[1])).all()
    assert right(made, task, skip(*pair)).float().mean() <= 0.15
    other = next(task for task in made.tasks if task.family == "language")
    assert right(made, other, skip(*pair)).all()


def test_every_step_can_be_doubled_at_once() -> None:
    made = lr.planted(
        n_layers=8,
        retrieval=(0, 2),
        reasoning=(5,),
        knowledge=(4,),
        inert=(7,),
        backup=[(0, 1), (2, 3), (5, 6), (4, 1)],
    )
    assert made.truth == dict.fromkeys(made.truth, ())
    assert made.joint["reasoning"] == ((0, 1), (2, 3), (5, 6))
    for task in made.tasks:
        assert all(right(made, task, skip(layer)).all() for layer in range(8))


def test_a_table_can_lie_in_several_layers() -> None:
    made = lr.planted(knowledge=(0, 3, 7), inert=())
    task = next(task for task in made.tasks if task.family == "knowledge")
    people = [solved_by(example) for example in asked_of(task, 90)]
    for part, layer in enumerate((0, 3, 7)):
        there = torch.tensor([place % 3 == part for place in people])
        kept = right(made, task, skip(layer), n=90)
        assert kept[~there].all()
        assert kept[there].float().mean() <= 0.15
    assert right(made, task, skip(0, 3, 7), n=90).float().mean() <= 0.15


@pytest.mark.parametrize("strength", [0.2, 0.55])
def test_strength_is_the_share_that_depends_on_the_role(strength: float) -> None:
    made = lr.planted(strength=strength)
    for task in made.tasks:
        asked = task.examples(100, 0)
        revealed = [example.prompt.split()[-1] == example.answer for example in asked]
        if task.family == "language":
            assert all(revealed)
            continue
        assert sum(revealed) == round(100 * (1 - strength))
        for layer in made.truth[task.family]:
            kept = right(made, task, skip(layer), n=100)
            assert 0 <= kept.float().mean() - (1 - strength) <= 0.1


@pytest.mark.parametrize(
    "asked",
    [
        {"n_layers": 10, "retrieval": (3, 6), "reasoning": (8,)},
        {"backup": ((5, 6),)},
        {"n_layers": 6},
    ],
)
def test_the_default_inert_layer_gives_way(asked: dict[str, Any]) -> None:
    made = lr.planted(**asked)
    same = lr.planted(**asked, inert=())
    assert provenance(made.model).weights == provenance(same.model).weights


def test_inert_layers_write_nothing_and_others_write_noise() -> None:
    made = lr.planted(inert=(0, 6), noise=0.05)
    tokens = torch.tensor(
        [made.model.tokenizer(made.tasks[0].examples(1, 0)[0].prompt)["input_ids"]]
    )
    _, seen = made.model.run_with_cache(tokens)
    for layer in range(8):
        write = seen[f"blocks.{layer}.hook_out"] - seen[f"blocks.{layer}.hook_in"]
        lengths = write[0].norm(dim=-1)
        if layer in (0, 6):
            assert not write.any()
        elif layer in (4, 7):
            assert ((lengths > 0.02) & (lengths < 0.1)).all(), lengths


def test_without_noise_only_roles_are_written() -> None:
    made = lr.planted(noise=0.0)
    tokens = torch.tensor(
        [made.model.tokenizer(made.tasks[0].examples(1, 0)[0].prompt)["input_ids"]]
    )
    _, seen = made.model.run_with_cache(tokens)
    writes = [seen[f"blocks.{n}.hook_out"] - seen[f"blocks.{n}.hook_in"] for n in range(8)]
    # The second look-up finds nothing in a question for the first, and there is no subject.
    assert [bool((write.abs() > 1e-4).any()) for write in writes] == [
        *(False, True, True, False, False, False, False, False)
    ]


def test_questions_are_answered_as_their_text_says() -> None:
    for task in lr.planted(strength=0.5).tasks:
        assert lr.task(task.label) == task
        for example in task.examples(60, 1):
            assert solved(example) == example.answer
            assert len(set(example.choices)) == 4
            assert example.answer in example.choices
            spans = [example.prompt[start:end] for start, end in example.evidence]
            if example.prompt.split()[-1] in ("find", "follow"):
                assert spans[-1] == example.answer
            else:
                assert spans == [example.prompt.split()[-1]]
        assert not {e.prompt for e in task.examples(60, 1)} & set(task.held_out(60, 1))


def test_the_seed_decides_the_weights() -> None:
    again, other = (provenance(lr.planted(seed=seed).model).weights for seed in (0, 1))
    assert provenance(default().model).weights == again != other
    assert provenance(default().model).name == "planted"


def test_making_one_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    lr.planted(n_layers=3, retrieval=(0, 1), reasoning=(2,), knowledge=(), inert=())
    assert torch.equal(torch.get_rng_state(), before)


def test_families_without_layers_are_left_out() -> None:
    made = lr.planted(n_layers=2, retrieval=(), reasoning=(), knowledge=(1,), inert=(0,))
    assert [task.family for task in made.tasks] == ["knowledge", "language"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"retrieval": (1,)}, r"retrieval=\(1,\): a look-up takes two layers"),
        ({"retrieval": (1, 2, 3)}, "takes two layers"),
        ({"retrieval": (2, 1)}, "layer 1 reads what layer 2 writes, so it must come later"),
        ({"reasoning": (2,)}, "layer 2 reads what layer 2 writes"),
        ({"reasoning": (5, 7)}, r"one layer does the second look-up.*backup=\(\(5, 7\),\)"),
        ({"retrieval": ()}, r"reasoning=\(5,\) looks up what a first look-up found"),
        ({"knowledge": (8,)}, r"knowledge=\(8,\): 8 is not a layer .* layers 0 to 7"),
        ({"inert": (-1,)}, "-1 is not a layer"),
        ({"inert": (6, 6)}, "names a layer twice"),
        ({"inert": (5,)}, "layer 5 has a role too"),
        ({"backup": ((5, 6),), "inert": (6,)}, "layer 6 has a role too"),
        ({"backup": ((4, 7),)}, "layer 4 has no role to be doubled"),
        ({"backup": ((1, 4),)}, "layer 2 reads what layer 4 writes"),
        ({"backup": ((5, 7), (5, 4))}, "one double only"),
        ({"backup": ((5, 7, 4),)}, r"not a list of pairs .* such as \(\(5, 7\),\)"),
        ({"backup": ((5, 5),)}, "names a layer twice"),
        ({"heads_of": {3: (0,)}}, r"layer 3 has no step that heads do; .* are 1, 2, 5"),
        ({"heads_of": {5: (0, 2)}}, r"layer 5 takes different heads from 0 to 1, .* not \(0, 2\)"),
        ({"heads_of": {5: (1, 1)}}, "layer 5 takes different heads"),
        ({"heads_of": {5: ()}}, "layer 5 takes different heads"),
        ({"strength": 0.1}, "strength=0.1 is not a number from 0.2 to 1"),
        ({"noise": -0.1}, "noise=-0.1 is not a number from 0 to 0.2"),
        ({"heads": 0}, "heads=0 is not a whole number from 1 to 16"),
        ({"n_layers": 0}, "n_layers=0 is not a whole number from 1 to 64"),
        ({"n_layers": 64, "noise": 0.2, "inert": ()}, "noise=0.2 drowns what is planted"),
    ],
)
def test_a_wrong_plant_is_refused_in_a_line(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(lr.InputError, match=message) as error:
        lr.planted(**asked)
    assert "\n" not in str(error.value)


def test_tasks_refuse_worked_examples() -> None:
    with pytest.raises(lr.InputError, match=r"num_fewshot=1, .* one length"):
        lr.task("planted_look_up", num_fewshot=1)
    with pytest.raises(lr.InputError, match=r"strength=2\.0 is not a number from 0 to 1"):
        lr.task("planted_fact", strength=2.0)


def test_generation_stops_by_itself() -> None:
    made = default()
    engine = lr.Engine(made.model)
    for task in made.tasks:
        asked = task.examples(6, 0)
        options = {"until": list(task.until), "max_gen_toks": task.max_gen_toks}
        requests = [(example.prompt, options) for example in asked]
        (texts,) = engine.generate_until(requests)
        assert texts == [example.answer for example in asked]
        (writings,) = engine.write(
            lr.protocols.protocol("generation").prepare(engine, task, asked).requests,  # type: ignore[arg-type]
            [lr.Condition({})],
        )
        assert all(one.ended and one.ids[1:] == (END,) for one in writings)
    text = asked[0].prompt
    written = made.model.generate(text, max_new_tokens=3, do_sample=False, verbose=False)
    assert (
        written.split()[-1].removesuffix("<eos>") == asked[0].answer or asked[0].answer in written
    )


def test_the_tokenizer_knows_every_word_as_one_token() -> None:
    known = prepared(default().model).tokenizer
    assert known is make_tokenizer()
    text = default().tasks[0].examples(1, 0)[0].prompt
    ids = known(text)["input_ids"]
    assert ids == [known.bos_token_id, *(ID[word] for word in text.split())]
    assert len(ids) == LAST + 1
    assert known.decode(ids, skip_special_tokens=True) == text
    assert default().model.to_tokens(text)[0].tolist() == ids


@pytest.mark.parametrize("protocol", ["continuation", "generation"])
def test_a_sweep_and_the_localizer_find_the_truth(protocol: str, tmp_path: Path) -> None:
    made = lr.planted(
        n_layers=6, retrieval=(0, 1), reasoning=(4,), knowledge=(2,), inert=(), strength=0.6, seed=4
    )
    conditions = lr.each_layer(made.model, lr.Skip())
    sweep = lr.Sweep(
        made.model, made.tasks, conditions, protocols=[protocol], limit=56, noise_floor=False
    )
    roles = lr.localize(sweep.run(tmp_path / "run"))
    found = roles.frame.set_index("family")
    for family, truth in made.truth.items():
        assert tuple(found.loc[family, "critical"]) == truth
    assert found.loc["reasoning", "specific"] == [4]
    assert found.loc["knowledge", "specific"] == [2]
    # A model that writes guesses at none of what it lost.
    chance = found.loc["retrieval", "chance"] if protocol == "generation" else 0.0
    lost = pytest.approx(0.6 / (1 - chance), abs=0.1)
    assert found.loc["retrieval", "early_minus_late"] == lost
    assert found.loc["retrieval", "ci_low"] > 0


def test_pairs_find_backups_that_single_layers_do_not(tmp_path: Path) -> None:
    made = lr.planted(
        n_layers=6, retrieval=(0, 1), reasoning=(3,), knowledge=(2,), inert=(), backup=((3, 5),)
    )
    task = [task for task in made.tasks if task.family == "reasoning"]
    conditions = [
        *lr.each_layer(made.model, lr.Skip()),
        *lr.pairs(made.model, lr.Skip(), layers=[2, 3, 4, 5]),
    ]
    result = lr.Sweep(
        made.model, task, conditions, protocols=["generation"], limit=32, noise_floor=False
    ).run(tmp_path / "run")
    harm = result.effects().set_index("condition")["harm"]
    single = {layer: harm[f"skip L{layer}"] for layer in range(6)}
    # Nothing is right without them, less than a guess among the seven words of the prompt.
    gone = pytest.approx(1 / (1 - 1 / 7))
    assert single == {0: gone, 1: gone, 2: 0, 3: 0, 4: 0, 5: 0}
    pairs = {name: value for name, value in harm.items() if "," in str(name)}
    assert pairs.pop("skip L3,L5") > 0.85
    assert set(pairs.values()) == {0}
    assert made.joint["reasoning"] == ((3, 5),)


def test_probes_see_the_heads_and_the_emergence() -> None:
    made = default()
    task = [made.tasks[0]]
    assert task[0].family == "retrieval"
    attention = Attention().measure(made.model, task, limit=8)
    looking = attention.groupby(["layer", "head"])["evidence"].mean().idxmax()
    assert lr.Site(int(looking[0]), "head", int(looking[1])) == made.sites["retrieval"][1]
    lens = LogitLens().measure(made.model, task, limit=8)
    ranks = lens.groupby("layer")["rank"].max()
    assert (ranks.loc[2:] == 0).all()
    assert (lens.groupby("layer")["rank"].min().loc[:1] > 0).all()


def test_means_are_taken_on_a_planted_model(tmp_path: Path) -> None:
    made = default()
    task = made.tasks[0]
    reference = lr.Reference(task, limit=16)
    mean = lr.Condition({lr.Site(2): lr.Mean(reference)})
    assert right(made, task, mean).float().mean() < 0.5
    unharmed = lr.Condition({lr.Site(4): lr.Mean(reference)})
    assert right(made, task, unharmed).all()


def native(made: Plant) -> TransformerBridge:
    """The same weights in TransformerLens's own model, which keeps no cache."""
    bridge = TransformerBridge.boot_native(made.model.cfg, dtype=torch.float32, device="cpu")
    weights = dict(made.model.original_model.named_parameters())
    with torch.no_grad():
        for name, parameter in bridge.original_model.named_parameters():
            parameter.copy_(weights.pop(name))
    assert not weights
    bridge.tokenizer = make_tokenizer()
    return lr.prepare(bridge, name="mine")


@cache
def default_native() -> TransformerBridge:
    return native(default())


def test_the_model_with_a_cache_computes_what_transformer_lens_does() -> None:
    made = lr.planted(noise=0.1, heads=3)
    tokens = torch.randint(4, len(ID), (5, 13), generator=torch.Generator().manual_seed(0))
    attended = torch.ones_like(tokens)
    attended[1, :4] = attended[2, :9] = 0
    with torch.no_grad():
        ours = made.model(tokens, attention_mask=attended)
        theirs = native(made)(tokens, attention_mask=attended)
    real = attended.bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("at", ["all", "after_first", "last", "generated", "evidence"])
def test_a_bridge_without_a_cache_decodes_alike(at: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without a cache, the whole text is read again: where a condition acts must stay the same."""
    made = default()
    bare = default_native()
    assert not prepared(bare).checks.caches
    assert all(prepared(bare).checks.holds)
    assert prepared(made.model).checks.caches
    asked = made.tasks[0].examples(5, 0)
    spans: Sequence[Any] = [example.evidence for example in asked]
    requests = [(example.prompt, {"max_gen_toks": 4}) for example in asked]
    condition = lr.Condition({lr.Site(2): lr.Skip()}, at=at)  # type: ignore[arg-type]
    answers = [example.answer for example in asked]
    expected = answers if at in ("generated", "evidence") else ["unsure"] * 5
    caplog.set_level("INFO")
    for model, executor in ((made.model, "hooked"), (bare, "plain")):
        engine = lr.Engine(model, batch_size=2)
        for _ in range(2):
            found = engine.generate_until(requests, [condition], evidence=spans)
        assert found == [expected]
        assert engine.used == {executor}
    # Told once for an engine, not at every call.
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [
        "model 'planted' is not run fused",
        "model 'mine' is not run fused",
        "model 'mine' is not run hooked",
    ]
    for name in ("fused", "hooked"):
        with pytest.raises(lr.InputError, match=f"cannot be run {name}"):
            lr.Engine(bare, executor=name).generate_until(requests)  # type: ignore[arg-type]


def test_probes_read_a_bridge_without_a_cache_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = default()
    monkeypatch.setattr(chunked_prefill, "LONGEST", 4)
    ours = Attention().measure(made.model, made.tasks[:1], limit=3)
    theirs = Attention().measure(default_native(), made.tasks[:1], limit=3)
    numbers = ["layer", "head", "evidence", "first"]
    pd.testing.assert_frame_equal(ours[numbers], theirs[numbers], atol=1e-5)
    with pytest.raises(lr.InputError, match=r"'mine' keeps no cache .* choose head_scores"):
        RetrievalScore(max_gen_toks=2).measure(default_native(), made.tasks[:1], limit=1)


def test_a_bridge_without_a_cache_scores_alike() -> None:
    made = default()
    asked = made.tasks[1].examples(6, 0)
    pairs = [(one.prompt, f" {choice}") for one in asked for choice in one.choices]
    conditions = lr.each_layer(made.model, lr.Skip())
    one, two = (
        lr.Engine(model).loglikelihood(pairs, conditions).logprob
        for model in (made.model, default_native())
    )
    assert one == pytest.approx(two, abs=1e-3)
