"""Block influence and angular distance, beside a reference that is written out."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

import layerroles as lr
from layerroles.models.loading import encode
from layerroles.probes import chunked_prefill
from tests.support.random_models import random_model

MODELS = ("gpt2", "llama", "gemma2", "neox", "olmo2", "gemma2_window", "jamba")
PROMPTS = ["ab", "A longer prompt than that.", "One more, of a length of its own:"]


@pytest.fixture
def task(tmp_path: Path) -> lr.Task:
    path = tmp_path / "prompts.jsonl"
    rows = [json.dumps({"prompt": prompt, "answer": "x"}) for prompt in PROMPTS]
    path.write_text("\n".join(rows))
    return lr.task("local", path=str(path), family="language")


def reference(name: str, prompt: str, position: str) -> dict[tuple[int, int], tuple[float, float]]:
    """Influence and angular distance by (layer, n), from transformers' own blocks, in plain loops.

    The prompt is read alone, so that there is no padding.
    """
    model = random_model(name)
    streams: list[list[list[float]]] = []
    blocks = [model.blocks[layer].original_component for layer in range(model.cfg.n_layers)]

    def enter(_: object, args: tuple, kwargs: dict) -> None:
        streams.append((args[0] if args else kwargs["hidden_states"])[0].tolist())

    def leave(_: object, __: object, out: object) -> None:
        streams.append((out[0] if isinstance(out, tuple) else out)[0].tolist())

    handles = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(leave))
    with torch.inference_mode():
        model.original_model(torch.tensor([encode(model, prompt)]), use_cache=False)
    for handle in handles:
        handle.remove()
    found = {}
    for layer in range(len(blocks)):
        for n in range(1, len(blocks) - layer + 1):
            cosines = []
            for x, y in zip(streams[layer], streams[layer + n], strict=True):
                dot = sum(a * b for a, b in zip(x, y, strict=True))
                norms = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
                cosines.append(max(-1.0, min(1.0, dot / norms)))
            cosines = cosines[-1:] if position == "last" else cosines
            angles = [math.acos(cosine) / math.pi for cosine in cosines]
            found[layer, n] = 1 - sum(cosines) / len(cosines), sum(angles) / len(angles)
    return found


@pytest.mark.parametrize("position", ["last", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_similarity_equals_the_reference_and_does_not_see_padding(
    name: str, position: str, task: lr.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_prefill, "LONGEST", 7)
    probe = lr.probes.Similarity(position)
    frame = probe.measure(random_model(name), [task])  # one batch, padded
    for example in task.examples(3, 0):
        part = frame[frame.example == example.id].set_index(["layer", "n"])
        expected = reference(name, example.prompt, position)
        assert set(part.index) == set(expected)
        assert (part.n_tokens == (1 if position == "last" else len(example.prompt))).all()
        for place, (influence, angular) in expected.items():
            assert part.influence[place] == pytest.approx(influence, abs=1e-5)
            assert part.angular[place] == pytest.approx(angular, abs=1e-5)


def test_a_block_that_writes_nothing_changes_nothing(task: lr.Task) -> None:
    model = random_model("llama")
    with lr.ablated(model, lr.Condition({lr.Site(1): lr.Skip()})):
        frame = lr.probes.Similarity("all").measure(model, [task])
    changes = frame.groupby(["layer", "n"])[["influence", "angular"]].mean()
    assert changes.loc[1, 1].tolist() == pytest.approx([0, 0], abs=1e-7)
    assert changes.loc[0, 1].tolist() == pytest.approx(changes.loc[0, 2].tolist())
    assert (changes.drop(index=(1, 1)) > 1e-3).all(axis=None)


def test_the_least_change_of_each_number_of_blocks() -> None:
    rows = [
        ("t", example, layer, n, angular)
        for example in ("a", "b")
        for layer, n, angular in [(0, 1, 0.4), (1, 1, 0.2), (2, 1, 0.3), (0, 2, 0.5), (1, 2, 0.6)]
    ]
    rows.append(("t", "c", 1, 1, 0.9))  # by the mean it is no longer the least
    frame = pd.DataFrame(rows, columns=["task", "example", "layer", "n", "angular"])
    least = lr.probes.least_change(frame)
    assert least[["n", "layer", "stop"]].to_numpy().tolist() == [[1, 2, 3], [2, 0, 2]]
    assert least.angular.tolist() == [0.3, 0.5]
    with pytest.raises(lr.InputError, match="needs a frame that Similarity"):
        lr.probes.least_change(frame.drop(columns="n"))


def test_an_unknown_position_is_refused() -> None:
    with pytest.raises(lr.InputError, match="unknown position 'first': known are 'last' and 'all'"):
        lr.probes.Similarity("first")
