r"""Make twins of a model by fine-tuning it on solutions, and on text without reasoning.

Question
    Distilled models are said to reason more robustly, with more of their layers. Made of the same
    base with the same number of steps: do twins that are taught to reason differ, and does one
    that is taught something else not?

Method
    Full fine-tuning (all weights, in float32; passes in `--dtype`; AdamW, cosine schedule after a
    tenth of warm-up), loss on the solutions' tokens only; a text holds several lessons of one
    kind, as a prompt with shots does.
    The twins:
      solver   solutions of an exact solver (solver-taught, not distilled from a model);
      self     the model's own greedy solutions that came out right (self-distilled);
      control  the same stories without solutions; the loss is on the story.
    Held out are `word_problems`, which share no sentence and no word for people, things and places
    with the lessons (see `lessons.py`).

Run
    python experiments/distill.py --out runs/twins   # --twin solver makes that one only

A twin is a Hugging Face folder, with `distill.json` beside the weights; a finished one is kept. A
step takes 6 FLOPs a weight and token, and a text of solved problems has some 300 tokens.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lessons
import torch
import transformers
from held_out import ask_models, describe_base_comparison, list_scores
from setting import Options, conclude, make_folder, run
from training import make_batches, train_model

import layerroles as lr

TWINS = ("solver", "self", "control")
PACKED = 4


def main(argv: Sequence[str] | None = None) -> None:
    """Teach each twin, then examine all on what none was taught."""
    options = Options(__doc__, limit=100, out="runs/twins")
    options.add_argument("--twin", choices=TWINS, action="append", help="one; by default all three")
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--lessons", type=int, default=1200, help="problems made")
    options.add_argument("--texts", type=int, default=2, help="texts of a step, of 4 lessons each")
    options.add_argument("--rate", type=float, default=2e-5, help="largest learning rate")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--minutes", type=float, default=30, help="that a twin may take")
    args = options.parse(argv, least=0, kept="*/distill.json")
    transformers.utils.logging.disable_progress_bar()
    if args.steps < 2 or args.texts < 1 or args.lessons < PACKED * args.texts:
        raise lr.InputError(
            "--steps is 2 or more (the first has rate 0), --texts 1 or more, --lessons at least 4 "
            "for each text"
        )
    make_folder(args.out)
    args.dtype = "float32" if args.dtype == "auto" else args.dtype
    if args.dtype not in ("float32", "bfloat16"):
        raise lr.InputError(f"--dtype {args.dtype}: float32 and bfloat16 can be trained")

    base, twins = lr.load(args.model, dtype=args.dtype), args.twin or list(TWINS)
    problems = lessons.make_problems(args.lessons, args.seed)
    for twin in twins:
        train_twin(args, base, twin, problems)
    if args.limit:
        models = {"base": base}
        models |= {twin: lr.load(args.out / twin, dtype=args.dtype) for twin in twins}
        runs = ask_models(models, "word_problems", args.limit, args.out / "held_out")
        conclude(args, __doc__, runs["base"], [*list_scores(runs), describe_base_comparison(runs)])


def train_twin(args: argparse.Namespace, base: Any, twin: str, problems: list[lr.Example]) -> None:
    """Fine-tune a twin and save it in `args.out`, unless one made with these settings is there."""
    folder, names = args.out / twin, ("model", "steps", "lessons", "texts", "rate", "seed", "dtype")
    asked = {name: getattr(args, name) for name in names} | {"twin": twin}
    if args.dtype != "float32":
        asked["weights"] = "float32"
    asked["problems_sha256"] = hashlib.sha256(repr(problems).encode()).hexdigest()
    note = folder / "distill.json"
    if note.is_file():
        if (made := json.loads(note.read_text()))["asked"] != asked:
            raise lr.InputError(f"{folder} was made with {made['asked']}: use another --out")
        return
    began = time.monotonic()
    given = {
        "solver": lambda: [lessons.make_solution_lesson(one) for one in problems],
        "self": lambda: lessons.make_own_lessons(base, problems),
        "control": lambda: [lessons.make_story_lesson(one) for one in problems],
    }[twin]()
    if len(given) < PACKED * args.texts:
        raise lr.InputError(f"{twin}: {len(given)} lessons are too few: make more --lessons")
    local = args.model == "smollm2-135m" or Path(args.model).exists()
    source = lr.model_folder(args.model) if local else args.model
    torch.manual_seed(args.seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, use_safetensors=True
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    fed = make_batches(given, tokenizer, texts=args.texts, packed=PACKED, seed=args.seed)
    losses = train_model(
        model,
        fed,
        steps=args.steps,
        rate=args.rate,
        minutes=args.minutes,
        dtype=getattr(torch, args.dtype),
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    told = {
        "asked": asked,
        "taught": f"{len(given)} different lessons",
        "lessons_sha256": hashlib.sha256(repr(given).encode()).hexdigest(),
        "losses": [round(loss, 4) for loss in losses],
        "seconds": round(time.monotonic() - began),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    note.write_text(json.dumps(told, indent=1), encoding="utf-8")
    print(f"{twin}: {told['taught']}, loss {losses[0]:.2f} to {losses[-1]:.2f}")


if __name__ == "__main__":
    run("distill", main)
