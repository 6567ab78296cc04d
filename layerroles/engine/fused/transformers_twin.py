"""The twin: a second model, made of transformers' own modules; the engine computes its attention.

A `TransformerBridge` replaces a model's modules in place. The twin is therefore built from the
model's configuration, on the meta device, and then gets the bridge's tensors, without copies.
Nothing here is specific to a model family: every causal language model works whose attention uses
transformers' attention interface.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPast

from layerroles.engine.fused.partial_attention import AttentionRule
from layerroles.engine.planning.measured_speed import measure_speed
from layerroles.engine.planning.memory import Shape
from layerroles.engine.planning.pass_cost import Speed
from layerroles.errors import InputError
from layerroles.models import (
    constant_forward,
    depends_on_length,
    first_shared_keys,
    is_spread,
    lend_tensors,
    module_names,
    named_tensors,
    prepared,
    replace_forward,
    text_config,
)
from layerroles.sites import Site

# The engine's attention: (layer, q, k, v, rule) -> out, with q, k, v `[head pos d]` and out
# `[pos head d]`.
Attend = Callable[[int, Tensor, Tensor, Tensor, AttentionRule], Tensor]

_NAME, _PROBED = "layerroles", "layerroles_probed"
# How many numbers of the unembedding are converted to float32 at a time.
_AT_ONCE = 2**22
# Why a model cannot read a text in parts.
WHOLE_LENGTH = (
    "what a token reads depends on its place in a pass, or on the length of the whole text"
)


class NoTwin(InputError):
    """The fused executor cannot run the model, or cannot ablate a site of it."""


class Twin:
    """A model of transformers' own modules that shares the bridge's weights.

    Args:
        bridge: a prepared bridge.

    Attributes:
        bridge: the bridge.
        model: the model, a causal language model of transformers.
        base: the part of `model` below the unembedding, up to and with the last norm.
        paths: the name of each block in `model`.
        blocks: the blocks.
        shape: the sizes that determine memory and time.

    Raises:
        NoTwin: the architecture is not supported, or the weights do not all lie on one device.
    """

    def __init__(self, bridge: TransformerBridge) -> None:
        if is_spread(bridge):
            raise NoTwin("its weights lie on several devices or on disk")
        if not all("attn" in module_names(block) for block in bridge.blocks):
            raise NoTwin("not every layer has attention")
        AttentionInterface.register(_NAME, _attention)
        self.bridge = bridge
        self.model = _build(bridge)
        self.base: nn.Module = self.model.base_model
        if "position_ids" not in inspect.signature(self.base.forward).parameters:
            raise NoTwin("its positions cannot be given")
        self.paths = [block.name for block in bridge.blocks]
        self.blocks = [self.model.get_submodule(path) for path in self.paths]
        self._attend: Attend | None = None
        self._output: Callable[..., Any] = BaseModelOutputWithPast
        for layer, (block, path) in enumerate(zip(bridge.blocks, self.paths, strict=True)):
            attention = self.model.get_submodule(f"{path}.{block.attn.name}")
            attention.__dict__["layerroles_attend"] = self._make_attend(layer)
        self.shape = self._measure_shape()

    def _measure_shape(self) -> Shape:
        """Return the model's sizes; the size of keys and values is measured on two tokens.

        Raises:
            NoTwin: the layers do not call attention once each, in order.
        """
        calls: list[tuple[int, int]] = []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
            calls.append((layer, (k.numel() + v.numel()) // k.shape[1] * k.element_size()))
            return _attend_to_nothing(layer, q, k, v, rule)

        size, weight = self.bridge.cfg, next(self.base.parameters())
        config = text_config(self.model)
        self._run_tokens(2, attend)
        if [layer for layer, _ in calls] != list(range(len(self.blocks))):
            raise NoTwin("its layers do not attend once each")
        d_mlp = size.d_mlp or 4 * size.d_model
        # The intermediate values of all experts that a token uses are held at once.
        n_experts = getattr(config, "num_experts_per_tok", None) or 1
        d_expert = getattr(config, "moe_intermediate_size", None) or d_mlp
        d_wide = max(d_mlp, n_experts * d_expert)
        weights = [p for block in self.blocks for p in block.parameters()]
        return Shape(
            n_layers=len(self.blocks),
            n_heads=size.n_heads,
            d_head=size.d_head,
            d_model=size.d_model,
            d_mlp=d_mlp,
            d_vocab=size.d_vocab,
            n_weights=sum(p.numel() for p in weights),
            n_active=sum(_count_active(p, config) for p in weights),
            n_bytes=weight.element_size(),
            kv=tuple(kv_bytes for _, kv_bytes in calls),
            inner=6 * size.d_model + 3 * d_wide + 8 * size.n_heads * size.d_head,
            last_start=first_shared_keys(self.bridge.original_model),
        )

    @torch.inference_mode()
    def _run_tokens(self, n: int, attend: Attend) -> None:
        """Run one pass over `n` tokens with id 0."""
        device = next(self.base.parameters()).device
        self.run(
            torch.zeros(n, dtype=torch.long, device=device), torch.arange(n).to(device), attend
        )

    @cached_property
    def max_exact_tokens(self) -> int | None:
        """The longest text, in tokens, in which engine and model mask the same keys; None for any.

        They take the sizes of sliding windows from different places: the engine from what layers
        pass to the attention function, the model from what it makes its masks with. If the sizes
        agree, or there are no windows, any length is right. Otherwise, as in architectures that
        state windows in only one of these places, the limit is the smallest window.
        """
        config = text_config(self.model)
        window_of_layer: dict[int, int | None] = {}
        mask_windows: set[int | None] = set()

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
            window_of_layer[layer] = rule.window
            return _attend_to_nothing(layer, q, k, v, rule)

        def note_mask(*_args: Any, local_size: int | None = None, **_options: Any) -> None:
            mask_windows.add(local_size)

        AttentionInterface.register(_PROBED, _attention)
        AttentionMaskInterface.register(_PROBED, note_mask)
        self.model.set_attn_implementation(_PROBED)
        try:
            self._run_tokens(2, attend)
        finally:
            self.model.set_attn_implementation(_NAME)
        layer_types = getattr(config, "layer_types", None) or []
        sliding = [n for n, kind in enumerate(layer_types) if kind == "sliding_attention"]
        passed_windows = {window for window in window_of_layer.values() if window}
        masked_windows = {window for window in mask_windows if window}
        if passed_windows == masked_windows and all(window_of_layer[layer] for layer in sliding):
            return None
        configured = getattr(config, "sliding_window", None)
        windows = passed_windows | masked_windows | ({configured} if configured else set())
        return min(windows, default=None)

    @cached_property
    def token_dims(self) -> dict[nn.Module, int]:
        """The token dimension of each module that has weights and processes tokens independently.

        These modules are called with one tensor, have no children, and return a tensor with as many
        tokens. The token dimension varies: in the input of a query norm, heads may come before it.
        """
        n = 2 + max(self.bridge.cfg.n_heads, getattr(self.bridge.cfg, "n_key_value_heads", 0) or 0)
        dims: dict[nn.Module, int] = {}

        def note(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            if (
                len(args) == 1
                and not kwargs
                and isinstance(args[0], Tensor)
                and isinstance(output, Tensor)
            ):
                sizes = list(args[0].shape[:-1])
                if sizes.count(n) == 1 and sizes == list(output.shape[:-1]):
                    dims[module] = sizes.index(n)

        with ExitStack() as hooks:
            for module in (module for block in self.blocks for module in block.modules()):
                if module._parameters and next(module.children(), None) is None:
                    hooks.enter_context(module.register_forward_hook(note, with_kwargs=True))
            self._run_tokens(n, _attend_to_nothing)
        return dims

    @cached_property
    def speed(self) -> Speed:
        """The speed of the device, measured on first use."""
        weight = next(self.base.parameters())
        tokenizer = prepared(self.bridge).tokenizer
        return measure_speed(weight.device, weight.dtype, self.shape, tokenizer)

    def run(
        self, tokens: Int[Tensor, " pos"], positions: Int[Tensor, " pos"], attend: Attend
    ) -> Float[Tensor, "pos d_model"]:
        """Run one pass over a row of tokens; returns the residual stream after the last norm."""
        self._attend = attend
        try:
            out = self.base(input_ids=tokens[None], position_ids=positions[None], use_cache=False)
        finally:
            self._attend = None
        self._output = type(out)
        stream: Tensor = out.last_hidden_state
        return stream[0]

    def logits(self, stream: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_vocab"]:
        """Compute logits from the stream after the last norm, with the model's own code."""

        def return_stream(*_args: Any, **_kwargs: Any) -> Any:
            return self._output(last_hidden_state=stream[None])

        with replace_forward([self.base], return_stream):
            tokens = torch.zeros(1, 1, dtype=torch.long, device=stream.device)
            logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits[0]

    @cached_property
    def rounds_logits(self) -> bool:
        """Whether the model's logits have 16 bits and `token_logits` can give them in float32."""
        head = self.model.get_output_embeddings()
        if type(head) is not nn.Linear or head.weight.dtype not in (torch.bfloat16, torch.float16):
            return False
        stream = head.weight.new_zeros(1, self.shape.d_model)
        with torch.inference_mode():
            return self._read_tokens(stream, torch.zeros_like(stream[:, 0]).long()).shape == (1, 1)

    def token_logits(
        self, stream: Float[Tensor, "pos d_model"], tokens: Int[Tensor, " pos"]
    ) -> Float[Tensor, " pos"]:
        """Return the logit of one token at each position, computed in float32.

        In 16 bits, logits as the model computes them are so coarse that two answers often tie.
        """
        n = max(1, _AT_ONCE // stream.shape[1])
        pairs = zip(stream.split(n), tokens.split(n), strict=True)
        return torch.cat([self._read_tokens(*pair)[:, 0].float() for pair in pairs])

    def _read_tokens(
        self, stream: Float[Tensor, "pos d_model"], tokens: Int[Tensor, " pos"]
    ) -> Float[Tensor, "pos _"]:
        """Compute each position's logit of its token in `tokens`, without the other logits."""
        head = self.model.get_output_embeddings()

        def multiply(entered: Float[Tensor, "1 pos d"]) -> Float[Tensor, "1 pos 1"]:
            logits: Tensor = (entered[0].float() * head.weight[tokens].float()).sum(-1)
            if head.bias is not None:
                logits = logits + head.bias[tokens].float()
            return logits[None, :, None]

        with replace_forward([head], multiply):
            return self.logits(stream)

    def locate(self, site: Site) -> tuple[nn.Module, bool]:
        """Return the module whose output or input a site edits, and True if it is the output.

        Raises:
            NoTwin: the value is neither the input nor the output of a module.
        """
        block = self.bridge.blocks[site.layer]
        if site.part in ("block", "stream"):
            return self.blocks[site.layer], True
        point = self.bridge.hook_dict[site.hook_name]
        attn = block.attn
        for path, part, is_output in (
            *(
                (part.name, getattr(block, name), True)
                for name, part in block.submodules.items()
                if name in module_names(block)
            ),
            *((f"{attn.name}.{part.name}", part, False) for part in attn.submodules.values()),
        ):
            if (part.hook_out if is_output else part.hook_in) is point:
                return self.model.get_submodule(f"{block.name}.{path}"), is_output
        raise NoTwin(f"{site} is not a module's input or output")

    def starting_at(
        self, first: int, stream: Float[Tensor, "1 pos d_model"]
    ) -> AbstractContextManager[None]:
        """Skip the blocks before `first` inside the `with` block; `stream` is the input of `first`.

        If `first` is the number of blocks, all are skipped, and `stream` enters the last norm.
        """
        return replace_forward(self.blocks[:first], constant_forward(stream))

    @contextmanager
    def record_streams(
        self, layers: Sequence[int], store: Callable[[int, Tensor], None]
    ) -> Iterator[None]:
        """Inside the `with` block, call `store(layer, stream)` with the stream entering each layer.

        In `layers`, the number of blocks stands for the stream that leaves the last one.
        """

        def note(
            _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, layer: int
        ) -> None:
            store(layer, args[0] if args else kwargs["hidden_states"])

        def note_last(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            store(len(self.blocks), output[0] if isinstance(output, tuple) else output)

        with ExitStack() as hooks:
            for layer in layers:
                if layer == len(self.blocks):
                    handle = self.blocks[-1].register_forward_hook(note_last)
                else:
                    handle = self.blocks[layer].register_forward_pre_hook(
                        partial(note, layer=layer), with_kwargs=True
                    )
                hooks.enter_context(handle)
            yield

    def _make_attend(self, layer: int) -> Callable[..., Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
            if self._attend is None:
                raise NoTwin("its attention runs outside of a pass")
            return self._attend(layer, q, k, v, rule)

        return attend


def _attend_to_nothing(layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
    """Return zeros in the shape of an attention output, `[pos head d_value]`."""
    return torch.zeros(q.shape[1], q.shape[0], v.shape[2], dtype=q.dtype, device=q.device)


def _attention(
    module: nn.Module,
    query: Float[Tensor, "1 head pos d_head"],
    key: Float[Tensor, "1 kv_head pos d_head"],
    value: Float[Tensor, "1 kv_head pos d_value"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Float[Tensor, " head"] | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 pos head d_value"], None]:
    """Compute attention with the twin's current `attend`; transformers calls this function.

    Raises:
        NoTwin: the attention needs something that the engine does not support.
    """
    if others.get("position_bias") is not None:
        raise NoTwin("its attention has position biases")
    attend = module.__dict__.get("layerroles_attend")
    if attend is None:
        raise NoTwin("its attention is not where the bridge says")
    factor = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    rule = AttentionRule(factor, softcap, sliding_window, s_aux)
    return attend(query[0], key[0], value[0], rule)[None], None


def _build(bridge: TransformerBridge) -> Any:
    original: nn.Module = bridge.original_model
    if not hasattr(original, "config"):
        raise NoTwin("it is not made of transformers' modules")
    config, text = copy.deepcopy(original.config), text_config(original)
    if depends_on_length(text):
        raise NoTwin(WHOLE_LENGTH)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=_NAME)
    except KeyError as error:
        raise NoTwin("its attention does not go through transformers' interface") from error
    except (ValueError, ImportError) as error:
        raise NoTwin(str(error).split("\n")[0]) from error
    if type(model).__name__ != bridge.cfg.architecture:
        raise NoTwin(f"its configuration makes a {type(model).__name__}")
    if (missing := lend_tensors(model, named_tensors(bridge))) is not None:
        raise NoTwin(f"the bridge has no {missing}")
    model.tie_weights()
    return model.eval()


def _count_active(weight: Tensor, config: Any) -> int:
    """Count the entries of a weight that one token is multiplied with; 0 for vectors.

    A weight with three dimensions stacks the matrices of experts, and a token uses only some of
    them. (The gate that chooses the experts is a plain matrix.)
    """
    if weight.ndim < 3:
        return weight.numel() if weight.ndim == 2 else 0
    n_experts = getattr(config, "num_experts_per_tok", None) or len(weight)
    return int(weight.numel() // len(weight) * n_experts)
