"""Direct attribution: parts add up to the model's own logits, and are TransformerLens's parts."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformer_lens.tools.analysis.direct_logit_attribution import direct_logit_attribution
from transformers import Gemma2Config

import layerroles as lr
from layerroles.probes.answering_position import make_batches
from tests.support import random_models
from tests.support.random_models import ALL_ARCHITECTURES, model_path, random_model

CHOICES = ("a", "b", "c")


@pytest.fixture
def task(tmp_path: Path) -> lr.Task:
    """Questions whose choices differ in their first letter, behind a blank that they share."""
    rows = [
        {"prompt": f"{'x' * i} {i}, which?", "answer": CHOICES[i % 3], "choices": CHOICES}
        for i in range(6)
    ]
    return asked(tmp_path, rows)


def asked(folder: Path, rows: list[dict[str, object]]) -> lr.Task:
    file = folder / "asked.jsonl"
    lines = [json.dumps({**row, "family": "knowledge"}) + "\n" for row in rows]
    file.write_text("".join(lines), encoding="utf-8")
    return lr.task(f"local:{file}")


def own_logits(model, example: lr.Example) -> torch.Tensor:
    """The model's logits at the answering position, in the order of the choices."""
    ids = torch.tensor([lr.models.encode(model, f"{example.context()} ")])
    places = [lr.models.encode(model, choice)[-1] for choice in CHOICES]
    with torch.inference_mode():
        return model(ids)[0, -1, places].float()


def against(logits: torch.Tensor, right: int) -> float:
    others = [logits[place] for place in range(len(CHOICES)) if place != right]
    return float(logits[right] - sum(others) / len(others))


# Gemma 2 caps its logits: see below.
ADDED = [name for name in (*ALL_ARCHITECTURES, "gptj", "bloom", "falcon") if name != "gemma2"]


@pytest.mark.parametrize("architecture", ADDED)
def test_the_parts_add_up_to_the_models_own_logit(architecture: str, task: lr.Task) -> None:
    model = random_model(architecture)
    frame = lr.probes.DirectAttribution().measure(model, [task], limit=4)
    assert list(frame.columns[-3:]) == ["layer", "part", "logit"]
    for example in task.examples(4, 0):
        own = frame[frame["example"] == example.id]
        assert len(own) == 2 + 2 * 3
        expected = against(own_logits(model, example), CHOICES.index(example.answer))
        assert own["logit"].sum() == pytest.approx(expected, abs=1e-4)
    written = frame[frame["part"].isin(("attn", "mlp"))]
    assert (written.groupby(["layer", "part"])["logit"].std() > 0.001).all()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox"])
def test_each_part_is_what_transformer_lens_finds(architecture: str, task: lr.Task) -> None:
    frame = lr.probes.DirectAttribution().measure(random_model(architecture), [task], limit=2)
    folded = lr.load(model_path(architecture), dtype="float32")  # a bridge of its own
    folded.enable_compatibility_mode()  # changes its weights for good
    for example in task.examples(2, 0):
        ids = torch.tensor([lr.models.encode(folded, f"{example.context()} ")])
        tokens = {name: lr.models.encode(folded, name)[-1] for name in CHOICES}
        others = [tokens[name] for name in CHOICES if name != example.answer]
        found = [
            direct_logit_attribution(folded, ids, tokens[example.answer], other) for other in others
        ]
        mean = sum(each.attribution[:, 0].detach() for each in found) / len(found)
        expected = {
            (int(label.split("_")[0]), label.split("_")[1]): float(value)
            for label, value in zip(found[0].labels, mean, strict=True)
            if label.endswith("_out")
        }
        own = frame[(frame["example"] == example.id) & (frame["layer"] >= 0)]
        mine = own.set_index(["layer", "part"])["logit"].to_dict()
        assert mine == pytest.approx(expected, abs=1e-4)


def test_without_choices_it_is_the_answers_own_logit(tmp_path: Path) -> None:
    model = random_model("gpt2")
    task = asked(tmp_path, [{"prompt": "What comes after b?", "answer": "c"}])
    frame = lr.probes.DirectAttribution().measure(model, [task], limit=1)
    (example,) = task.examples(1, 0)
    ids = torch.tensor([lr.models.encode(model, example.context())])
    with torch.inference_mode():
        own = model(ids)[0, -1, lr.models.encode(model, " ")[-1]]
    assert frame["logit"].sum() == pytest.approx(float(own), abs=1e-4)


def test_parts_are_logits_before_a_soft_cap(task: lr.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**random_models.LLAMA_LIKE, "head_dim": 8, "query_pre_attn_scalar": 8}
    config = Gemma2Config(**small, sliding_window=128, final_logit_softcapping=0.5)
    monkeypatch.setitem(random_models.CONFIGS, "capped", config)
    model = random_model("capped")
    frame = lr.probes.DirectAttribution().measure(model, [task], limit=3)
    for example in task.examples(3, 0):
        capped = own_logits(model, example)
        before = 0.5 * torch.atanh(capped / 0.5)
        right = CHOICES.index(example.answer)
        summed = frame.loc[frame["example"] == example.id, "logit"].sum()
        assert summed == pytest.approx(against(before, right), abs=1e-3)
        assert abs(summed - against(capped, right)) > 0.01


def test_padding_changes_nothing(task: lr.Task) -> None:
    model = random_model("llama")
    together = lr.probes.DirectAttribution().measure(model, [task], limit=6)
    keys = ["example", "layer", "part"]
    alone = pd.concat(
        pd.DataFrame([{"example": name, **row} for name, row in probe.rows(model, batch)])
        for probe in [lr.probes.DirectAttribution()]
        for example in task.examples(6, 0)
        for batch in make_batches(model, [example])
    )
    both = together.merge(alone, on=keys)
    assert len(both) == len(together)
    assert (both["logit_x"] - both["logit_y"]).abs().max() < 1e-5


def test_what_cannot_be_taken_apart_is_refused(
    task: lr.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = lr.probes.DirectAttribution()
    with pytest.raises(lr.InputError, match=r"cannot take .*jamba.* apart: at L0.attn"):
        probe.measure(random_model("jamba"), [task], limit=1)
    with pytest.raises(lr.InputError, match=r"cannot take .*gemma4.* apart: layer 0 adds more"):
        probe.measure(random_model("gemma4"), [task], limit=1)
    # Of a layer that is ablated as a whole, sublayers compute writes that go nowhere.
    for part in ("block", "stream"):
        condition = lr.Condition({lr.Site(1, part): lr.Zero()})
        with pytest.raises(lr.InputError, match=r"zero at .* edits more than a sublayer"):
            probe.measure(random_model("llama"), [task], limit=1, condition=condition)
    swap = lr.Condition({lr.Site(1): lr.Swap(random_model("llama", seed=1))})
    assert len(probe.measure(random_model("llama"), [task], limit=1, condition=swap))
    model = random_model("llama")
    own = type(model.adapter).apply_output_logits_transform
    monkeypatch.setattr(
        type(model.adapter), "apply_output_logits_transform", lambda self, x: own(self, x) + 0.1
    )
    with pytest.raises(lr.InputError, match=r"add up to a logit that differs .* by 0\.1"):
        probe.measure(model, [task], limit=1)
