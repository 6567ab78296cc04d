"""What all probes share: conditions, what is read at the answering position, kept frames."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import layerroles as lr
from layerroles.probes import PROBES, chunked_prefill
from layerroles.probes.answering_position import Batch, make_batches
from layerroles.probes.read_probe_tables import BUILT_IN, group_by_probe
from layerroles.sites import NamedAt
from layerroles.tasks.base import Example
from tests.support.probe_questions import QUESTIONS, Listed
from tests.support.random_models import model_path, random_model


@lr.probes.register("test_stream")
@dataclass(frozen=True)
class Stream(lr.probes.Probe):
    """The stream's first entry after block 1, and a text that looks like a missing value."""

    def rows(self, model: TransformerBridge, batch: Batch) -> Iterator[tuple[str, dict[str, Any]]]:
        seen: list[torch.Tensor] = []
        batch.run(model, {"blocks.1.hook_out": lambda value: seen.append(value[:, -1, 0])})
        for example, value in zip(batch.examples, seen[0].tolist(), strict=True):
            yield example.id, {"value": value, "text": "nan", "none": float("nan")}


def test_a_batch_tells_how_the_choices_go_on() -> None:
    model = random_model("llama")
    first, second = (next(make_batches(model, [example])) for example in QUESTIONS)

    def ids(text: str) -> tuple[int, ...]:
        return tuple(lr.models.encode(model, text))

    # A token for each character: the blank is shared, the first letters tell most choices apart.
    assert tuple(first.tokens[0].tolist()) == ids("the cat sat on the ")
    assert (first.answers[0],) == ids("m")
    assert first.others == [ids("s")]  # "moon" goes on as "mat" does
    assert second.others == [ids("f")]
    assert first.prompts[0].ids == ids("the cat sat on the")
    assert first.prompts[0].evidence == (4, 5, 6)
    assert second.prompts[0].evidence is None
    alone = next(make_batches(model, [Example("c", "one", "two")]))
    assert alone.others == [()]
    assert tuple(alone.tokens[0].tolist()) == ids("one")


@pytest.mark.parametrize("at", ["all", "after_first", "last", "evidence"])
def test_a_probe_sees_the_ablated_model(at: NamedAt) -> None:
    model, task = random_model("llama"), Listed(QUESTIONS[:1])
    condition = lr.Condition({lr.Site(0): lr.Skip()}, at=at)
    frame = Stream().measure(model, [task], condition=condition)
    assert frame.columns[:6].tolist() == "probe model condition task family example".split()
    assert set(frame.condition) == {condition.name}
    ids = torch.tensor([lr.models.encode(model, "the cat sat on the ")])
    prompt = lr.Prompt(tuple(ids[0, :-1].tolist()), evidence=(4, 5, 6))
    with lr.ablated(model, condition, prompts=[prompt]), torch.inference_mode():
        _, cache = model.run_with_cache(ids, names_filter=["blocks.1.hook_out"])
    assert frame.value.item() == pytest.approx(float(cache["blocks.1.hook_out"][0, -1, 0]))
    intact = Stream().measure(model, [task])
    assert set(intact.condition) == {"intact"}
    assert intact.value.item() != pytest.approx(frame.value.item())
    again = Stream().measure(model, [task])
    assert again.value.item() == intact.value.item()  # the hooks are gone


def test_condition_at_unknown_evidence_raises() -> None:
    condition = lr.Condition({lr.Site(0): lr.Skip()}, at="evidence")
    with pytest.raises(lr.InputError, match="it is not known where the evidence is"):
        Stream().measure(random_model("llama"), [Listed(QUESTIONS[1:])], condition=condition)


def test_a_condition_that_does_not_fit_is_refused() -> None:
    condition = lr.Condition({lr.Site(9): lr.Skip()})
    with pytest.raises(lr.InputError, match="L9"):
        Stream().measure(random_model("llama"), [Listed(QUESTIONS)], condition=condition)


def test_frames_of_several_conditions_are_kept_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tasks = random_model("llama"), [Listed(QUESTIONS)]
    skip = lr.Condition({lr.Site(1): lr.Skip()})
    intact = lr.probes.measure_into(tmp_path, Stream(), model, tasks)
    under = lr.probes.measure_into(tmp_path, Stream(), model, tasks, condition=skip)
    assert not under.value.equals(intact.value)
    monkeypatch.setattr(lr.probes.Probe, "measure", None)  # would fail if it measured again
    pd.testing.assert_frame_equal(
        lr.probes.measure_into(tmp_path, Stream(), model, tasks, condition=skip), under
    )
    pd.testing.assert_frame_equal(lr.probes.measure_into(tmp_path, Stream(), model, tasks), intact)
    (read,) = lr.probes.read_saved(tmp_path)  # what a report draws is the intact model
    pd.testing.assert_frame_equal(read, intact)
    assert read.text.tolist() == ["nan", "nan"]
    assert read.example.tolist() == ["b", "7"]
    assert read.none.isna().all()
    assert len(lr.probes.read_saved(tmp_path, condition=None)) == 2
    (other,) = lr.probes.read_saved(tmp_path, condition=skip.name)
    pd.testing.assert_frame_equal(other, under)


@pytest.mark.parametrize("at", ["all", "after_first", "prompt", "last", "evidence", "generated"])
def test_a_prompt_read_in_pieces_is_ablated_where_it_is_in_one(
    at: NamedAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tasks = random_model("llama"), [Listed(QUESTIONS[:1])]
    condition = lr.Condition({lr.Site(0): lr.Skip()}, at=at)
    for probe in (lr.probes.Attention(), lr.probes.Similarity(position="all")):
        whole = probe.measure(model, tasks, condition=condition)
        monkeypatch.setattr(chunked_prefill, "LONGEST", 5)
        pieces = probe.measure(model, tasks, condition=condition)
        monkeypatch.undo()
        pd.testing.assert_frame_equal(whole, pieces, rtol=0, atol=1e-5)


def test_the_probes_of_the_package_are_known_without_the_registry() -> None:
    registered = {n for n in PROBES if PROBES[n].__module__.startswith("layerroles.")}
    assert set(BUILT_IN) == registered


def test_frames_are_grouped_by_probe_under_one_condition() -> None:
    frame = pd.DataFrame(
        {"probe": "attention", "task": "t", "example": ["a", "b"], "evidence": [0.5, 0.7]}
    )
    skip = frame.assign(condition="skip L1", evidence=0.0)
    lens = frame.assign(probe="logit_lens")
    found = group_by_probe([frame, lens, skip, frame])
    assert {name: rows["evidence"].tolist() for name, rows in found.items()} == {
        "attention": [0.5, 0.7],
        "logit_lens": [0.5, 0.7],
    }
    assert group_by_probe([frame, skip], "skip L1")["attention"]["evidence"].tolist() == [0.0, 0.0]
    every = group_by_probe([frame, skip], None)["attention"]
    assert every["condition"].tolist() == ["intact", "intact", "skip L1", "skip L1"]
    with pytest.raises(lr.InputError, match="on the same examples: pass one of them"):
        group_by_probe([frame, skip, skip.assign(evidence=1.0)], None)


def test_a_model_without_weights_is_refused_in_one_line() -> None:
    model = lr.load(model_path("llama"), device="meta")
    probes = lr.probes
    for read in (
        lambda: probes.LogitLens().read(model, ["abc"]),
        lambda: probes.HeadScores().measure_repeated(model, length=4, limit=1),
        lambda: probes.head_patterns(model, "abc", [lr.Site(0, "head", 0)]),
        lambda: probes.TunedLens.fit(model, ["abc"], steps=1),
    ):
        with pytest.raises(lr.InputError, match="has no weights"):
            read()
