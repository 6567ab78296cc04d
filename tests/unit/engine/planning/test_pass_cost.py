"""Counted operations against PyTorch's own counter and against traces; estimates against plans."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

import layerroles as lr
from layerroles.cli import main
from layerroles.engine.fused.packed_attention import count_pairs
from layerroles.engine.fused.prefix_packing import pack_row
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.planning.measured_speed import measure_speed
from layerroles.engine.planning.pass_cost import PassCost, Speed, Work, reading_cost
from layerroles.engine.planning.published_speeds import DEVICES
from layerroles.engine.requests import Scored, Written
from tests.support.random_models import ALL_ARCHITECTURES, model_path, random_model

CAPITALS = "facts@2[num_fewshot=0,relations=capital]"
SLOW = Speed(1e9, 1e9, 1e9, 1e-5, 1e-5, is_gpu=False)
# What makes views moves nothing and starts nothing on a device.
VIEWS = set(
    "view t transpose permute unsqueeze squeeze expand slice select _unsafe_view alias detach "
    "split split_with_sizes unbind as_strided lift_fresh".split()
)


def plain_flops(architecture: str, n: int) -> float:
    """What PyTorch counts in a plain pass over `n` tokens, all of whose logits are read out."""
    options = {"experts_implementation": "eager"} if "mixtral" in architecture else {}
    model = AutoModelForCausalLM.from_pretrained(
        model_path(architecture), attn_implementation="eager", **options
    )
    tokens = (torch.arange(n) % 90)[None]
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(tokens, use_cache=False)
    return float(counted.get_total_flops())


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "gemma2", "neox", "mixtral"])
@pytest.mark.parametrize("n", [5, 64])
def test_operations_of_a_plain_pass_are_those_that_pytorch_counts(
    architecture: str, n: int
) -> None:
    shape = Twin(random_model(architecture)).shape
    # Transformers computes attention of every token to every other one, and hides what is later.
    counted = reading_cost(shape, tokens=n, pairs=n * n, places=n)
    # Rotary angles are a product of matrices to the counter, and nothing here.
    assert counted.flops == pytest.approx(plain_flops(architecture, n), rel=0.01)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mixtral"])
def test_weight_bytes_equal_the_size_of_the_parameters(architecture: str) -> None:
    # A bridge keeps parts of GPT-2's joined matrices beside them: they are in memory too.
    parameters = set(random_model(architecture).original_model.parameters())
    weighed = sum(one.numel() * one.element_size() for one in parameters)
    assert estimated(architecture, device="h100").weight_bytes == weighed
    file = sum(path.stat().st_size for path in model_path(architecture).glob("*.safetensors"))
    # The file has a header.
    assert weighed >= 0.9 * file


class Traced(TorchDispatchMode):
    """Counts operations and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.n_bytes = 0, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ not in VIEWS:
            self.operations += 1
            leaves = torch.utils._pytree.tree_leaves((args, kwargs, out))
            some = (one for one in leaves if isinstance(one, torch.Tensor))
            self.n_bytes += sum(one.numel() * one.element_size() for one in some)
        return out


def traced(engine: lr.Engine, requests: list[Scored]) -> Traced:
    """A pass over the packed row of these requests."""
    fused = engine._executors.make_fused({})
    (group,) = engine.planned(requests, [lr.Condition({})]).groups
    row = fused.load_row(group)
    with torch.inference_mode(), Traced() as seen:
        ((_, layout),) = row.layouts
        fused.twin.run(row.tokens, row.positions, layout.attend)
    return seen


def test_estimated_bytes_and_operations_are_close_to_the_trace() -> None:
    engine = lr.Engine(random_model("llama"))
    short, long = (
        [Scored((5,) * 40 + (index,) * n, (7,)) for index in range(10, 14)] for n in (30, 50)
    )
    one, two = traced(engine, short), traced(engine, long)
    shape = engine.shape()
    less, more = (
        reading_cost(shape, tokens=40 + 4 * n, pairs=0, places=0, depth=1.0) for n in (30, 50)
    )
    # Per token: the weights' share is the same in both.
    assert more.moved - less.moved == pytest.approx(two.n_bytes - one.n_bytes, rel=0.2)
    assert less.operations == more.operations
    assert one.operations == two.operations
    assert less.operations == pytest.approx(one.operations, rel=0.35)


def test_pairs_are_those_that_tokens_see_but_for_rounding_up() -> None:
    shared = tuple(range(100, 400))
    packed = pack_row([(*shared, *(index,) * 32) for index in range(20)])
    seen = 300 * 301 // 2 + 20 * 32 * 300
    assert count_pairs(packed) == seen + 20 * 32 * 32
    # A text alone sees what came before it.
    assert count_pairs(pack_row([shared])) == 300 * 301 // 2


def some_pass(**values: float) -> PassCost:
    known = dict.fromkeys(PassCost.__dataclass_fields__, 0.0)
    return PassCost(**{**known, "times": 1.0, **values})


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"products": 3e9}, 3.0),
        ({"products": 3e9, "weights": 5e9}, 5.0),  # read for few tokens
        ({"products": 3e9, "attention": 1e9, "moved": 2e9}, 6.0),
        ({"products": 1e9, "times": 4.0}, 4.0),
        ({"operations": 1e5, "products": 1e9}, 2.0),
        ({"n_generated": 1e5}, 1.0),
        ({"own_key_attention": 1e9}, 0.0),  # reading the keys is what is counted
    ],
)
def test_seconds_of_a_pass(given: dict[str, float], seconds: float) -> None:
    assert some_pass(**given).seconds(SLOW) == pytest.approx(seconds)


def test_a_queue_hides_what_is_shorter() -> None:
    queue = Speed(1e9, 1e9, 1e9, 1e-5, 1e-5, is_gpu=True)
    one = some_pass(products=1e9, operations=3e5, logits=1e6)
    assert one.seconds(queue) == pytest.approx(3.0)
    # Logits that go through memory are moved.
    assert some_pass(logits=1e6).seconds(queue) == pytest.approx(1e6 * 4 * 6 / 1e9)


def sweep(model: Any, **options: Any) -> lr.Sweep:
    conditions = lr.each_layer(model, lr.Skip())
    asked = {"protocols": ["continuation", "generation"], "limit": 3, **options}
    # Of capitals, so that no evidence is in the tokens that prompts share.
    return lr.Sweep(model, [lr.task(CAPITALS)], conditions, **asked)


def outline(architecture: str) -> Any:
    return lr.load(model_path(architecture), device="meta", dtype="float32")


def estimated(architecture: str, **options: Any) -> lr.Estimate:
    return lr.estimate(sweep(outline(architecture)), memory="64MB", **options)


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_a_model_without_weights_has_the_shape_of_one_with_them(architecture: str) -> None:
    ours, theirs = (lr.Engine(one(architecture)).shape() for one in (outline, random_model))
    assert ours == theirs


@pytest.mark.parametrize("of", [outline, random_model])
def test_tokens_and_passes_are_those_of_the_engines_own_plan(of: Callable[[str], Any]) -> None:
    model = of("llama")
    asked = sweep(model, noise_floor=False)
    found = lr.estimate(asked, device="h100", memory="64MB")
    (call,) = asked.calls()
    real = lr.Engine(random_model("llama"), memory="64MB")
    pairs = [
        (example.context(worked=worked), second)
        for worked in (False, True)
        for example in asked.cells[0].examples
        for second in (
            [{"until": list(asked.cells[0].task.until), "max_gen_toks": 8}]
            if worked
            else [f" {choice}" for choice in example.choices]
        )
    ]
    limit = asked.cells[0].task.max_gen_toks
    pairs = [(a, {**b, "max_gen_toks": limit} if isinstance(b, dict) else b) for a, b in pairs]
    plan = real.plan(pairs, call.conditions)
    (part,) = (part for part in found.parts if part.name == CAPITALS)
    assert (part.passes, part.tokens_alone) == (plan.passes, plan.tokens_alone)
    assert part.tokens_read == round(plan.tokens_read)
    assert (part.requests, part.n_bytes) == (4 * plan.n_requests, plan.n_bytes)
    assert part.flops == pytest.approx(plan.work.flops)
    # 4 conditions, 3 examples; the first token of a text comes from the prefill.
    assert part.tokens_written == 4 * 3 * (limit - 1)


def test_what_a_run_asks_is_what_was_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sweep(random_model("llama"))
    seen: list[tuple[Any, Any]] = []
    answer = lr.Engine.answer_each

    def noted(self: Any, requests: Any, conditions: Any) -> Any:
        seen.append((tuple(map(tuple, requests)), tuple(conditions)))
        return answer(self, requests, conditions)

    monkeypatch.setattr(lr.Engine, "answer_each", noted)
    asked.run(tmp_path / "run")
    calls = [(tuple(map(tuple, one.requests)), one.conditions) for one in asked.calls()]
    assert seen == calls
    assert [one.name for one in asked.calls()] == [CAPITALS, *["noise floor"] * 6]


def test_fewer_tokens_written_take_less_time() -> None:
    all_of_them, half, none = (
        estimated("llama", device="h100", generated=g) for g in (1.0, 0.5, 0.0)
    )
    assert all_of_them.tokens_written == pytest.approx(2 * half.tokens_written, abs=2)
    assert none.tokens_written == 0
    assert all_of_them.seconds > half.seconds > none.seconds > 0
    assert "every text to its limit" in str(all_of_them)
    assert "50% of what may be written" in str(half)


def test_a_device_decides_over_time_and_room(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = (estimated("llama", device=name) for name in ("h100", "l4"))
    assert fast.flops == slow.flops
    assert fast.fits
    assert fast.peak_bytes == fast.weight_bytes + fast.working_bytes
    small = DEVICES["l4"].__class__(1e12, 1e12, 1e9, 1e4)
    monkeypatch.setitem(DEVICES, "small", small)
    tight = estimated("llama", device="small")
    assert tight.fits is False
    assert "do not fit" in str(tight)


def test_the_speed_of_the_machine_at_hand_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, seconds = sweep(random_model("llama")), []
    for times in (1, 10):
        slower = Speed(1e9 / times, 1e9 / times, 1e9 / times, 1e-5 * times, 1e-5 * times, False)
        monkeypatch.setattr("layerroles.sweep.estimation.measure_speed", lambda *_, s=slower: s)
        found = lr.estimate(asked, device="cpu", memory="64MB")
        assert found.fits is None
        seconds.append(found.seconds)
    assert seconds[1] == pytest.approx(10 * seconds[0])
    assert Work.combine([]).seconds(SLOW) == 0


def test_a_measured_speed_is_one_of_each_kind() -> None:
    engine = lr.Engine(random_model("llama"))
    shape = engine.shape()
    speed = measure_speed(torch.device("cpu"), torch.float32, shape, engine.model.tokenizer)
    rates = (speed.products, speed.attention, speed.bandwidth, 1 / speed.start, 1 / speed.text)
    assert all(rate > 1e3 for rate in rates)
    assert not speed.is_gpu


def test_references_are_read_too() -> None:
    model = outline("llama")
    mean = lr.Mean(lr.Reference(["one text", "another text"]))
    asked = lr.Sweep(
        model, [lr.task("facts")], lr.each_layer(model, mean), protocols=["continuation"], limit=2
    )
    found = lr.estimate(asked, device="h100", memory="64MB")
    (part,) = (part for part in found.parts if part.name == "references")
    shape = lr.Engine(model).shape()
    n = (len("one text"), len("another text"))
    assert part.flops == sum(reading_cost(shape, tokens=x, pairs=x * x).flops for x in n)


@pytest.mark.parametrize(
    "act",
    [
        lambda model: lr.Engine(model).loglikelihood([("a", "b")]),
        lambda model: sweep(model).run("nowhere"),
        lambda model: lr.ablated(model, lr.Condition({lr.Site(0): lr.Skip()})).__enter__(),
        lambda model: lr.probes.LogitLens().measure(model, [lr.task("facts")], limit=1),
    ],
)
def test_a_model_without_weights_is_not_run(act: Callable[[Any], object]) -> None:
    with pytest.raises(lr.InputError, match="has no weights"):
        act(outline("llama"))
    assert not Path("nowhere").exists()


def test_a_task_that_outgrows_what_a_layer_sees_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = outline("gemma2")
    monkeypatch.setattr(Twin, "max_exact_tokens", 128)
    task = lr.task("facts", num_fewshot=4)
    asked = lr.Sweep(model, [task], [], protocols=["continuation"], limit=2)
    with pytest.raises(lr.InputError, match=r"^facts.*: model .* sliding window of 128"):
        lr.estimate(asked, device="h100")


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_invalid_generated_share_raises(share: float) -> None:
    with pytest.raises(lr.InputError, match="generated="):
        estimated("llama", device="h100", generated=share)


# The command line.


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["estimate", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_prints_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(model_path("llama")), "--tasks", "facts", "--limit", "2"]
    words += ["--device", "a100-80gb", "--num-fewshot", "0", "--at", "all"]
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert "bfloat16, 4 conditions" in out
    assert "a100-80gb (50% of its peak and 70% of its bandwidth assumed)" in out
    code, out, _ = run(capsys, *words, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["n_conditions"] == 4
    assert found["seconds"] == pytest.approx(sum(part["seconds"] for part in found["parts"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "h10"], "unknown device 'h10', did you mean 'h100'? known are cpu"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--limit", "0"], "--limit 0 asks for nothing"),
        (["--generated", "2"], "2"),
        (["--memory", "lots"], "memory='lots' is not a size"),
        (["--sites", "L9"], "L9"),
        (["--tasks", "fact"], "facts"),
        (["--protocols", "letters"], "letter"),
        (["--model", "nowhere/nothing"], "nowhere/nothing"),
    ],
)
def test_invalid_options_give_a_one_line_error(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, out, err = run(capsys, "--model", str(model_path("llama")), "--tasks", "facts", *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


def test_folder_without_a_tokenizer_gives_a_one_line_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (model_path("llama") / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    code, _, err = run(capsys, "--model", str(tmp_path), "--tasks", "facts")
    assert code == 2
    assert "has no tokenizer that can be loaded" in err
    assert err.count("\n") == 1


def test_a_config_and_a_tokenizer_are_enough(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for file in model_path("llama").iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    words = ["--tasks", "facts", "--limit", "1", "--device", "h100", "--num-fewshot", "0"]
    code, out, err = run(capsys, "--model", str(tmp_path), *words)
    assert (code, err) == (0, "")
    assert "FLOP" in out


def test_written_requests_of_one_length_write_as_much() -> None:
    engine = lr.Engine(outline("llama"))
    requests = [Written((1, 2, n), (), 9) for n in range(3, 7)]
    plan = engine.planned(requests, [lr.Condition({})], generated=0.5)
    assert plan.work.n_generated == 4 * 0.5 * 8
    assert plan.seconds is None
    assert "about" not in str(plan)
