"""What the experiments share: their options, their conditions, and how each of them ends.

Every script resumes the run that its `--out` holds; `--no-resume` refuses such a folder. Invalid
input gives a one-line error and exit code 2. At the end a script prints its findings, writes
`report.html` with them on top, and stores them in `findings.json` for `all.py`.
"""

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

import layerroles as lr
from layerroles.sweep import select_asked


class Parser(argparse.ArgumentParser):
    """A command line whose `--help` is the script's docstring.

    Args:
        doc: the docstring.
    """

    def __init__(self, doc: str | None) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Raise an `InputError` instead of printing the usage."""
        raise lr.InputError(f"{message}; --help lists the options")


class Options(Parser):
    """The options of all experiments that ask a model.

    Args:
        doc: the script's docstring, which `--help` shows.
        limit: the default of `--limit`, examples of each task; None if the sweep has its own.
        out: the default of `--out`, the run folder.
    """

    def __init__(self, doc: str | None, *, limit: int | None, out: str) -> None:
        super().__init__(doc)
        self._limit = limit
        self.add_argument("--model", default="smollm2-135m")
        self.add_argument("--limit", type=int, help=f"examples of each task (default {limit})")
        self.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
        self.add_argument("--out", type=Path, default=Path(out), help="the run folder")
        self.add_argument(
            "--resume",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="go on with the run that --out holds (the default), or refuse it",
        )

    def parse(
        self, argv: Sequence[str] | None, *, least: int = 1, kept: str = "**/manifest.json"
    ) -> argparse.Namespace:
        """Read the command line; `--until` sets `thorough` and takes a limit of 32 or more.

        Args:
            argv: its words; by default those of the process.
            least: the smallest `--limit`.
            kept: glob pattern of files below `--out` which show that it holds a run.

        Raises:
            InputError: an option is wrong, or `--no-resume` and a folder that holds a run.
        """
        args = self.parse_args(argv)
        if getattr(args, "until", None) is not None:
            args.thorough, least = True, max(least, 32)  # see `add_until_claims`
        elif args.limit is None:
            args.limit = self._limit
        if args.limit is not None and args.limit < least:
            raise lr.InputError(f"--limit {args.limit} is too few: use {least} or more")
        if not args.resume and list(args.out.glob(kept)):
            raise lr.InputError(
                f"--out {str(args.out)!r} holds a run: leave out --no-resume to go on with it, or "
                f"name another folder"
            )
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        return args


def add_thorough(options: Options) -> None:
    """Add `--thorough`: the conditions that a claim of the paper needs to be supported."""
    options.add_argument(
        "--thorough",
        action="store_true",
        help="also spare the first token (not for heads), and ablate by means as well: three times "
        "as long",
    )


def add_until_claims(options: Options) -> None:
    """Add `--until claims`: ask, with a second kind of ablation, until claims are decided."""
    options.add_argument(
        "--until",
        choices=("claims",),
        help="ask under the conditions of --thorough, each claim until it is decided, up to "
        "--limit questions (default 512)",
    )


def make_layer_conditions(model: Any, *, thorough: bool) -> list[lr.Condition]:
    """Return `Skip` of each layer; if `thorough`, also at `after_first`, and `Mean` of each."""
    conditions = lr.each_layer(model, lr.Skip())
    if thorough:
        mean = lr.Mean(lr.Reference())  # of other questions of the asked task
        conditions += lr.each_layer(model, lr.Skip(), at="after_first")
        conditions += lr.each_layer(model, mean)
    return conditions


@dataclass(frozen=True)
class Screened:
    """How the intact model does on a benchmark.

    Attributes:
        above_chance: whether its score is shown to lie above chance.
        sentence: the score, and whether layers are ablated.
    """

    above_chance: bool
    sentence: str


def ask_intact(model: Any, task: lr.Task, limit: int | None, out: Path) -> Screened:
    """Ask the intact model `limit` questions (None: 512), to see whether it is above chance."""
    sweep = lr.Sweep(model, [task], [], limit=limit or 512, noise_floor=False)
    row = ask(sweep, out).intact().iloc[0]
    above = bool(row["above_chance"])
    verdict = "swept" if above else "not shown to be above chance, so nothing is said of its layers"
    return Screened(
        above,
        f"{task.label}, intact: {row['score']:.2f} [{row['score_low']:.2f}, "
        f"{row['score_high']:.2f}] (n = {row['n']}, chance {row['chance']:.2f}): {verdict}.",
    )


def name_folder(task: str) -> str:
    """A task's label as the name of a folder."""
    return re.sub(r"[^\w=.,-]+", "_", task).strip("_")


def make_folder(out: Path) -> None:
    """Make the folder of `--out`.

    Raises:
        InputError: it cannot be made, such as where a file has its name.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise lr.InputError(f"--out {str(out)!r} cannot be made: {error.strerror}") from error


def ask(sweep: lr.Sweep, out: Path) -> lr.SweepResult:
    """Run a sweep in the folder `out`; return those of the folder's rows that it asks for."""
    return select_asked(sweep.run(out), sweep)


def conclude(
    args: argparse.Namespace,
    doc: str | None,
    result: lr.SweepResult,
    findings: Sequence[str],
    probes: Sequence[pd.DataFrame] = (),
) -> None:
    """Print the findings, the last of which is the verdict; write them and the report.

    `doc` starts with the claim. In the findings, files of questions lose folder and suffix.
    """
    findings = [re.sub(r"local:\S*?([^/\s]+)\.jsonl", r"\1", line) for line in findings]
    page = lr.report(result, probes, path=args.out / "report.html", findings=findings)
    model = result.manifest["model"]
    kept = {"claim": (doc or "").splitlines()[0], "model": model["name"], "findings": [*findings]}
    text = json.dumps(kept | {"limit": args.limit, "dtype": model["dtype"]}, indent=1)
    (args.out / "findings.json").write_text(text + "\n", encoding="utf-8")
    print("\n".join(findings), f"\nReport: {page}")


def run(name: str, main: Callable[[], None]) -> NoReturn:
    """Run a script to its exit code: 0, 2 after a one-line input error, 130 when stopped."""
    try:
        main()
    except lr.InputError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: stopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
