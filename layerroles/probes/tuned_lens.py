"""The tuned lens: a trained affine map at each depth, applied to the stream before reading out.

The stream after block `l` is mapped before it is read out (Belrose et al. 2023, arXiv 2303.08112):

    logits_l = unembed(norm(h + A_l h + b_l))

`A_l` and `b_l` begin at zero, which is the logit lens, and are trained, with the model frozen, to
lower `KL(final || lens)` on given texts. The last depth has no map: it is the model's own output.

Example:
    lens = TunedLens.fit(model, texts, steps=200)
    lens.save("smollm2.safetensors")
    frame = TunedLens.load("smollm2.safetensors").measure(model, tasks)
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.atomic_replacement import replace_atomically
from layerroles.errors import InputError
from layerroles.models import (
    behaviour_config,
    first_difference,
    prepared,
    provenance,
    tensor_bytes,
    weights_cache,
)
from layerroles.probes.base import register
from layerroles.probes.lens import Lens
from layerroles.probes.streams import Place
from layerroles.probes.tuned_lens_training import Fit, train_maps

# Increment when the file's content changes, so that older files are refused.
_FORMAT = 2


@dataclass(frozen=True)
class Trained:
    """What a tuned lens was trained on, and how.

    Attributes:
        model: the model's name.
        weights: the hash of the model's weights, as in `Provenance`.
        dtype: the dtype of the model's weights.
        texts: a hash of the texts.
        n_texts: the number of texts.
        n_tokens: the number of distinct (text, position) pairs drawn in training.
        n_parameters: the number of parameters of one depth's map; if `n_tokens` is smaller, the
            lens may be trained on too few tokens.
        fit: the training settings.
        versions: versions of the packages used.
        config: the model's configuration values, as in `Provenance`; empty in older files.
    """

    model: str
    weights: str
    dtype: str
    texts: str
    n_texts: int
    n_tokens: int
    n_parameters: int
    fit: Fit
    versions: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)


@register("tuned_lens")
@dataclass(frozen=True, eq=False, repr=False)
class TunedLens(Lens):
    """Read out the residual stream at each depth through trained maps; for columns, see `Lens`.

    Create it by `fit` or `load`. Two more columns, the same in each row, say how much the lens was
    trained: trained_tokens and map_parameters (`n_tokens` and `n_parameters` of `Trained`).

    Attributes:
        maps: the matrices `A`, for the embedding and after each block but the last.
        shifts: the vectors `b`, for the same depths.
        trained: what the maps were trained on, and how.
        top: the number of likeliest tokens to return at each depth.
        sublayers: always false: there are no maps between attention and MLP.

    Example:
        texts = ["silver fence church money", "money orange diamond silver"]
        lens = lr.probes.TunedLens.fit(model, texts, steps=2, tokens=4)
        lens.measure(model, tasks, limit=4)
        lens = lr.probes.TunedLens.load(lens.save("lens.safetensors"))
    """

    maps: Float[Tensor, "depth d_model d_model"]
    shifts: Float[Tensor, "depth d_model"]
    trained: Trained
    top: int = 0
    sublayers: bool = field(default=False, init=False)

    def __repr__(self) -> str:
        digest = hashlib.sha256()
        for tensor in (self.maps, self.shifts):
            digest.update(tensor_bytes(tensor))
        maps_hash = digest.hexdigest()[:16]
        return f"TunedLens(model={self.trained.model!r}, maps={maps_hash!r}, top={self.top})"

    @classmethod
    def fit(
        cls,
        model: TransformerBridge,
        texts: Sequence[str],
        *,
        steps: int = 200,
        tokens: int = 32,
        rate: float = 3e-3,
        seed: int = 0,
    ) -> "TunedLens":
        """Train a lens for a model on the start of each text, at all tokens but the first.

        At most 128 tokens of a text are used. The first token is left out because in many models it
        is an attention sink, with a stream unlike all others. Equal arguments give an equal lens on
        the same machine. A warning is logged if fewer distinct tokens are drawn than each map has
        parameters.

        Args:
            model: from `load` or `prepare`; it is not changed.
            texts: the texts to train on; those of fewer than two tokens are left out.
            steps: Adam steps for each map.
            tokens: the maximum number of tokens drawn for each step, from up to four texts; so a
                step never uses more than 508 tokens (4 x 127).
            rate: learning rate of the first step; it falls linearly to zero.
            seed: the seed of the draws of texts and tokens.

        Raises:
            InputError: `texts` is one string or has no text of two tokens or more, `steps`,
                `tokens` or `rate` is not above 0, or the model has no weights or cannot be read by
                a lens.
        """
        fit_options = Fit(steps=steps, tokens=tokens, rate=rate, seed=seed)
        trained_maps = train_maps(model, texts, fit_options)
        model_provenance = provenance(model)
        trained = Trained(
            model=model_provenance.name,
            weights=model_provenance.weights,
            dtype=model_provenance.dtype,
            texts=hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16],
            n_texts=len(texts),
            n_tokens=trained_maps.n_tokens,
            n_parameters=trained_maps.n_parameters,
            fit=fit_options,
            versions=model_provenance.versions,
            config=model_provenance.config,
        )
        return cls(trained_maps.maps, trained_maps.shifts, trained)

    def save(self, path: str | Path) -> Path:
        """Write the lens and its provenance to a safetensors file, and return the path.

        Raises:
            InputError: the file cannot be written.
        """
        path = Path(path)
        metadata = {"format": str(_FORMAT), "trained": json.dumps(dataclasses.asdict(self.trained))}
        tensors = {"maps": self.maps.contiguous(), "shifts": self.shifts.contiguous()}
        try:
            with replace_atomically(path) as scratch:
                save_file(tensors, scratch, metadata=metadata)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"tuned lens {str(path)!r} cannot be written: {reason}") from error
        return path

    @classmethod
    def load(cls, path: str | Path, *, top: int = 0) -> "TunedLens":
        """Read a lens that `save` wrote.

        Args:
            path: the file.
            top: the number of likeliest tokens to return at each depth.

        Raises:
            InputError: the file does not exist, or holds no tuned lens.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata: dict[str, str] = file.metadata() or {}
                if metadata.get("format") != str(_FORMAT):
                    raise InputError(
                        f"{str(path)!r} holds no tuned lens of format {_FORMAT}: "
                        f"name a file that TunedLens.save wrote, or fit the lens again"
                    )
                saved: dict[str, Any] = json.loads(metadata["trained"])
                trained = Trained(**saved | {"fit": Fit(**saved["fit"])})
                return cls(file.get_tensor("maps"), file.get_tensor("shifts"), trained, top)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"tuned lens {str(path)!r} cannot be read: {error}") from error

    def check(self, model: TransformerBridge) -> None:
        """Check that the lens can be used on a model and was trained on it.

        Raises:
            InputError: the lens was trained on other weights or with another configuration.
        """
        super().check(model)
        now = _weights(model)
        if now != self.trained.weights:
            raise InputError(
                f"the tuned lens was trained on {self.trained.model} ({self.trained.dtype}, "
                f"weights {self.trained.weights}), not on {prepared(model).name} "
                f"({str(model.cfg.dtype).removeprefix('torch.')}, weights {now}): "
                f"fit one for this model"
            )
        if differing := first_difference(self.trained.config, behaviour_config(model)):
            raise InputError(
                f"the tuned lens was trained on {self.trained.model} with another {differing} in "
                f"its configuration: fit one for this model"
            )

    def translated(
        self, stream: Float[Tensor, "row d_model"], place: Place
    ) -> Float[Tensor, "row d_model"]:
        """Return the stream after its depth's map; at the last depth, unchanged."""
        depth = place.layer + 1
        if depth == len(self.maps):
            return stream
        maps, shifts = (tensor[depth].to(stream.device) for tensor in (self.maps, self.shifts))
        stream_float32 = stream.float()
        return (stream_float32 + stream_float32 @ maps.T + shifts).to(stream.dtype)

    def _columns(
        self,
        model: TransformerBridge,
        streams: dict[Place, Tensor],
        final: Float[Tensor, "row d_vocab"],
        targets: Int[Tensor, " row"],
    ) -> Iterator[tuple[Place, dict[str, list[Any]]]]:
        n = len(targets)
        training = {
            "trained_tokens": [self.trained.n_tokens] * n,
            "map_parameters": [self.trained.n_parameters] * n,
        }
        for place, columns in super()._columns(model, streams, final, targets):
            yield place, columns | training


def _weights(model: TransformerBridge) -> str:
    """Return the hash of a model's weights, cached until weights are replaced or edited."""
    cache = weights_cache(model)
    if "hash of weights" not in cache:
        cache["hash of weights"] = provenance(model).weights
    return str(cache["hash of weights"])
