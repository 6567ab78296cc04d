"""Run the engine on simulated devices and return what came out as JSON, in a process of its own.

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        found = json.loads(process.submit(run_case, "one_device").result())

The names are those of the functions below. Log-likelihoods and texts are compared with those that
the plain executor gives on the processor.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig

import layerroles as lr
from layerroles.ablations import statistics_cache
from layerroles.engine.fused.text_decoding import Writer
from layerroles.engine.greedy_decoding import Decoding
from layerroles.engine.requests import encode_written
from tests.support.random_models import CONFIGS, LLAMA_LIKE, random_model
from tests.support.simulated_device import SimulatedDevices, random_bridge, set_up

ARCHITECTURES = ("llama", "gpt2", "gemma2", "neox", "qwen3")
EXECUTORS = ("plain", "hooked", "auto")
REFERENCE = lr.Reference(["The sky is blue.", "Snow is white.", "Grass is not so."])
CONDITIONS = {
    "intact": lr.Condition({}),
    "skip": lr.Condition({lr.Site(1): lr.Skip()}),
    "zero": lr.Condition({lr.Site(1, "mlp"): lr.Zero()}),
    "mean": lr.Condition({lr.Site(1): lr.Mean(REFERENCE)}),
    "resample": lr.Condition({lr.Site(1): lr.Resample(REFERENCE)}),
    "noise": lr.Condition({lr.Site(2, "attn"): lr.Noise(0.5, REFERENCE)}),
    "head": lr.Condition({lr.Site(1, "head", 1): lr.Zero()}),
    "kv_group": lr.Condition({lr.Site(1, "kv_group", 1): lr.Mean(REFERENCE)}),
    # On two devices, the first layer lies on one and the others on the other.
    "two sites": lr.Condition({lr.Site(0, "mlp"): lr.Zero(), lr.Site(2, "attn"): lr.Zero()}),
}
# On two devices these are asked: what is read of a reference, cut into heads, and joined of sites.
BETWEEN_DEVICES = {name: CONDITIONS[name] for name in ("skip", "mean", "head", "two sites")}
# The second begins the first, and their texts end at different lengths.
CONTEXTS = ("The old house stands by", "The old house")
PAIRS = [(CONTEXTS[0], " and it"), (CONTEXTS[1], " now")]
ASKED = [(CONTEXTS[0], {"max_gen_toks": 3}), (CONTEXTS[1], {"max_gen_toks": 1})]


def answers(
    model: TransformerBridge,
    executor: Any,
    named: Mapping[str, lr.Condition] = CONDITIONS,
    **options: Any,
) -> dict[str, Any]:
    """Return an engine's answers under these conditions, and which executors gave them."""
    engine = lr.Engine(model, executor=executor, **options)
    conditions = list(named.values())
    likelihoods = engine.loglikelihood(PAIRS, conditions)
    return {
        "names": list(named),
        "logprob": likelihoods.logprob,
        "changed": likelihoods.changed.tolist(),
        "texts": engine.generate_until(ASKED, conditions),
        "used": sorted(engine.used),
        "halved": engine.halved,
    }


def differences(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Say for each condition how far answers are from the expected ones."""
    apart = np.abs(found["logprob"] - expected["logprob"]).max(axis=1)
    return {
        "used": found["used"],
        "halved": found["halved"],
        "apart": dict(zip(found["names"], apart.tolist(), strict=True)),
        "differ": [
            name
            for n, name in enumerate(found["names"])
            if found["texts"][n] != expected["texts"][n]
            or found["changed"][n] != expected["changed"][n]
        ],
    }


def swapped(donor: TransformerBridge) -> dict[str, lr.Condition]:
    """Return a condition under which a layer is the donor's."""
    return {"swap": lr.Condition({lr.Site(1): lr.Swap(donor)})}


def one_device(architecture: str) -> dict[str, Any]:
    """Compare every executor on one device with the processor."""
    devices, model, bridge = set_up(), random_model(architecture), random_bridge(architecture)
    expected = CONDITIONS | swapped(random_model(architecture, seed=1))
    named = CONDITIONS | swapped(random_bridge(architecture, seed=1))
    return compare(devices, bridge, named, answers(model, "plain", expected))


def two_devices(architecture: str) -> dict[str, Any]:
    """Compare every executor with the processor, with the layers on two devices."""
    devices, bridge = set_up(), random_bridge(architecture, n_devices=2)
    expected = answers(random_model(architecture), "plain", BETWEEN_DEVICES)
    return compare(devices, bridge, BETWEEN_DEVICES, expected)


def probes_on_two_devices() -> dict[str, Any]:
    """Measure every probe on the processor and with the layers on two devices; compare frames."""
    devices, model = set_up(), random_model("llama")
    bridge = random_bridge("llama", n_devices=2)
    tasks = [lr.task("kv_retrieval", pairs=4, num_fewshot=0)]
    found: dict[str, Any] = {}
    for probe in (
        lr.probes.LogitLens(),
        lr.probes.Decision(),
        lr.probes.Attention(),
        lr.probes.HeadScores(),
        lr.probes.RetrievalScore(max_gen_toks=3),
        lr.probes.DirectAttribution(),
        lr.probes.Similarity(),
    ):
        expected = probe.measure(model, tasks, limit=3).select_dtypes("number")
        with devices:
            try:
                frame = probe.measure(bridge, tasks, limit=3).select_dtypes("number")
                found[probe.name] = float((frame - expected).abs().max().max())
            except Exception as error:
                found[probe.name] = f"{type(error).__name__}: {error}"
    return found


def compare(
    devices: SimulatedDevices,
    bridge: TransformerBridge,
    named: Mapping[str, lr.Condition],
    expected: dict[str, Any],
) -> dict[str, Any]:
    """Compare the answers of every executor with the expected ones."""
    found = {}
    for executor in EXECUTORS:
        with devices:
            try:
                outcome = differences(answers(bridge, executor, named), expected)
            except Exception as error:
                outcome = {"error": f"{type(error).__name__}: {error}"}
        found[executor] = outcome
    return found


def out_of_memory() -> dict[str, Any]:
    """Let memory run out on two devices: for large tensors, and for all but the smallest."""
    devices, model = set_up(), random_model("llama")
    expected = answers(model, "plain", BETWEEN_DEVICES)
    bridge = random_bridge("llama", n_devices=2)
    found = {}
    for most_bytes in (20_000, 400):
        with devices:
            try:
                lr.Engine(bridge).loglikelihood(PAIRS[:1])
                devices.most_bytes = most_bytes
                found_answers = answers(bridge, "auto", BETWEEN_DEVICES, memory="8MB")
                outcome = differences(found_answers, expected)
            except lr.InputError as error:
                outcome = {"error": str(error)}
            finally:
                devices.most_bytes = None
        found[str(most_bytes)] = outcome
    return found


def without_float64() -> dict[str, Any]:
    """Compare executors and probes on a device without float64 with the processor."""
    devices, model = set_up(), random_model("llama")
    expected = answers(model, "plain")
    tasks = [lr.task("facts", num_fewshot=0)]
    probes = {"heads": lr.probes.HeadScores(), "similarity": lr.probes.Similarity()}
    frames = {name: probe.measure(model, tasks, limit=3) for name, probe in probes.items()}
    devices.without_float64.add(3)
    bridge = random_bridge("llama", index=3)
    found: dict[str, Any] = {}
    with devices:
        for executor in EXECUTORS:
            found[executor] = differences(answers(bridge, executor), expected)
        for name, probe in probes.items():
            frame = probe.measure(bridge, tasks, limit=3).select_dtypes("number")
            apart = (frame - frames[name].select_dtypes("number")).abs().max().max()
            found[name] = float(apart)
    return found


def decoding() -> dict[str, Any]:
    """Count what a steady decode step of the fused executor launches and waits for.

    With and without a trunk, which is what the contexts share; intact, and with a condition for
    each layer. `expected` is the number of operations that the engine's plan assumes.
    """
    CONFIGS["llama_5_layers"] = LlamaConfig(**LLAMA_LIKE | {"num_hidden_layers": 5})
    # Short texts are read as one block, without a trunk.
    texts = {"no trunk": ["abc", "xyz"], "trunk": [150 * "a" + 70 * end for end in "bc"]}
    devices, found = set_up(), {}
    for architecture in ("llama", "llama_5_layers"):
        bridge = random_bridge(architecture)
        conditions = {
            "intact": [lr.Condition({})],
            "each layer": lr.each_layer(bridge, lr.Skip()),
        }
        for text, contexts in texts.items():
            for name, asked in conditions.items():
                found[f"{architecture}, {text}, {name}"] = steady_steps(
                    devices, bridge, contexts, asked
                )
    return found


def steady_steps(
    devices: SimulatedDevices,
    bridge: TransformerBridge,
    contexts: Sequence[str],
    conditions: Sequence[lr.Condition],
) -> dict[str, Any]:
    """Return launches and waits of each decode step after which as many rows go on as before it.

    A step runs from one call of the model to the next; the first is left out, and so is the one
    after rows were dropped, which groups the others anew.
    """
    steps: list[tuple[int, int, list[Any]]] = []
    run_step = Writer._step

    def noted(self: Writer, rows: Any, decoding: Decoding, *rest: Any) -> Any:
        n_live = len(decoding.unfinished())
        steps.append((n_live, devices.launches.total(), list(devices.waits)))
        return run_step(self, rows, decoding, *rest)

    asked = [(context, {"max_gen_toks": 8}) for context in contexts]
    Writer._step = noted  # type: ignore[method-assign]
    try:
        with devices:
            engine = lr.Engine(bridge, executor="fused", memory="64MB")
            engine.generate_until(asked, conditions)
            (*_, step) = engine.planned(encode_written(bridge, asked), conditions).work.passes
    finally:
        Writer._step = run_step  # type: ignore[method-assign]
    steady = [
        (n_after - n_before, waits_after[len(waits_before) :])
        for (earlier, _, _), (live, n_before, waits_before), (later, n_after, waits_after) in zip(
            steps, steps[1:], steps[2:], strict=False
        )
        if earlier == live == later
    ]
    return {
        "launches": [n for n, _ in steady],
        "waits": [waits for _, waits in steady],
        "expected": step.operations,
    }


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    case.__name__: case
    for case in (
        *(one_device, two_devices, probes_on_two_devices),
        *(out_of_memory, without_float64, decoding),
    )
}


def run_case(case: str, *arguments: str) -> str:
    """Return what a case gives, as JSON."""
    devices = set_up()  # as the case before left it
    devices.reset()
    devices.without_float64.clear()
    devices.most_bytes = None
    # A reference that the processor collected would be read from its file, and not collected again.
    statistics_cache.cache_folder = lambda: Path(mkdtemp())
    return json.dumps(CASES[case](*arguments))
