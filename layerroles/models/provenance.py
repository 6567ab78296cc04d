"""Describe a model for the manifest of a run: its weights, dtype, size and configuration."""

import hashlib
import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from layerroles import __version__
from layerroles.models.hf_config import behaviour_config
from layerroles.models.loading import check_weights, prepared
from layerroles.models.named_parameters import named_weights, tensor_bytes


@dataclass(frozen=True)
class Provenance:
    """Description of a model, as the manifest of a run stores it.

    Attributes:
        name: as the user gave it; of a local path, only the last part.
        revision: branch, tag or commit on the hub; None if none was asked for.
        weights: start of the SHA-256 over names, shapes, dtypes and values of all weights.
        dtype: dtype of the weights, such as `bfloat16`.
        device: device of the weights.
        architecture: name of the Hugging Face class.
        n_layers, n_heads, d_model: the model's size.
        versions: versions of Python, this package, torch and the model libraries.
        config: the configuration values that, with the weights, define what blocks compute.
    """

    name: str
    revision: str | None
    weights: str
    dtype: str
    device: str
    architecture: str
    n_layers: int
    n_heads: int
    d_model: int
    versions: dict[str, str]
    config: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as a dict of JSON values."""
        return asdict(self)


def provenance(model: TransformerBridge) -> Provenance:
    """Return the model's description for a manifest; hashes all weights on each call.

    Raises:
        InputError: the model was loaded without weights.
    """
    check_weights(model)
    known = prepared(model)
    digest = hashlib.sha256()
    for key, value in named_weights(model):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(tensor_bytes(value))
    packages = ("torch", "transformers", "transformer-lens")
    return Provenance(
        name=known.name,
        revision=known.revision,
        weights=digest.hexdigest()[:16],
        dtype=str(model.cfg.dtype).removeprefix("torch."),
        device=str(model.cfg.device),
        architecture=str(model.cfg.architecture),
        n_layers=model.cfg.n_layers,
        n_heads=model.cfg.n_heads,
        d_model=model.cfg.d_model,
        versions={
            "layerroles": __version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
        config=behaviour_config(model),
    )
