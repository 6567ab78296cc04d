"""What a configuration says beside the weights: another model, or one that cannot batch."""

from pathlib import Path

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, Phi3Config

import layerroles as lr
from layerroles.ablations.write_statistics import collect
from layerroles.models import behaviour_config, can_batch, first_difference, provenance
from tests.support.random_models import LLAMA_LIKE, make_random, model_of, random_model, tokenizer

LONGER = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
SKIP = [lr.Condition({lr.Site(1): lr.Skip()})]
TASKS = [lr.task("facts")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[TransformerBridge]:
    """Two models of the same weights, of which the second scales its positions."""
    made = []
    for rope in (None, LONGER):
        folder = tmp_path_factory.mktemp("model")
        config = LlamaConfig(**LLAMA_LIKE, **({"rope_parameters": rope} if rope else {}))
        make_random(config).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        made.append(lr.load(folder, dtype="float32"))
    return made


def test_equal_weights_with_another_configuration_are_another_model(
    models: list[TransformerBridge], tmp_path: Path
) -> None:
    one, two = models
    assert provenance(one).weights == provenance(two).weights
    run, named = tmp_path / "run", r"another .*rope_parameters\.rope_type"
    lr.Sweep(one, TASKS, SKIP, limit=2, noise_floor=False).run(run)
    with pytest.raises(lr.InputError, match=r"configuration: 'rope_parameters\.rope_type' differs"):
        lr.Sweep(two, TASKS, SKIP, limit=4, noise_floor=False).run(run)
    lens = lr.probes.LogitLens()
    with pytest.raises(lr.InputError, match=r"'rope_parameters\.rope_type' of .* differs from"):
        lr.probes.measure_into(run, lens, two, TASKS, limit=2)
    # Nor is a stored frame of the one returned for the other, in a folder without a run.
    frames = [lr.probes.measure_into(tmp_path, lens, each, TASKS, limit=2) for each in models]
    assert not frames[0]["logprob"].equals(frames[1]["logprob"])
    tuned = lr.probes.TunedLens.fit(one, ["the old house by the river"], steps=2)
    tuned = lr.probes.TunedLens.load(tuned.save(tmp_path / "lens.safetensors"))
    assert len(tuned.read(one, ["ab"]))
    with pytest.raises(lr.InputError, match=named):
        tuned.read(two, ["ab"])


def test_configurations_are_compared_where_both_have_a_value() -> None:
    """Another version of transformers may add values, and takes some from the installation."""
    config = behaviour_config(random_model("llama"))
    assert first_difference(config, config | {"new_option": 1}) is None
    assert first_difference(config, config | {"transformers_version": "9"}) is None
    assert first_difference(config, {}) is None
    assert first_difference(config, config | {"rms_norm_eps": 0.5}) == "rms_norm_eps"
    one, two = ({"text_config": {"dtype": dtype, "sliding_window": 4}} for dtype in "ab")
    assert first_difference(one, two) is None
    two["text_config"]["sliding_window"] = 8
    assert first_difference(one, two) == "text_config.sliding_window"


def test_texts_that_choose_the_frequencies_of_others_are_not_batched() -> None:
    """Beside a longer text, a text of Phi-3 would get the frequencies of long contexts."""
    factors = [1.0 + 3 * place for place in range(4)]
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": factors}
    config = Phi3Config(
        **LLAMA_LIKE | {"max_position_embeddings": 256, "pad_token_id": 0},
        original_max_position_embeddings=16,
        rope_parameters=rope | {"rope_theta": 10_000.0, "original_max_position_embeddings": 16},
    )
    model = model_of(config)
    assert not can_batch(model)
    short, long = ("abc", "de"), ("the old house stands by the river" * 2, "x")
    engine = lr.Engine(model, executor="plain", batch_size=4)
    together = engine.loglikelihood([short, long], SKIP).logprob[0]
    alone = [engine.loglikelihood([one], SKIP).logprob[0][0] for one in (short, long)]
    assert together == pytest.approx(alone, abs=1e-4)
    # The same holds for references: the mean over both texts is that of each text alone.
    texts, site = ["abcde", long[0]], lr.Site(1, "mlp")
    one, two, both = (
        collect(model, lr.Reference(given), [site])[site] for given in (texts[:1], texts[1:], texts)
    )
    expected = (one.n_rest * one.rest + two.n_rest * two.rest) / both.n_rest
    torch.testing.assert_close(both.rest, expected, atol=1e-4, rtol=1e-4)
