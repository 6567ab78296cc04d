"""lm-eval's tasks on the real model: sample by sample what lm-eval's own `HFLM` gives."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

import layerroles as lr
from layerroles.protocols import Harness
from tests.support import lm_eval_data as data
from tests.support.tiers import mark_rest

LIMIT = 3


@dataclass(frozen=True)
class Case:
    """A task, how many shots, whether it goes through the chat template."""

    name: str
    num_fewshot: int = 0
    chat: bool = False
    own: bool = False


CASES = [
    Case("arc_easy", num_fewshot=2),
    Case("hellaswag"),
    Case("winogrande"),
    Case("lambada_openai"),
    Case("own_sums", num_fewshot=2, own=True),
    Case("own_group", own=True),
    Case("own_information", own=True),
    Case("own_sums", num_fewshot=1, own=True, chat=True),
    Case("arc_easy", num_fewshot=1, chat=True),
]


FIRST = [
    (case, [11])
    for case in CASES
    if not case.chat and (case.name == "lambada_openai" or case.num_fewshot == 2)
]
WAYS = [(case, layers) for case in CASES for layers in ([11], [0, 29])]


@cache
def model() -> TransformerBridge:
    return lr.load("smollm2-135m", dtype="float32")


@cache
def peer() -> Any:
    return AutoModelForCausalLM.from_pretrained(lr.model_folder("smollm2-135m"), dtype="float32")


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(lr.model_folder("smollm2-135m"))


@cache
def manager(include_path: str | None) -> TaskManager:
    return TaskManager(include_path=include_path)


@pytest.fixture(autouse=True)
def no_list_of_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, each evaluation calls pip to list packages, which takes a second."""
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")


class Identity(torch.nn.Module):
    """A layer that returns what it is given."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", "full_attention")

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states


@contextmanager
def without(layer: int | None) -> Iterator[Any]:
    """The Hugging Face model with a layer replaced by the identity."""
    layers = peer().model.layers
    if layer is None:
        yield peer()
        return
    kept = layers[layer]
    layers[layer] = Identity(kept)
    try:
        yield peer()
    finally:
        layers[layer] = kept


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("lm_eval")
    return {
        "arc_easy": data.arc(base / "arc"),
        "hellaswag": data.hellaswag(base / "hellaswag"),
        "lambada_openai": data.lambada(base / "lambada"),
        "winogrande": data.winogrande(base / "winogrande"),
        "own": data.own_tasks(base / "own"),
    }


def made(case: Case, folders: dict[str, str]) -> Any:
    where = {"include_path": folders["own"]} if case.own else {"data": folders[case.name]}
    # lm-eval's own `limit` takes the first documents.
    options = {"num_fewshot": case.num_fewshot, "order": "first"}
    return lr.task(f"lm_eval:{case.name}", **options, **where)


def harness(case: Case, folders: dict[str, str], layer: int | None) -> dict[str, Any]:
    """lm-eval's own run, on Hugging Face's model."""
    where = folders["own"] if case.own else None
    spec: Any = case.name
    if not case.own:
        one = {"task": case.name, "dataset_path": folders[case.name]}
        spec = {"group": "with_data", "task": [one]}
    with without(layer) as hf:
        # A cache without its first layer counts no tokens: a batch of that is padded wrongly.
        lm = HFLM(pretrained=hf, tokenizer=tokenizer(), batch_size=1 if layer == 0 else 3)
        found: dict[str, Any] = lm_eval.simple_evaluate(
            lm,
            tasks=[spec],
            num_fewshot=case.num_fewshot,
            limit=LIMIT,
            apply_chat_template=case.chat,
            fewshot_as_multiturn=case.chat,
            task_manager=manager(where),
            bootstrap_iters=0,
        )
    return found


@pytest.fixture(scope="module")
def evaluated(folders: dict[str, str]) -> Callable[[Case, int | None], dict[str, Any]]:
    """lm-eval's own run without a layer, once for all tests."""
    return cache(lambda case, layer: harness(case, folders, layer))


@pytest.mark.parametrize("way", mark_rest("real", WAYS, first=FIRST), ids=str)
def test_samples_and_metrics_are_those_of_lm_eval(
    way: tuple[Case, list[int]],
    folders: dict[str, str],
    evaluated: Callable[[Case, int | None], dict[str, Any]],
    tmp_path: Path,
) -> None:
    case, layers = way
    task = made(case, folders)
    limit = LIMIT * len(task.members)
    conditions = lr.each_layer(model(), lr.Skip(), layers=layers)
    sweep = lr.Sweep(
        model(),
        [task],
        conditions,
        protocols=["generation"],
        limit=limit,
        chat=case.chat,
        noise_floor=False,
    )
    result = sweep.run(tmp_path / "run")
    aggregated = lr.lm_eval_metrics(result).set_index(["condition", "member", "metric", "filter"])
    asked = Harness(task).prepare(lr.Engine(model()), task, task.examples(limit, 0), chat=case.chat)
    for layer, condition in zip([None, *layers], ["intact", *conditions], strict=True):
        name = "intact" if layer is None else condition.name
        theirs = evaluated(case, layer)
        rows = result.frame[result.frame["condition"] == name].set_index("example")
        samples = [one for each in theirs["samples"].values() for one in each]
        assert len(samples) == len(rows) * len({one["filter"] for one in samples})
        for member, each in theirs["samples"].items():
            for sample in each:
                same_answer(rows.loc[f"{member}/{sample['doc_id']}"], sample)
        for member, metrics in theirs["results"].items():
            member = "all" if member == "own_group" else member
            for key, value in metrics.items():
                metric, _, filter = key.partition(",")
                if not filter or "stderr" in metric or not isinstance(value, float | int):
                    continue
                if (
                    metric
                    not in task.members.get(member, next(iter(task.members.values()))).aggregation()
                ):
                    continue
                ours = aggregated.loc[(name, member, metric, filter), "value"]
                assert ours == pytest.approx(value, rel=1e-4), (name, member, key)
    same_prompts(asked, theirs)


def same_answer(row: Any, sample: dict[str, Any]) -> None:
    """One document: log-likelihoods, texts, metrics."""
    details = json.loads(row["details"])
    if isinstance(sample["resps"][0][0], str):
        assert row["response"] == sample["resps"][0][0]
    else:
        theirs = [resp[0][0] for resp in sample["resps"]]
        assert details["logprobs"] == pytest.approx(theirs, abs=1e-3)
    for metric in sample["metrics"]:
        ours, value = details[f"{metric},{sample['filter']}"], sample[metric]
        if isinstance(value, tuple):
            assert ours[0] == value[0]
            assert ours[1] == pytest.approx(list(value[1]), abs=1e-3)
        elif metric in ("acc", "acc_norm", "exact_match", "acc_mutual_info"):
            assert ours == value
        else:
            assert ours == pytest.approx(value, rel=1e-4, abs=1e-3)


def same_prompts(asked: Any, theirs: dict[str, Any]) -> None:
    """The texts that lm-eval built, and the token ids that its `HFLM` makes of them."""
    lm = HFLM(pretrained=peer(), tokenizer=tokenizer())
    samples = {
        f"{member}/{one['doc_id']}": one
        for member, each in theirs["samples"].items()
        for one in each
    }
    requests = iter(asked.requests)
    for example, instances in zip(asked.examples, asked.instances, strict=True):
        for instance, given in zip(instances, samples[example.id]["arguments"], strict=True):
            request = next(requests)
            assert instance.args[0] == given[0]
            if instance.request_type == "generate_until":
                assert list(request.context) == lm.tok_batch_encode([given[0]])[0][0].tolist()
            elif given[0]:
                context, rest = lm._encode_pair(*given)
                assert (list(request.context), list(request.continuation)) == (context, rest)
            else:
                assert list(request.context) == [lm.prefix_token_id]
    assert next(requests, None) is None


@pytest.mark.parametrize("case", mark_rest("real", [CASES[0], CASES[4]], first=CASES[:1]), ids=str)
def test_simple_evaluate_on_ablated_lm_matches_hflm(
    case: Case, folders: dict[str, str], evaluated: Callable[[Case, int | None], dict[str, Any]]
) -> None:
    """`simple_evaluate` gives the same on `AblatedLM` as on `HFLM` without the layer."""
    condition = lr.Condition({lr.Site(11): lr.Skip()})
    theirs = evaluated(case, 11)
    spec: Any = case.name
    if not case.own:
        one = {"task": case.name, "dataset_path": folders[case.name]}
        spec = {"group": "with_data", "task": [one]}
    ours = lm_eval.simple_evaluate(
        lr.AblatedLM(model(), condition),
        tasks=[spec],
        num_fewshot=case.num_fewshot,
        limit=LIMIT,
        task_manager=manager(folders["own"] if case.own else None),
        bootstrap_iters=0,
    )
    for member, metrics in theirs["results"].items():
        for key, value in metrics.items():
            if isinstance(value, float | int):
                assert ours["results"][member][key] == pytest.approx(value, rel=1e-4), key


def test_rolling_likelihoods_are_those_of_lm_eval() -> None:
    """Longer than the context too: windows, as `HFLM` has them."""
    from lm_eval.api.instance import Instance

    texts = ["The sun is a star.", "One two three four five. " * 12]
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    hflm = HFLM(pretrained=peer(), tokenizer=tokenizer(), batch_size=2, max_length=32)
    ours = lr.AblatedLM(model(), max_length=32).loglikelihood_rolling(requests)
    theirs = hflm.loglikelihood_rolling(requests)
    for text, one, other in zip(texts, ours, theirs, strict=True):
        # A text is the sum of its windows, each a log-likelihood that is equal to 1e-3.
        windows = math.ceil(len(tokenizer()(text).input_ids) / 32)
        assert one == pytest.approx(other, abs=1e-3 * windows)
    assert all(math.isfinite(one) and one < 0 for one in ours)
