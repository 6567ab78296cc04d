r"""Answer a request file under some conditions in one way, in a process of its own; time it.

    python benchmarks/runner.py engine --requests arc.jsonl --conditions intact,L0,L1 --out a.json

Ways: `engine` (all conditions in one sweep), `hooks` (TransformerLens hooks around padded batches:
`executor="plain"`), `lm-eval` (its `HFLM`) and `nnsight` (its `skip`; likelihoods only), the last
three once for each condition. A condition is `intact`, a layer to skip (`L3`) or a head to zero
(`L3.H1`). A request is a JSON object a line:

    {"kind": "loglikelihood", "context": "...", "continuation": "..."}
    {"kind": "generate_until", "context": "...", "until": ["\n"], "max_gen_toks": 64}

Where scores are told, a continuation says whether it is the right one (`"right": true`), and a text
what the right ones begin with (`"answer"`, a regular expression).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from read_back import ReadBack

import layerroles as lr
from layerroles.engine import scored

Row = dict[str, Any]
# All rows under one condition; an answer is [logprob, is_greedy] or a text.
Loop = Callable[[lr.Site | None], list[Any]]


def main() -> None:
    """Load, warm up, answer, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("way", choices=("engine", *LOOPS))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--conditions", default="intact")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--memory", default=None)
    parser.add_argument(
        "--read-back",
        action="store_true",
        help="lm-eval: layers below a skipped one are not computed again; intact comes first",
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    rows = read(args.requests)
    names = args.conditions.split(",")
    sites = [None if name == "intact" else site(name) for name in names]
    run = engine if args.way == "engine" else partial(loop, LOOPS[args.way])
    found = run(args, rows, sites)
    found["answers"] = dict(zip(names, found["answers"], strict=True))
    args.out.write_text(json.dumps(found), encoding="utf-8")


def read(path: Path) -> list[Row]:
    """The requests of a file."""
    with path.open(encoding="utf-8", newline="\n") as lines:  # not splitlines(): U+2028 occurs
        return [json.loads(line) for line in lines if line.strip()]


def site(name: str) -> lr.Site:
    """`L3` or `L3.H1`."""
    layer, _, head = name.removeprefix("L").partition(".H")
    return lr.Site(int(layer), "head", int(head)) if head else lr.Site(int(layer))


def engine(
    args: argparse.Namespace, rows: Sequence[Row], sites: Sequence[lr.Site | None]
) -> dict[str, Any]:
    """The whole sweep at once, the engine's checks against the reference included."""
    model = lr.load(args.model, dtype=args.dtype, device="cpu")
    conditions = [_condition(one) for one in sites]
    ask(lr.Engine(model, memory=args.memory), rows[:1], conditions[:1])
    asked = lr.Engine(model, memory=args.memory)
    before = _memory("VmRSS", reset=True)
    took, answers = timed(lambda: ask(asked, rows, conditions))
    after = _memory("VmHWM")
    plan = asked.plan(_given(rows), conditions)
    return {
        "seconds": took,
        "answers": answers,
        "executors": sorted(asked.used),
        "peak_mb": None if before is None or after is None else after - before,
        "planned_mb": plan.n_bytes / 2**20,
    }


def loop(
    make: Callable[[argparse.Namespace, Sequence[Row]], Loop],
    args: argparse.Namespace,
    rows: Sequence[Row],
    sites: Sequence[lr.Site | None],
) -> dict[str, Any]:
    """One condition after the other; seconds for each."""
    make(args, rows[:1])(None)
    ask = make(args, rows)
    found = [timed(partial(ask, one)) for one in sites]
    return {"seconds": [took for took, _ in found], "answers": [answers for _, answers in found]}


def hooks(args: argparse.Namespace, rows: Sequence[Row]) -> Loop:
    """TransformerLens hooks around padded batches, as one writes it by hand: the plain engine."""
    asked = lr.Engine(
        lr.load(args.model, dtype=args.dtype, device="cpu"),
        executor="plain",
        batch_size=args.batch_size,
    )
    return lambda one: list(ask(asked, rows, [_condition(one)])[0])


def lm_eval(args: argparse.Namespace, rows: Sequence[Row]) -> Loop:
    """lm-eval's own `HFLM`; a skipped layer is the identity, a head is zeroed before `o_proj`."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = _hugging_face(args)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=args.batch_size)
    asked = []
    for index, row in enumerate(rows):
        if row["kind"] == "loglikelihood":
            given: tuple[Any, ...] = (row["context"], row["continuation"])
        else:
            options = {name: row[name] for name in ("until", "max_gen_toks")}
            given = (row["context"], options | {"do_sample": False})
        asked.append(Instance(row["kind"], {}, given, index))
    verb = getattr(lm, rows[0]["kind"])
    ablated = partial(_ablated, model)
    if args.read_back:
        ablated = ReadBack(model, writes=rows[0]["kind"] == "generate_until").under

    def answer(one: lr.Site | None) -> list[Any]:
        with ablated(one):
            return list(verb(asked, disable_tqdm=True))

    return answer


def nnsight(args: argparse.Namespace, rows: Sequence[Row]) -> Loop:
    """The `skip` of nnsight, in batches of rows of like length, padded on the right."""
    from nnsight import LanguageModel

    hf, tokenizer = _hugging_face(args)
    model = LanguageModel(hf, tokenizer=tokenizer)
    pairs = scored(
        lr.load(args.model, dtype=args.dtype, device="cpu"),
        [(row["context"], row["continuation"]) for row in rows],
    )
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i].context))

    def answer(one: lr.Site | None) -> list[Any]:
        found: list[Any] = [None] * len(rows)
        for start in range(0, len(order), args.batch_size):
            batch = order[start : start + args.batch_size]
            ids = [torch.tensor([*pairs[i].context, *pairs[i].continuation[:-1]]) for i in batch]
            tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(row) for row in ids], batch_first=True
            )
            with torch.inference_mode(), model.trace({"input_ids": tokens, "attention_mask": mask}):
                if one is not None:
                    block = model.model.layers[one.layer]
                    block.skip(block.input)
                logits = model.lm_head.output.save()
            for row, i in enumerate(batch):
                target = torch.tensor(pairs[i].continuation)
                scores = logits[row, len(ids[row]) - len(target) : len(ids[row])].float()
                chosen = scores.log_softmax(-1).gather(1, target[:, None])
                found[i] = [float(chosen.sum()), bool((scores.argmax(-1) == target).all())]
        return found

    return answer


LOOPS = {"hooks": hooks, "lm-eval": lm_eval, "nnsight": nnsight}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that it takes, and what it returns."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def _condition(one: lr.Site | None) -> lr.Condition:
    if one is None:
        return lr.Condition({})
    return lr.Condition({one: lr.Zero() if one.part == "head" else lr.Skip()})


def _given(rows: Sequence[Row]) -> list[Any]:
    if rows[0]["kind"] == "loglikelihood":
        return [(row["context"], row["continuation"]) for row in rows]
    names = ("until", "max_gen_toks")
    return [(row["context"], {name: row[name] for name in names}) for row in rows]


def ask(asked: lr.Engine, rows: Sequence[Row], conditions: Sequence[lr.Condition]) -> list[Any]:
    """What an engine answers, `[logprob, is_greedy]` or a text of each row per condition."""
    if rows[0]["kind"] != "loglikelihood":
        return asked.generate_until(_given(rows), conditions)
    found = asked.loglikelihood(_given(rows), conditions)
    return [
        [[float(p), bool(g)] for p, g in zip(*pair, strict=True)]
        for pair in zip(found.logprob, found.is_greedy, strict=True)
    ]


def _hugging_face(args: argparse.Namespace) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from layerroles.models import resolve_dtype

    folder = str(lr.model_folder(args.model))
    dtype = resolve_dtype(args.dtype, torch.device("cpu"))
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


def _same(hidden_states: torch.Tensor, *_args: object, **_kwargs: object) -> torch.Tensor:
    return hidden_states


def _zeroed(_module: object, args: tuple[torch.Tensor], *, where: slice) -> tuple[torch.Tensor]:
    z = args[0].clone()
    z[..., where] = 0
    return (z,)


def _memory(what: str, *, reset: bool = False) -> float | None:
    """A line of `/proc/self/status` in MB, the highest mark set back first if asked; else None."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024
    except (OSError, StopIteration):  # not Linux, or not allowed
        return None


if __name__ == "__main__":
    main()
