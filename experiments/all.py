r"""Run the experiments in order, and put what they found on one page.

Each is run as its own command into a folder of `--out`, with its own default `--limit` unless one
is given. With `--data FOLDER` those that ask benchmarks ask them: `FOLDER/mmlu`, `hellaswag`,
`openbookqa`, `arc_easy`, `sciq`, `gsm8k`, `mathqa`, where they are there. A script that fails is
named on the page, the others are run, and the end is exit code 2. What else lies in `--out` with a
report of its own is put on the page too.

With `--until claims`, only those are run that decide claims of the paper: `heads` and
`distillation` (without its swaps) use two kinds of ablation, and then `claims` asks about each
claim on layers until it is decided or `--minutes` have passed since the command began. The same
command goes on from there.

Cost: the sum of the scripts' own, several hours with a 135M model in float32 on two cores. Again,
and it goes on where it was. `distillation` compares the twins that `distill` makes, or
those that are named: `--twin deepseek-ai/DeepSeek-R1-Distill-Llama-8B`.

    python experiments/all.py --out runs/all            # then open runs/all/index.html
    python experiments/all.py --until claims --out runs/claims
"""

import argparse
import html
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from setting import Options, make_folder, run

import layerroles as lr

HERE = Path(__file__).parent
MINUTES = 170


def main(argv: Sequence[str] | None = None) -> None:
    """Run what can be run, then write the page."""
    options = Options(__doc__, limit=None, out="runs/all")
    options.add_argument("--data", type=Path, help="a folder with folders of benchmarks")
    options.add_argument(
        "--twin", action="append", default=[], help="for distillation, in place of those of distill"
    )
    options.add_argument("--only", default="", help="names of experiments, joined by commas")
    options.add_argument(
        "--until", choices=("claims",), help="only what decides claims, each until it is decided"
    )
    options.add_argument(
        "--minutes",
        type=float,
        help=f"with --until: when claims on layers are asked no longer; by default {MINUTES}",
    )
    args = options.parse(argv)
    if args.data and not args.data.is_dir():
        raise lr.InputError(f"--data {str(args.data)!r} is not a folder")
    if args.minutes is not None and not args.until:
        raise lr.InputError("--minutes is for --until claims")
    if args.minutes is not None and not args.minutes > 0:
        raise lr.InputError(f"--minutes {args.minutes:g} leaves no time: give more than 0")
    ends = time.monotonic() + 60 * (MINUTES if args.minutes is None else args.minutes)
    known = list_steps(args)
    only = [name for name in args.only.split(",") if name] or list(known)
    if unknown := [name for name in only if name not in known]:
        raise lr.InputError(f"--only {','.join(unknown)}: known are {', '.join(known)}")
    failed: dict[str, str] = {}
    make_folder(args.out)
    try:
        for name in only:
            print(f"== {name}", flush=True)
            if why := run_command(name, make_command(args, known[name], args.out / name, ends)):
                failed[name] = why
    finally:
        print(f"\nPage: {write_page(args.out, only, failed)}")
    if failed:
        raise lr.InputError(f"these failed: {', '.join(failed)}: {next(iter(failed.values()))}")


def list_steps(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the script of each experiment and its arguments, by the name of its folder."""
    names = ("knowledge", "retrieval", "rag", "reasoning", "reading_writing", "heads")
    names = (*names, "head_search", "similarity", "paper_rules", "pruning", "distill")
    names = (*names, "distillation")
    if args.until:  # one sweep for all claims on layers, in the time that the others leave
        names = ("heads", "similarity", "distill", "distillation", "claims")
    found = {name: [f"{name}.py"] for name in names}
    twins = [("--twin", name) for name in args.twin]
    if twins:
        del found["distill"]
    else:
        made = (("--twin", "solver"), ("--twin", "self"), ("--control", "control"))
        twins = [(option, str(args.out / "distill" / name)) for option, name in made]
    found["distillation"] += [word for option in twins for word in option]
    if args.until:
        found["heads"] += ["--thorough"]
        # The base has more skill in one sum than in two, so it takes fewer questions to compare
        # shares of it. Swaps decide no claim.
        asked = ["--task", "word_problems[steps=1]", "--swap-limit", "0"]
        found["distillation"] += ["--thorough", *asked]
    if args.data is not None:
        before = {name: list(words) for name, words in found.items()}
        add_benchmarks(found, args.data)
        if found == before:
            raise lr.InputError(
                f"--data {str(args.data)!r} holds no benchmark that is asked: see --help"
            )
    return found


def add_benchmarks(found: dict[str, list[str]], data: Path) -> None:
    """Change the commands `found` (see `list_steps`) so that they ask the benchmarks in a folder.

    Experiments on SciQ, MMLU and HellaSwag are added, unless `claims` is one of the commands.
    """
    for name, parts in (
        ("claims", ("hellaswag",)),
        ("knowledge", ("openbookqa", "arc_easy", "hellaswag")),
        ("reasoning", ("gsm8k", "mathqa")),
    ):
        if name in found and any((data / part).is_dir() for part in parts):
            found[name] += ["--data", str(data)]
    if "claims" in found:
        return
    if (data / "sciq").is_dir():
        found["rag_sciq"] = ["rag.py", "--data", str(data / "sciq")]
    for benchmark in ("mmlu", "hellaswag"):
        if (data / benchmark).is_dir():
            own = ["protocols.py", benchmark, "--data", str(data / benchmark)]
            found[f"protocols_{benchmark}"] = own


def make_command(args: argparse.Namespace, step: list[str], out: Path, ends: float) -> list[str]:
    """Return the command line of a step of `list_steps`; `claims` asks until `ends` (monotonic)."""
    line = [sys.executable, str(HERE / step[0]), *step[1:], "--out", str(out)]
    trains = step[0] == "distill.py" and args.dtype == "float16"  # which cannot be trained in
    line += ["--model", args.model, "--dtype", "float32" if trains else args.dtype]
    if step[0] == "claims.py":
        line += ["--minutes", f"{max(1.0, (ends - time.monotonic()) / 60):.1f}"]
    if args.limit is not None:
        line += ["--limit", str(args.limit)]
    return line if args.resume else [*line, "--no-resume"]


def run_command(name: str, line: list[str]) -> str:
    """Run a command line; return its last line of error output if it failed, else nothing."""
    done = subprocess.run(line, stderr=subprocess.PIPE, text=True, check=False)
    said = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    if done.returncode in (130, -2):
        raise KeyboardInterrupt
    return f"{name} failed: {said}" if done.returncode else ""


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<title>layerroles: all experiments</title><style>
body {{ max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; font: 16px/1.55 system-ui; }}
h2 {{ margin: 2.2rem 0 .3rem; }} p {{ margin: .3rem 0; }} .verdict {{ font-weight: 600; }}
table {{ border-collapse: collapse; margin: .8rem 0; font-size: .9rem; }}
td, th {{ padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid #8884; }}
th {{ white-space: nowrap; }}
td, p, li {{ overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }}
li {{ margin: .2rem 0; }} .failed {{ color: #b3401f; }}
</style></head><body><h1>All experiments</h1>
{body}
</body></html>
"""
HEAD = ("task", "protocol", "n", "intact", "95% interval", "chance")


def write_page(out: Path, names: Sequence[str], failed: Mapping[str, str]) -> Path:
    """Write the page of these experiments, and of others in the folder that have a report.

    Args:
        out: the folder that holds the experiments' folders.
        names: the experiments that were run, in order.
        failed: the errors of those that failed, by name.
    """
    others = sorted(path.parent.name for path in out.glob("*/report.html"))
    body = "\n".join(
        describe_experiment(out, name, failed.get(name, ""))
        for name in dict.fromkeys([*names, *others])
    )
    page = out / "index.html"
    page.write_text(PAGE.format(body=body), encoding="utf-8")
    return page


def describe_experiment(out: Path, name: str, failed: str) -> str:
    """Return the page's section on one experiment as HTML; `failed` is its error, or empty."""
    escape, folder = html.escape, out / name
    parts = [f"<section><h2>{escape(name)}</h2>"]
    if failed:
        parts.append(f'<p class="failed">{escape(failed)}</p>')
    if (folder / "findings.json").is_file():
        kept = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
        parts.append(f"<p>{escape(kept['claim'])} ({escape(kept['model'])})</p>")
        *rest, verdict = kept["findings"]
        parts.append(f'<p class="verdict">{escape(verdict)}</p>')
        parts.append(f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in rest)}</ul>")
    if (folder / "manifest.json").is_file():
        parts.append(tabulate_intact(lr.read(folder)))
    if (folder / "report.html").is_file():
        parts.append(f'<p><a href="{quote(name)}/report.html">Report</a></p>')
    return "".join([*parts, "</section>"])


def tabulate_intact(result: lr.SweepResult) -> str:
    """The scores of the intact model, as a table."""
    lines = ["".join(f"<th>{name}</th>" for name in HEAD)]
    for row in result.intact().itertuples():
        spread = f"[{row.score_low:.2f}, {row.score_high:.2f}]"
        cells = (row.task, row.protocol, row.n, f"{row.score:.2f}", spread, f"{row.chance:.2f}")
        lines.append("".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


if __name__ == "__main__":
    run("all", main)
