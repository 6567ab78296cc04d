"""Loops that one would write by hand instead of a sweep: all requests under one condition."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from read_back import ReadBack
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import layerroles as lr
from layerroles.engine import Scored, Written, encode_scored, encode_written
from layerroles.models.bridge_loading import resolve_dtype
from layerroles.private_apis import rename_cache_arguments

Row = dict[str, Any]
# All rows under one condition; an answer is [logprob, is_greedy] or a text.
Loop = Callable[[lr.Site | None], list[Any]]
# Logits of padded rows under a condition, given the rows and where they are none of pads.
Logits = Callable[[Tensor, Tensor, lr.Site | None], Tensor]


def hooks(args: argparse.Namespace, rows: Sequence[Row]) -> Loop:
    """TransformerLens as one writes it by hand: hooks around padded batches."""
    from transformer_lens.model_bridge import TransformerBridge

    folder, dtype = _source(args)
    model: Any = TransformerBridge.boot_transformers(folder, dtype=dtype, device="cpu")
    rename_cache_arguments(model)  # else generation is wrong with transformers 5.24

    def logits(tokens: Tensor, mask: Tensor, one: lr.Site | None) -> Tensor:
        found: Tensor = model.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=_hooks(one))
        return found

    if rows[0]["kind"] == "loglikelihood":
        return _scoring(args, rows, logits)

    asked = encode_written(lr.load(args.model, device="meta"), given(rows))
    (until, limit), *others = {(each.until, each.max_gen_toks) for each in asked}
    if others:
        raise SystemExit("hooks: the texts of a file must have the same until and max_gen_toks")
    stops = {"max_new_tokens": limit, "stop_strings": list(until)}

    def answer(one: lr.Site | None) -> list[Any]:
        found: list[Any] = [None] * len(rows)
        for batch in _batches(asked, args.batch_size):
            tokens, mask = _padded([asked[i].context for i in batch], "left")
            with torch.inference_mode(), model.hooks(fwd_hooks=_hooks(one)):
                whole = model.generate(
                    tokens, attention_mask=mask, do_sample=False, verbose=False, **stops
                )
            new = whole[:, tokens.shape[1] :]
            texts = model.tokenizer.batch_decode(new, skip_special_tokens=True)
            for i, text in zip(batch, texts, strict=True):
                found[i] = _cut(text, until)
        return found

    return answer


def nnsight(args: argparse.Namespace, rows: Sequence[Row]) -> Loop:
    """The `skip` of nnsight."""
    from nnsight import LanguageModel

    hf, tokenizer = _hugging_face(args)
    model = LanguageModel(hf, tokenizer=tokenizer)

    def logits(tokens: Tensor, mask: Tensor, one: lr.Site | None) -> Tensor:
        if one is not None and one.head is not None:
            raise SystemExit(f"nnsight: {one} is no whole layer, and only these are skipped here")
        with model.trace({"input_ids": tokens, "attention_mask": mask}):
            if one is not None:
                block = model.model.layers[one.layer]
                block.skip(block.input)
            found: Tensor = model.lm_head.output.save()
        return found

    return _scoring(args, rows, logits)


def lm_eval(args: argparse.Namespace, rows: Sequence[Row]) -> Loop:
    """lm-eval's own `HFLM`; a skipped layer is the identity, a head is zeroed before `o_proj`."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = _hugging_face(args)
    lm = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=args.batch_size,
        softmax_dtype=args.softmax_dtype,
    )
    asked = []
    for index, row in enumerate(rows):
        if row["kind"] == "loglikelihood":
            request: tuple[Any, ...] = (row["context"], row["continuation"])
        else:
            options = {name: row[name] for name in ("until", "max_gen_toks")}
            request = (row["context"], options | {"do_sample": False})
        asked.append(Instance(row["kind"], {}, request, index))
    verb = getattr(lm, rows[0]["kind"])
    ablated = partial(_ablated, model)
    if args.read_back:
        ablated = ReadBack(model, writes=rows[0]["kind"] == "generate_until").under

    def answer(one: lr.Site | None) -> list[Any]:
        with ablated(one):
            return list(verb(asked, disable_tqdm=True))

    return answer


def given(rows: Sequence[Row]) -> list[Any]:
    """What the engine's verbs are given."""
    if rows[0]["kind"] == "loglikelihood":
        return [(row["context"], row["continuation"]) for row in rows]
    names = ("until", "max_gen_toks")
    return [(row["context"], {name: row[name] for name in names}) for row in rows]


def _scoring(args: argparse.Namespace, rows: Sequence[Row], logits: Logits) -> Loop:
    """Log-likelihoods from logits of batches of rows of like length, padded on the right."""
    pairs = encode_scored(lr.load(args.model, device="meta"), given(rows))

    def answer(one: lr.Site | None) -> list[Any]:
        found: list[Any] = [None] * len(rows)
        for batch in _batches(pairs, args.batch_size):
            ids = [(*pairs[i].context, *pairs[i].continuation[:-1]) for i in batch]
            with torch.inference_mode():
                left = logits(*_padded(ids, "right"), one)
            for row, i in enumerate(batch):
                target = torch.tensor(pairs[i].continuation)
                scores = left[row, len(ids[row]) - len(target) : len(ids[row])].float()
                chosen = scores.log_softmax(-1).gather(1, target[:, None])
                found[i] = [float(chosen.sum()), bool((scores.argmax(-1) == target).all())]
        return found

    return answer


def _batches(asked: Sequence[Scored | Written], size: int) -> list[list[int]]:
    """Places of requests of like length, the longest first."""
    order = sorted(range(len(asked)), key=lambda i: -len(asked[i].context))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _padded(ids: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
    """Rows of one length, and 1 where they are no pads."""
    rows = [torch.tensor(row) for row in ids]
    masks = [torch.ones_like(row) for row in rows]
    tokens, mask = (pad_sequence(each, True, padding_side=side) for each in (rows, masks))
    return tokens, mask


def _hooks(one: lr.Site | None) -> list[tuple[str, Callable[..., Tensor | None]]]:
    """What TransformerLens is given: a block's input leaves it, or a head writes nothing."""
    if one is None:
        return []
    seen: dict[str, Tensor] = {}

    def enter(value: Tensor, hook: object) -> None:
        seen["input"] = value

    def leave(value: Tensor, hook: object) -> Tensor:
        return seen["input"]

    def zero(z: Tensor, hook: object) -> Tensor:
        z[:, :, one.head] = 0
        return z

    block = f"blocks.{one.layer}"
    if one.head is not None:
        return [(f"{block}.attn.hook_z", zero)]
    return [(f"{block}.hook_in", enter), (f"{block}.hook_out", leave)]


def _cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of these."""
    for stop in until:
        text = text.split(stop)[0]
    return text


def _source(args: argparse.Namespace) -> tuple[str, torch.dtype]:
    """Where the weights are, and in which dtype they are taken."""
    dtype = resolve_dtype(args.dtype, torch.device("cpu"))
    return str(lr.model_folder(args.model)), dtype


def _hugging_face(args: argparse.Namespace) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, dtype = _source(args)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@contextmanager
def _ablated(model: Any, one: lr.Site | None) -> Iterator[None]:
    if one is None:
        yield
        return
    layer = model.base_model.layers[one.layer]
    if one.head is None:
        layer.__dict__["forward"] = _same
    else:
        width = layer.self_attn.head_dim
        handle = layer.self_attn.o_proj.register_forward_pre_hook(
            partial(_zeroed, where=slice(one.head * width, (one.head + 1) * width))
        )
    try:
        yield
    finally:
        if one.head is None:
            layer.__dict__.pop("forward")
        else:
            handle.remove()


def _same(hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor:
    return hidden_states


def _zeroed(_module: object, args: tuple[Tensor], *, where: slice) -> tuple[Tensor]:
    z = args[0].clone()
    z[..., where] = 0
    return (z,)
