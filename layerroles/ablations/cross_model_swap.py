"""Replace a layer of a model (the host), or a sublayer, by the same part of a donor model.

The donor is a model of the same shape with other weights, such as a distilled version of the host.
The donor's block is run on the host's stream `x`, so the write (what the layer adds to the stream)
is the donor's `block(x) - x`. While the condition is applied, the host's modules hold the donor's
tensors, without copies. The donor's weights also compute the layer's keys and values, including
those of generated tokens.

Example:
    base, twin = load("base/"), load("distilled/")
    with ablated(base, Condition({Site(3): Swap(twin)})):
        logits = base(tokens)
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.base import Ablation, EditContext, ablation
from layerroles.errors import InputError
from layerroles.models import (
    MIXERS,
    behaviour_config,
    check_weights,
    is_spread,
    module_names,
    named_tensors,
    prepared,
    tensor_bytes,
    weights_cache,
)
from layerroles.private_apis import saved_tensors
from layerroles.sites import NUMBERED, Site

# The modules of a block that make up a sublayer, as bridges call them.
_SUBLAYERS = {
    "attn": ("ln1", "ln1_post", "attn"),
    "mlp": ("ln2", "ln2_post", "mlp"),
    "mixer": ("ln1", "ln1_post", "attn", *MIXERS),
}
# Modules with experts that some blocks have in addition to the MLP, as bridges call them.
_BESIDE_MLP = {"experts", "moe", "router", "shared_mlp"}


@ablation("swap")
@dataclass(frozen=True)
class Swap(Ablation):
    """Run a donor model's block, or a sublayer with its norms, in place of the model's own.

    Acts at all positions, so that one model's weights compute all keys and values of the layer.

    Raises:
        InputError: the donor is not a model; when a condition is made or applied, the part cannot
            be swapped, or the donor differs from the model in more than weights.

    Example:
        twin = lr.planted(n_layers=4, retrieval=(0, 1), reasoning=(3,), inert=(), seed=1)
        with lr.ablated(model, lr.Condition({lr.Site(1): lr.Swap(twin.model)})):
            logits = model("silver fence")
    """

    donor: TransformerBridge = field(repr=False)

    in_place = True

    def __post_init__(self) -> None:
        if not isinstance(self.donor, TransformerBridge):
            raise InputError(f"swap: donor={self.donor!r} is not a model, use load(name)")

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """Return the write unchanged: the host's modules already hold the donor's weights."""
        return write

    def check(self, site: Site) -> None:
        """Check that the site is a whole module: a block or a sublayer.

        Raises:
            InputError: the site is a head, a key/value group or the stream.
        """
        if site.part in NUMBERED or site.part == "stream":
            raise InputError(
                f"{site}: {site.part} cannot be swapped, use the layer, attn, mlp or mixer"
            )

    def parameters(self) -> dict[str, object]:
        """Return a dict whose `donor` is a hash of the donor's configuration and block weights."""
        return {"donor": _hash_blocks(self.donor)}

    def fits(self, model: TransformerBridge, site: Site) -> None:
        """Check that the donor has the model's shape, and that the site can be swapped alone.

        Raises:
            InputError: the donor differs from the model in more than weights, a sublayer shares its
                norm with another, or the MLP consists of several modules.
        """
        check_donor(model, self.donor)
        _swapped_modules(model, site)

    @contextmanager
    def placed(self, model: TransformerBridge, site: Site) -> Iterator[bool]:
        """Hold the donor's weights at the site inside the `with` block.

        Yields whether any of them differs from the model's own.
        """
        ours, theirs = _swapped_modules(model, site), _swapped_modules(self.donor, site)
        replaced: list[tuple[nn.Module, str, Tensor]] = []
        differs = False
        try:
            for our_module, their_module in zip(ours, theirs, strict=True):
                donated = dict(_saved_tensors(their_module))
                for path, tensor in _saved_tensors(our_module):
                    owner, _, name = path.rpartition(".")
                    module = our_module.get_submodule(owner)
                    replaced.append((module, name, tensor))
                    _put(module, name, donated[path])
                    differs = differs or not torch.equal(tensor, donated[path])
            yield differs
        finally:
            for module, name, tensor in replaced:
                _put(module, name, tensor)

    def donated(self, model: TransformerBridge, site: Site) -> dict[str, Tensor]:
        """Return the donor's weights and buffers for the site, by their names in transformers.

        The result may also hold names that only the bridge has; the engine ignores them.
        """
        block = model.blocks[site.layer]
        modules = [block] if site.part == "block" else _swapped_modules(model, site)
        paths = tuple(
            f"{block.name}." if module is block else f"{block.name}.{module.name}."
            for module in modules
        )
        weights = named_tensors(self.donor).items()
        return {name: weight for name, weight in weights if name.startswith(paths)}


def check_donor(model: TransformerBridge, donor: TransformerBridge) -> None:
    """Check that a donor's blocks differ from the model's in weights only.

    Raises:
        InputError: they differ in something else, or the model is spread over devices or disk.
    """
    _check_whole(model)
    prepared(donor)
    host, given = behaviour_config(model), behaviour_config(donor)
    # The type of model first, since it explains other differences.
    for name in sorted(host.keys() | given.keys(), key=lambda name: (name != "model_type", name)):
        _check_same(model, donor, name, host.get(name), given.get(name))
    for name in ("dtype", "device"):
        _check_same(model, donor, name, getattr(model.cfg, name), getattr(donor.cfg, name))
    shapes = [
        {name: tuple(tensor.shape) for name, tensor in _saved_tensors(one.blocks)}
        for one in (model, donor)
    ]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        _check_same(model, donor, name, shapes[0].get(name), shapes[1].get(name))


def _saved_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters and saved buffers of a module and its submodules, by path."""
    return [*module.named_parameters(remove_duplicate=False), *_saved_buffers(module)]


def _saved_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, owner in module.named_modules():
        for name, tensor in saved_tensors(owner).items():
            if tensor is not None and name in owner._buffers:
                yield f"{path}.{name}".removeprefix("."), tensor


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    tensors: dict[str, Any] = module._buffers if name in module._buffers else module._parameters
    tensors[name] = tensor


def _check_whole(model: TransformerBridge) -> None:
    if is_spread(model):
        raise InputError(
            f"model {prepared(model).name!r} is spread over devices or lies on disk: layers can be "
            f"swapped only between models that lie whole on one device"
        )


def _check_same(
    model: TransformerBridge, donor: TransformerBridge, what: str, host: object, given: object
) -> None:
    if host != given:
        raise InputError(
            f"model {prepared(donor).name!r} cannot be a donor for {prepared(model).name!r}: "
            f"{what} is {given!r} there and {host!r} here"
        )


def _swapped_modules(model: TransformerBridge, site: Site) -> list[nn.Module]:
    block = model.blocks[site.layer]
    if site.part == "block":
        return [block]
    names = module_names(block)
    if site.part == "mlp" and ("mlp" not in names or names & _BESIDE_MLP):
        raise InputError(f"{site}: the MLP is not one module, swap the whole block")
    # Sublayers that share one norm cannot be swapped separately.
    if not {"ln2", "ln2_post"} & names:
        why = "attention and MLP share their norm" if "mlp" in names else "the layer has one part"
        raise InputError(f"{site}: {why}, swap the whole block")
    return [getattr(block, name) for name in _SUBLAYERS[site.part] if name in names]


def _hash_blocks(model: TransformerBridge) -> str:
    """Return a hash of a donor's configuration and block weights, cached until weights change."""
    check_weights(model)
    _check_whole(model)
    cache = weights_cache(model)
    if "hash of blocks" not in cache:
        digest = hashlib.sha256(
            json.dumps(behaviour_config(model), sort_keys=True, default=repr).encode()
        )
        weights = sorted(model.blocks.named_parameters())
        for name, tensor in (*weights, *sorted(_saved_buffers(model.blocks))):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor_bytes(tensor))
        cache["hash of blocks"] = digest.hexdigest()[:16]
    return str(cache["hash of blocks"])
