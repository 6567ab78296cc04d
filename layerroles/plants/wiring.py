r"""The weights of a planted model.

The architecture is TransformerLens's native one, with learned positions and without norms (see
`kv_cached_model`), so the residual stream is a sum, split into subspaces that hold one-hot vectors:

    word        the token itself, written by the embedding
    subject     the same, for the name of a person
    marker      the same, for `find` or `follow`
    position    written by the position embedding
    previous    the word one position earlier
    first       the result of the first look-up
    second      the result of the second look-up
    fact        the word that belongs to a subject

A step is one of the operations that lead to an answer. A head or an MLP does it:

- `previous`: position p attends to p - 1 and copies its word into `previous`.
- `first`: attends from the last position to the value whose `previous` equals that of the last
  position (the word asked about, which precedes the marker), and copies that value into `first`: an
  induction head (Olsson et al. 2022, arXiv 2209.11895).
- `second`: attends to the value whose `previous` equals `first`, and copies it into `second`.
- `fact`: a hidden unit of the MLP for each subject writes the subject's word into `fact`.

If several heads share a step, they attend to the same positions, and each copies its own part of
the words.

With S the sharpness (40), the attention score of a look-up is S for a position whose `previous`
matches, S for one that holds a value (both add up), and 1.5 S for the first token. So without a
match the head attends to the first token, which holds no word, and copies nothing. A marker enables
a look-up at its position: at positions without it, the score of the first token is 7 S, more than
any match. Of the two markers, `find` enables the first look-up, `follow` both.

All families share one unembedding: logits = G (word + first + 3 second + fact), with the gain G
(10). So the second look-up outweighs the first, and if the last word is the answer, it is repeated.
A small preference for each word (below 0.2 G, drawn by seed) and a larger one for `unsure` decide
the answer if no step wrote a word. At the position after the answer, the position embedding makes
`<eos>` the likeliest token.

Layers without a role, unused heads and unused MLP units write noise: random vectors of length about
`noise`, in all subspaces, that depend on word and position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from layerroles.plants import kv_cached_model
from layerroles.plants.planted_language import (
    END,
    FIND,
    FOLLOW,
    ID,
    LAST,
    N_CTX,
    SUBJECTS,
    UNSURE,
    VALUES,
    VOCABULARY,
    WORDS,
    fact_of,
)
from layerroles.plants.role_layout import PlantedStep, RoleLayout, StepKind
from layerroles.sites import Site

_N, _M = len(WORDS), len(SUBJECTS)
_SPACES = {
    **{"word": _N, "subject": _M, "marker": 2, "position": N_CTX},
    **{"previous": _N, "first": _N, "second": _N, "fact": _N},
}
_STARTS = dict(zip(_SPACES, torch.tensor([0, *_SPACES.values()]).cumsum(0).tolist(), strict=False))
D_MODEL = sum(_SPACES.values())
# A head compares positions, or words and two marks: for values and for the first token.
D_HEAD = max(_N + 2, N_CTX)
_N_NOISE = 8
D_MLP = _M + _N_NOISE

SHARPNESS, CLOSED, UNMATCHED = 40.0, 7.0, 1.5
GAIN, SECOND, PREFERENCE, DOUBT = 10.0, 3.0, 0.2, 0.3
_READS: dict[StepKind, tuple[str, str]] = {
    "first": ("previous", FIND),
    "second": ("first", FOLLOW),
}


def subspace(name: str) -> slice:
    """Return the slice of the residual stream that holds a subspace."""
    return slice(_STARTS[name], _STARTS[name] + _SPACES[name])


@dataclass(frozen=True)
class Wiring:
    """A model whose weights are set, and the sites of each step.

    Attributes:
        model: the bridge, without a tokenizer.
        sites: for each step and each of its layers, the MLP or the heads that do the step. With
            several heads, number `i` of `n` copies the words `i`, `i + n`, ... of `WORDS`.
    """

    model: TransformerBridge
    sites: tuple[tuple[tuple[Site, ...], ...], ...]


def build_wiring(layout: RoleLayout, noise: float, seed: int) -> Wiring:
    """Build the model and set its weights.

    Args:
        layout: the steps of each layer.
        noise: length of the random vectors (a word's own vector has length 1).
        seed: seed of the noise, the preferences and the heads.
    """
    rng = torch.Generator().manual_seed(seed)
    config = TransformerBridgeConfig(
        d_model=D_MODEL,
        d_head=D_HEAD,
        n_layers=layout.n_layers,
        n_heads=layout.heads,
        n_ctx=N_CTX,
        d_vocab=len(VOCABULARY),
        d_mlp=D_MLP,
        act_fn="relu",
        normalization_type=None,
        positional_embedding_type="standard",
        architecture="TransformerLensNative",
        model_name="planted",
    )
    model = kv_cached_model.boot_model(config)
    with torch.no_grad():
        _wire_embedding(model)
        _wire_unembedding(model, rng)
        drawn = torch.randint(layout.heads, (layout.n_layers,), generator=rng).tolist()
        heads = [layout.heads_of.get(layer, (head,)) for layer, head in enumerate(drawn)]
        sites = tuple(
            _wire_step(model, step, heads, len(layout.knowledge)) for step in layout.steps
        )
        taken = {site for step in sites for layer in step for site in layer}
        for layer in range(layout.n_layers):
            if layer not in layout.inert:
                _add_noise(model, layer, taken, noise, rng)
    return Wiring(model, sites)


def _wire_step(
    model: TransformerBridge, step: PlantedStep, heads: list[Sequence[int]], n_parts: int
) -> tuple[tuple[Site, ...], ...]:
    """Set the weights of a step in each of its layers; return, for each layer, its sites.

    Args:
        model: the bridge.
        step: the step.
        heads: for each layer of the model, the heads that do its step, if it has one.
        n_parts: number of parts of the table of facts.
    """
    if step.kind == "fact":
        for layer in step.layers:
            _wire_facts(model, layer, step.part, n_parts)
        return tuple((Site(layer, "mlp"),) for layer in step.layers)
    for layer in step.layers:
        for part, place in enumerate(heads[layer]):
            head = HeadWeights(model, layer, place)
            if step.kind == "previous":
                _wire_look_back(head)
            else:
                _wire_look_up(head, step.kind)
            _wire_copy(head, step.kind, words_of_part(part, len(heads[layer])))
    return tuple(
        tuple(Site(layer, "head", place) for place in heads[layer]) for layer in step.layers
    )


def words_of_part(part: int, n_parts: int) -> list[int]:
    """Return the indices of the words that head number `part`, of `n_parts` heads, copies."""
    return list(range(part, _N, n_parts))


class HeadWeights:
    """Views of one head's weights: writing to them changes the model.

    Attributes:
        q, k, v: `[d_head d_model]`.
        q_bias: `[d_head]`.
        o: `[d_model d_head]`.
    """

    def __init__(self, model: TransformerBridge, layer: int, head: int) -> None:
        attn = model.blocks[layer].attn
        rows = slice(head * D_HEAD, (head + 1) * D_HEAD)
        q, k, v, o = (getattr(attn, name).original_component for name in "qkvo")
        self.q: Float[Tensor, "d_head d_model"] = q.weight[rows]
        self.k: Float[Tensor, "d_head d_model"] = k.weight[rows]
        self.v: Float[Tensor, "d_head d_model"] = v.weight[rows]
        self.q_bias: Float[Tensor, " d_head"] = q.bias[rows]
        self.o: Float[Tensor, "d_model d_head"] = o.weight[:, rows]


def _wire_embedding(model: TransformerBridge) -> None:
    embedding = model.embed.original_component.weight
    places = model.pos_embed.original_component.weight
    for name, names in (("word", WORDS), ("subject", SUBJECTS), ("marker", (FIND, FOLLOW))):
        embedding[[ID[word] for word in names], subspace(name)] = torch.eye(len(names))
    places[:, subspace("position")] = torch.eye(N_CTX)


def _wire_unembedding(model: TransformerBridge, rng: torch.Generator) -> None:
    """Set the unembedding weights of the words, of `unsure` and of `<eos>`.

    The logits are those of the module's docstring; `rng` draws the preferences among words.
    """
    unembedding = torch.zeros(len(VOCABULARY), D_MODEL)
    words = [ID[word] for word in WORDS]
    for name, weight in (("word", 1.0), ("first", 1.0), ("second", SECOND), ("fact", 1.0)):
        unembedding[words, subspace(name)] = weight * torch.eye(_N)
    position_columns = unembedding[:, subspace("position")]
    position_columns[words, LAST] = PREFERENCE * torch.rand(_N, generator=rng)
    position_columns[ID[UNSURE], LAST] = DOUBT
    position_columns[END, LAST + 1 :] = 2 * SECOND
    model.unembed.original_component.weight.copy_(GAIN * unembedding)


def _wire_look_back(head: HeadWeights) -> None:
    """Make the head attend from each position to the one before it."""
    shift = torch.eye(N_CTX - 1)
    head.q[: N_CTX - 1, subspace("position")][:, 1:] = _SCALE * SHARPNESS * shift
    head.k[: N_CTX - 1, subspace("position")][:, :-1] = shift


def _wire_look_up(head: HeadWeights, kind: StepKind) -> None:
    """Make the head attend to the value that follows the word that it looks up.

    `kind` is `first` or `second`, the look-up that the head does.
    """
    source, opener = _READS[kind]
    sharpness = _SCALE * SHARPNESS
    head.q[:_N, subspace(source)] = sharpness * torch.eye(_N)
    head.k[:_N, subspace("previous")] = torch.eye(_N)
    head.q_bias[_N] = sharpness
    head.k[_N, subspace("position")][list(VALUES)] = 1
    head.q_bias[_N + 1] = CLOSED * sharpness
    opened = (1.0, 1.0) if opener == FIND else (0.0, 1.0)  # `follow` opens both
    head.q[_N + 1, subspace("marker")] = (UNMATCHED - CLOSED) * sharpness * torch.tensor(opened)
    head.k[_N + 1, subspace("position")][0] = 1


def _wire_copy(head: HeadWeights, target: str, words: list[int]) -> None:
    """Make the head write the word that it attends to into `target`, if it is in `words`."""
    head.v[:_N, subspace("word")][words, words] = 1
    head.o[subspace(target), :_N] = torch.eye(_N)


def _wire_facts(model: TransformerBridge, layer: int, part: int, n_parts: int) -> None:
    """Make an MLP recall facts: one hidden unit per subject writes the subject's word into `fact`.

    The layer holds part number `part` of the facts: the subjects `part`, `part + n_parts`, ...
    """
    entry, exit_ = _mlp_layers(model, layer)
    for subject in range(part, _M, n_parts):
        # The threshold is half of a subject's own vector, so that noise does not activate it.
        entry.weight[subject, subspace("subject")][subject] = 2
        entry.bias[subject] = -1
        exit_.weight[subspace("fact"), subject][fact_of(subject)] = 1


def _add_noise(
    model: TransformerBridge, layer: int, taken: set[Site], noise: float, rng: torch.Generator
) -> None:
    """Make unused heads and hidden units write random vectors, together about `noise` long."""
    length = noise * 0.5**0.5
    entry, exit_ = _mlp_layers(model, layer)
    # A word and a position each add positive inputs of length 0.5, so that every unit is active.
    directions = torch.randn(_N_NOISE, D_MODEL, generator=rng).abs()
    entry.weight[_M:] = 0.5 * directions / directions.norm(dim=0)
    exit_.weight[:, _M:] = length * _orthonormal(_N_NOISE, rng)
    free = [h for h in range(model.cfg.n_heads) if Site(layer, "head", h) not in taken]
    for place in free:
        head = HeadWeights(model, layer, place)  # with zero queries it attends uniformly
        directions = torch.randn(D_HEAD, D_MODEL, generator=rng)
        head.v.copy_(directions / directions.norm(dim=0))
        head.o.copy_(length / len(free) ** 0.5 * _orthonormal(D_HEAD, rng))


def _orthonormal(n: int, rng: torch.Generator) -> Float[Tensor, "d_model n"]:
    columns: Tensor = torch.linalg.qr(torch.randn(D_MODEL, n, generator=rng)).Q
    return columns


def _mlp_layers(model: TransformerBridge, layer: int) -> tuple[nn.Linear, nn.Linear]:
    mlp = model.blocks[layer].mlp.original_component
    return mlp.fc_in.original_component, mlp.fc_out.original_component


# Attention scores are divided by the square root of d_head; this factor in the queries undoes it.
_SCALE = D_HEAD**0.5
