"""A disk cache for statistics of the intact model's writes, so that each is collected only once.

A site's write is what it adds to the residual stream. The cache folder holds a safetensors file for
each pair of model and prompts, named by a hash of weights, configuration and token ids. For each
site, the file holds the means and standard deviations in float64, and, where an ablation needs
them, the mean at each position or every individual write. The metadata describe the model and the
prompts. If another site or other data is needed later, it is added to the file.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.reference_prompts import Reference
from layerroles.ablations.write_statistics import Donors, Kind, SiteReference, collect
from layerroles.atomic_replacement import replace_atomically
from layerroles.models import (
    Provenance,
    behaviour_config,
    cache_folder,
    encode,
    provenance,
    to_device,
    weights_cache,
)
from layerroles.sites import Site

log = logging.getLogger(__name__)

# Increment when what is collected changes, so that older files are not read.
_FORMAT = 1
_TENSORS = ("first", "rest", "first_std", "rest_std")


def load_or_collect(
    model: TransformerBridge,
    reference: Reference,
    sites: Iterable[Site],
    kinds: Iterable[Kind] = (),
) -> dict[Site, SiteReference]:
    """Return, by site, statistics of the intact model's writes over a reference.

    Statistics in memory or in the disk cache are reused; the others are collected and saved.

    Args:
        model: from `load` or `prepare`.
        reference: the prompts.
        sites: the sites whose writes are needed.
        kinds: what is needed in addition to means and standard deviations: `"positions"` (the mean
            at each position), `"donors"` (every individual write).

    Raises:
        InputError: a site that the model lacks, or a reference of one-token prompts only.
    """
    sites, kinds = list(sites), frozenset(kinds)
    known: dict[tuple[str, Site], SiteReference] = weights_cache(model)  # digest of prompts, site
    in_memory = {site: known.get((reference.digest, site)) for site in sites}
    missing = [site for site, one in in_memory.items() if one is None or not one.has(kinds)]
    if missing:
        file = ReferenceFile(model, reference)
        loaded = file.read(missing, kinds)
        new = [site for site in missing if site not in loaded]
        if new:
            collected = collect(model, reference, new, kinds)
            file.add(collected)
            loaded |= collected
        known |= {(reference.digest, site): one for site, one in loaded.items()}
    return {site: known[reference.digest, site] for site in sites}


class ReferenceFile:
    """The cache file of one model and one reference.

    Args:
        model: the model whose writes the file holds; its weights are hashed on construction.
        reference: the prompts on which the writes were collected.
    """

    def __init__(self, model: TransformerBridge, reference: Reference) -> None:
        self._model: Provenance = provenance(model)
        self._device = model.cfg.device
        self._reference = reference
        ids = [encode(model, text) for text in reference.prompts]
        # In the order in which `collect` reads the prompts.
        self._ids = tuple(sorted(map(tuple, ids), key=len))
        content = [_FORMAT, self._model.weights, behaviour_config(model), ids]
        name = hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode())
        self.path: Path = cache_folder() / "references" / f"{name.hexdigest()[:32]}.safetensors"

    def read(self, sites: Iterable[Site], kinds: Iterable[Kind] = ()) -> dict[Site, SiteReference]:
        """Return the stored statistics by site, without sites for which the file lacks some.

        A site needs means, standard deviations and the data that `kinds` names.
        """
        kinds = list(kinds)
        needed = {site: [f"{site}.{name}" for name in (*_TENSORS, *kinds)] for site in sites}
        tensors, counts = self._load([name for names in needed.values() for name in names])
        # Moved to the model's device once, not in each edit; donors stay on the CPU.
        moved = {
            name: tensor if name.endswith(".donors") else to_device(tensor, self._device)
            for name, tensor in tensors.items()
        }
        references = {}
        for site, names in needed.items():
            if all(name in moved for name in names):
                donors = moved.get(f"{site}.donors")
                references[site] = SiteReference(
                    **{name: moved[f"{site}.{name}"] for name in _TENSORS},
                    n_first=counts[str(site)][0],
                    n_rest=counts[str(site)][1],
                    positions=moved.get(f"{site}.positions"),
                    donors=None if donors is None else Donors(donors, self._ids),
                )
        return references

    def add(self, references: dict[Site, SiteReference]) -> None:
        """Write the statistics of sites to the file; log a warning if that fails.

        The statistics of other sites in the file are kept.
        """
        tensors, counts = self._load()
        for site, one in references.items():
            tensors |= {
                f"{site}.{name}": getattr(one, name).cpu().contiguous() for name in _TENSORS
            }
            if one.positions is not None:
                tensors[f"{site}.positions"] = one.positions.cpu()
            if one.donors is not None:
                tensors[f"{site}.donors"] = one.donors.writes
            counts[str(site)] = (one.n_first, one.n_rest)
        metadata = {
            "counts": json.dumps(counts),
            "model": json.dumps(self._model.to_dict()),
            "prompts": self._reference.digest,
            "n_prompts": str(len(self._reference.prompts)),
        }
        try:
            with replace_atomically(self.path) as scratch:  # another process may write it too
                save_file(tensors, scratch, metadata=metadata)
        except (OSError, SafetensorError) as error:
            log.warning("reference %s cannot be kept: %s", self.path.name, error)

    def _load(
        self, names: Iterable[str] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
        """Return the stored tensors by name, and the token counts by site.

        The counts of a site are `n_first` and `n_rest` of its `SiteReference`: the numbers of first
        tokens and of other tokens. Both maps are empty if the file is missing or cannot be read.

        Args:
            names: names of the tensors to return; None returns all.
        """
        try:
            if not self.path.is_file():
                return {}, {}
            with safe_open(self.path, framework="pt") as file:
                counts = json.loads(file.metadata()["counts"])
                pairs = {site: (first, rest) for site, (first, rest) in counts.items()}
                stored = set(file.keys())
                chosen = stored if names is None else stored.intersection(names)
                return {name: file.get_tensor(name) for name in chosen}, pairs
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            log.warning("reference %s cannot be read (%s): collected again", self.path.name, error)
            return {}, {}
