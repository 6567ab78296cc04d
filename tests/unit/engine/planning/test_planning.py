"""Packing, planning and budgets: nothing here runs a model, but for the last tests."""

import os
import platform
import random
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import layerroles as lr
from layerroles.engine.fused.prefix_packing import pack_row, pack_rows
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.planning import memory
from layerroles.engine.planning.memory import Budget, Shape, memory_budget
from layerroles.engine.planning.pass_cost import Speed
from layerroles.engine.planning.plan import make_plan
from layerroles.engine.requests import Scored, Written
from tests.support.random_models import random_model

SHAPE = Shape(
    n_layers=4,
    n_heads=2,
    d_head=4,
    d_model=8,
    d_mlp=32,
    d_vocab=100,
    n_weights=1000,
    n_active=960,
    n_bytes=4,
    kv=(64,) * 4,
    inner=100,
)
CONDITIONS = [lr.Condition({}), *(lr.Condition({lr.Site(n): lr.Skip()}) for n in range(4))]


def sequences(kind: str) -> list[tuple[int, ...]]:
    draw = random.Random(kind)
    shots = tuple(range(100, 400))

    def some(most: int, vocabulary: int = 5) -> tuple[int, ...]:
        return tuple(draw.randrange(vocabulary) for _ in range(draw.randrange(1, most)))

    return {
        "few shots": [shots + some(60) for _ in range(20)],
        "two levels": [shots + (n,) * 80 + some(70) for n in range(4) for _ in range(9)],
        "nothing shared": [(n, *some(300)) for n in range(12)],
        "short": [some(8, 2) for _ in range(60)],
        "one within another": [(7,) * n for n in range(1, 600, 23)],
        "ends with the shots": [shots, shots[:50], *(shots + some(60) for _ in range(12))],
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["few shots", "two levels", "nothing shared", "short", "one within another",
     "ends with the shots"],
)  # fmt: skip
def test_a_packed_row_holds_every_sequence(kind: str) -> None:
    asked = sequences(kind)
    packed = pack_row(asked)
    for ids in asked:
        path = packed.paths[ids]
        assert tuple(packed.tokens[place] for place in path) == ids
        assert [packed.positions[place] for place in path] == list(range(len(ids)))
        # What the last token may look at is exactly its path.
        segment = packed.segments[packed.segment_of[ids]]
        seen = {
            place
            for trunk in map(packed.segments.__getitem__, segment.trunks)
            for place in range(trunk.start, trunk.start + trunk.n)
        }
        own = path[-1] - segment.start
        row = range(own + 1) if segment.sees is None else segment.sees[own].nonzero()[0]
        assert seen | {segment.start + int(place) for place in row} == set(path.tolist())
    assert len(packed.tokens) <= sum(map(len, set(asked)))


def test_shared_tokens_are_read_once() -> None:
    asked = sequences("few shots")
    packed = pack_row(asked)
    longest = max(len(ids) - 300 for ids in asked)
    assert len(packed.tokens) <= 300 + len(asked) * longest
    assert [segment.n for segment in packed.segments].count(300) == 1


def test_groups_hold_everything_once_and_keep_to_their_bounds() -> None:
    asked = sequences("two levels") + sequences("nothing shared")
    rows = pack_rows(asked, max_tokens=500, max_sequences=5)
    assert sorted(ids for row in rows for ids in row.paths) == sorted(set(asked))
    assert max(len(row.paths) for row in rows) <= 5
    assert all(len(row.paths) == 1 or len(row.tokens) <= 500 for row in rows)


def test_short_beginnings_that_are_read_again_are_counted() -> None:
    asked = [(*range(10, 25), 100 + n) for n in range(1000)]
    rows = pack_rows(asked, max_tokens=2048)
    assert sorted(ids for row in rows for ids in row.paths) == asked
    assert max(len(row.tokens) for row in rows) <= 2048


def test_a_plan_counts_what_is_shared() -> None:
    shots = tuple(range(300))
    requests = [Scored((*shots, n), (1, 2)) for n in range(10)]
    plan = make_plan(requests, CONDITIONS, SHAPE, Budget(2**24))
    assert (plan.verb, plan.n_requests, plan.n_conditions, plan.rows) == ("loglikelihood", 10, 5, 0)
    assert plan.passes == 4  # the intact one; the last block needs none
    assert plan.tokens_alone == 5 * 10 * 302
    # Read: once intact, then from behind the blocks 0, 1, 2 and 3 of 4 on.
    assert plan.tokens_read == pytest.approx((300 + 2 * 10) * (1 + 0.75 + 0.5 + 0.25 + 0))
    assert "times fewer" in str(plan)


def test_a_plan_of_texts_keeps_rows_within_memory() -> None:
    requests = [Written((n, *range(60)), (), 20) for n in range(8)]
    large = make_plan(requests, CONDITIONS, SHAPE, Budget(2**24))
    assert large.rows == 5 * 8
    assert [wave for group in large.groups for wave in group.waves] == [(1, 2, 3, 0, 4)]
    small = make_plan(requests, CONDITIONS, SHAPE, Budget(2**19))
    assert small.rows < large.rows
    assert small.n_bytes < large.n_bytes
    for plan in (small, large):
        for group in plan.groups:
            assert sorted(place for wave in group.waves for place in wave) == list(range(5))
        assert sorted(index for group in plan.groups for index in group.asked) == list(range(8))


@pytest.mark.parametrize(
    ("given", "n"),
    [("8GB", 8 * 2**30), ("1.5 gib", 3 * 2**29), ("500MB", 500 * 2**20), (2**20, 2**20)],
)
def test_sizes_are_read(given: str | int, n: int) -> None:
    assert lr.Engine(random_model("llama"), memory=given)._executors.budget.total == n


@pytest.mark.parametrize("given", ["8 apples", "", "-1GB", 1000, "3KB", True])
def test_invalid_memory_size_raises(given: str | int) -> None:
    with pytest.raises(lr.InputError, match="memory="):
        lr.Engine(random_model("llama"), memory=given)


def test_by_default_half_of_the_free_memory_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_free_bytes", lambda device: 6 * 2**30)
    assert memory_budget(None, torch.device("cpu")).total == 3 * 2**30


def test_a_gpus_memory_is_read_after_torch_has_returned_what_it_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = [2**30]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.append(7 * 2**30))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[-1], 8 * 2**30))
    assert memory_budget(None, torch.device("cuda:0")).total == 7 * 2**29


def test_free_memory_is_assumed_where_the_system_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on Windows."""

    def refuse(*_args: object, **_options: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.delattr(os, "sysconf")
    assert memory_budget(None, torch.device("cpu")).total == 2**31


def test_files_that_were_read_do_not_count_as_taken(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    stat = "anon 100\nfile 800\ninactive_file 500\nactive_file 200\n"
    (tmp_path / "memory.stat").write_text(stat)
    assert memory._free_in_group(tmp_path) == 800


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's allocator")
def test_pages_are_kept_between_passes_and_given_back_when_memory_is_counted() -> None:
    script = """
from pathlib import Path
import torch
from layerroles.engine.planning.memory import keep_pages, memory_budget

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

cpu = torch.device("cpu")
keep_pages()
before = resident()
large = [torch.ones(2**24) for _ in range(4)]  # 64 MB each
held = resident() - before
del large
kept = resident() - before
memory_budget(None, cpu)
left = resident() - before
assert held > 240 and kept > 240 and left < 120, (held, kept, left)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


def test_where_conditions_act_decides_what_is_read_for_them() -> None:
    shots = tuple(range(100, 400))
    asked = [Written((*shots, n), (), 8) for n in range(5)]
    edits = [lr.Skip(), lr.Resample(lr.Reference(["one", "another"]))]
    skipped, resampled = (lr.Condition({lr.Site(1): edit}) for edit in edits)
    writing = lr.Condition({lr.Site(1): lr.Skip()}, at="generated")
    conditions = [lr.Condition({}), skipped, resampled, writing]
    plan = make_plan(asked, conditions, SHAPE, Budget(2**30))
    shared, apart = plan.groups
    # A donor depends on the whole prompt, so prompts share nothing; else they share the shots.
    assert (sorted(shared.conditions), apart.conditions) == ([0, 1, 3], (2,))
    assert (shared.n_tokens, apart.n_tokens) == (305, 5 * 301)
    # What is generated only leaves the contexts as they are.
    assert dict(zip(shared.conditions, shared.depths, strict=True)) == {0: 0.0, 1: 0.5, 3: 0.0}
    assert apart.depths == (0.5,)
    assert plan.passes == 4
    scored = [Scored(one.context, (1, 2, 3)) for one in asked]
    assert make_plan(scored, [writing], SHAPE, Budget(2**30)).groups[0].depths == (0.5,)


def test_requests_of_one_context_are_rows_of_their_own() -> None:
    requests = [Written((1, 2, 3), (str(n),), 20) for n in range(8)]
    requests += [Written((4, 5, n), (), 20) for n in range(8)]
    plan = make_plan(requests, CONDITIONS, SHAPE, Budget(2**19))
    rows = [[len(wave) * len(group.asked) for wave in group.waves] for group in plan.groups]
    assert sum(map(sum, rows)) == 5 * 16
    assert max(len(group.asked) for group in plan.groups) < 16


def test_an_engine_plans_without_running() -> None:
    model = random_model("llama")
    engine = lr.Engine(model)
    conditions = [lr.Condition({}), *lr.each_layer(model, lr.Skip())]
    plan = engine.plan([("a b c", " d"), ("a b c", " e")], conditions)
    assert (plan.passes, plan.rows) == (3, 0)
    plan = engine.plan([("a b c", {"max_gen_toks": 5})] * 2, conditions)
    assert (plan.verb, plan.rows) == ("generate_until", 8)
    assert engine.used == set()
    both = engine.plan([("a b c", " d"), ("a b c", {"max_gen_toks": 5})], conditions)
    assert (both.verb, both.rows) == ("loglikelihood and generate_until", 4)
    # The context is read once for both: "a b c" and the blank of " d".
    assert [group.n_tokens for group in both.groups] == [6]
    assert engine.plan([("a", {"max_gen_toks": 5})], []).rows == 0
    with pytest.raises(lr.InputError, match="no requests"):
        engine.plan([], conditions)
    with pytest.raises(lr.InputError, match="out of range"):
        engine.plan([("a", "b")], [lr.Condition({lr.Site(3): lr.Skip()})])


def test_a_condition_on_answers_reads_again_only_where_answers_are_scored() -> None:
    """Contexts that are only gone on from are read as the intact model does."""
    conditions = [lr.Condition({}), lr.Condition({lr.Site(0): lr.Skip()}, at="generated")]
    scores = [Scored((9, *range(n, n + 40)), (1,)) for n in range(3)]
    texts = [Written((8, *range(n, n + 40)), (), 4) for n in range(3)]
    plan = make_plan([*scores, *texts], conditions, SHAPE, Budget(2**16))
    kinds = [
        {"scored" if index < 3 else "written" for index in group.asked} for group in plan.groups
    ]
    assert {"scored"} in kinds
    assert {"written"} in kinds
    assert plan.passes == sum(1 + ("scored" in kind) for kind in kinds)


def test_one_long_text_is_packed_in_little_memory() -> None:
    tracemalloc.start()
    packed = pack_row([tuple(range(20_000))])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(packed.tokens) == 20_000
    assert most < 20 * 2**20


def test_what_would_not_be_run_fused_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(lr.InputError, match="executor='plain': only what is run fused is planned"):
        lr.Engine(random_model("llama"), executor="plain").plan([("a", "b")])
    engine = lr.Engine(random_model("gemma2"))
    monkeypatch.setattr(Twin, "max_exact_tokens", 128)
    assert engine.plan([("a", "b")]).passes == 1
    with pytest.raises(lr.InputError, match="do not fit into its sliding window of 128"):
        engine.plan([("a" * 200, "b")])


def test_a_plan_is_printed_with_all_that_it_tells() -> None:
    """In numbers that can be counted by hand.

    Two contexts of 4 tokens that share 3 are a row of 5; it is read by the intact model, and
    without the first of three layers through the other two, a pass of two thirds. Skipping the
    last layer is an edit of what the intact model did. Each of six rows writes 4 tokens after the
    one that its context told, at 2 seconds a token.
    """
    engine = lr.Engine(random_model("llama"))
    conditions = [lr.Condition({}), *lr.each_layer(engine.model, lr.Skip(), layers=[0, 2])]
    plan = engine.plan([("abcd", {"max_gen_toks": 5}), ("abce", {"max_gen_toks": 5})], conditions)
    fast = Speed(
        products=float("inf"),
        attention=float("inf"),
        bandwidth=float("inf"),
        start=0.0,
        text=2.0,
        is_gpu=False,
    )
    assert str(replace(plan, speed=fast)).split("\n") == [
        "fused, generate_until: 2 requests x 3 conditions",
        "  passes      2 over 1 packed rows",
        "  tokens      24 if each request is read alone, 8 here (2.9 times fewer)",
        "  decoded     up to 6 rows together",
        f"  memory      up to {plan.n_bytes / 2**20:.0f} MB of tensors in addition to the weights",
        "  time        up to about 48 s",
    ]
