r"""What do published cells say beside an interval, and beside one's own run?

A published cell is mostly two accuracies. They do not say how many answers changed, so the interval
of the paired difference is not known, but it has bounds. Of `n` questions `gained` are right only
without the layer and `lost` only with it; the scores fix `gained - lost`:

- fewest changes: the smaller of both is 0;
- most changes: no more questions than must be are right both times, or wrong both times.

If the interval (Tango's, as everywhere here) excludes 0 under the most changes, the effect is more
than noise; if it holds 0 under the fewest, the effect is within noise; else that depends on how
many answers changed, which two scores do not say. Tango's score at a difference of 0
is McNemar's, `(gained - lost) / sqrt(gained + lost)`, so an effect `e` with a share `c` of changed
answers is more than noise from `n > 1 + z^2 c / e^2` questions. A cell that was picked from `tests`
cells (the layer of the largest effect) has to pass the level `0.05 / tests`.

The file has the columns model, site (`L28`, `L3.H7`, `L21:30`), task, protocol, intact, ablated,
effect (ablated minus intact), n, source, note, and may have tests. What is not known is empty. A
row without scores and effect is a set of layers; its task is `block influence` or `angular
distance`. The run's own values are those of the probe `similarity` in its folder. Published block
influence is a mean over all tokens, as `lr.probes.Similarity(position="all")` measures; angular
distance is that at the last token, which is the default.

    python experiments/audit.py experiments/published.csv --run runs/retrieval --out runs/audit

It takes seconds, and needs no model.
"""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm
from sentences import format_interval
from setting import Parser, run

import layerroles as lr
from layerroles import stats
from layerroles.sites import Size, check_words, parse_sites

COLUMNS = (
    "model",
    "site",
    "task",
    "protocol",
    "intact",
    "ablated",
    "effect",
    "n",
    "source",
    "note",
)
OPTIONAL = ("tests",)
LAST_TOKEN, ALL_TOKENS = "at the last token", "over all tokens"
# The column of the probe `similarity` by whose least values layers are published, and where it is
# averaged: block influence over all tokens (ShortGPT), angular distance at the last (PruneMe).
LAYER_SETS = {
    "block influence": ("influence", ALL_TOKENS),
    "angular distance": ("angular", LAST_TOKEN),
}
DELETIONS = ("skip", "zero")
ROUNDING = 0.0151  # of an effect and of two scores, each with two digits
MOST_QUESTIONS = 100_000  # that are looked at for the power


@dataclass(frozen=True)
class Published:
    """A published cell; a number that is not known is NaN, `n` is then 0."""

    model: str
    site: str
    task: str
    protocol: str
    intact: float
    ablated: float
    effect: float
    n: int
    tests: int
    source: str
    note: str

    @property
    def name(self) -> str:
        """The cell in words."""
        where = f"{self.model or 'model not stated'} {self.site}"
        return f"{where}, {', '.join(filter(None, (self.task, self.protocol)))}"

    @property
    def is_layer_set(self) -> bool:
        """Whether the row names layers, without an effect."""
        return math.isnan(self.effect)

    @property
    def changed(self) -> dict[str, float]:
        """The share of answers that changed: fewest, if independent (NaN without scores), most."""
        fewest, independent = abs(self.effect), math.nan
        if math.isnan(self.intact):
            return {"fewest": fewest, "independent": independent, "most": 1.0}
        gained, lost = (1 - self.intact) * self.ablated, self.intact * (1 - self.ablated)
        same = abs(self.intact + self.ablated - 1)  # right both times, or wrong both times
        return {"fewest": fewest, "independent": gained + lost, "most": 1 - same}

    def counts(self, changed: str, n: int) -> tuple[int, int]:
        """Gained and lost of `n` questions under the `fewest` or the `most` changes."""
        if math.isnan(self.intact):
            net = round(self.effect * n)
            both = 0 if changed == "fewest" else (n - abs(net)) // 2
            return max(net, 0) + both, max(-net, 0) + both
        right, right_then = round(self.intact * n), round(self.ablated * n)
        most = (min(n - right, right_then), min(right, n - right_then))
        both = min(most) if changed == "fewest" else 0
        return most[0] - both, most[1] - both


def main(argv: Sequence[str] | None = None) -> None:
    """Read the cells, judge each, and set them beside one's own run."""
    options = Parser(__doc__)
    options.add_argument("file", type=Path, help="a CSV file of published cells")
    options.add_argument("--run", type=Path, help="a run folder, for cells of its model")
    options.add_argument("--assume", type=int, default=0, help="n, of cells that state none")
    options.add_argument("--out", type=Path, default=Path("runs/audit"), help="a folder")
    args = options.parse_args(argv)
    if args.assume < 0:
        raise lr.InputError(f"--assume {args.assume} is no number of questions")
    cells = read_cells(args.file)
    own = lr.read(args.run) if args.run else None
    frames = lr.probes.read_saved(args.run) if args.run else []
    table = pd.DataFrame(
        [
            {**describe_cell(cell, args.assume), "own": compare_with_run(cell, own, frames)}
            for cell in cells
        ]
    )
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        table.to_csv(args.out / "audit.csv", index=False)
    except OSError as error:
        raise lr.InputError(f"--out {str(args.out)!r}: {error.strerror}") from None
    for row in table.to_dict("records"):
        print(f"{row['cell']} ({row['source']}): {row['verdict']} Own run: {row['own']}")
    print(f"\nTable: {args.out / 'audit.csv'}")


def read_cells(file: Path) -> list[Published]:
    """The cells of a file.

    Raises:
        InputError: no such file, a column is missing or unknown, or a row is wrong.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            names = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise lr.InputError(f"{str(file)!r} cannot be read: {reason}") from None
    if missing := [name for name in COLUMNS if name not in names]:
        raise lr.InputError(f"{str(file)!r} has no column {', '.join(missing)}")
    if unknown := [name for name in names if name not in (*COLUMNS, *OPTIONAL)]:
        raise lr.InputError(f"{str(file)!r}: unknown column {unknown[0]!r}")
    if not rows:
        raise lr.InputError(f"{str(file)!r} holds no cells")
    cells = []
    for line, row in rows:
        try:
            cells.append(parse_row(row))
        except (lr.InputError, ValueError) as error:
            raise lr.InputError(f"{str(file)!r}, line {line}: {error}") from None
    return cells


def parse_row(row: dict[str, str | None]) -> Published:
    """A row as a cell.

    Raises:
        ValueError: a field is not what it should be.
    """
    if None in row or None in row.values():
        raise ValueError("more or fewer fields than columns")
    text = {name: (value or "").strip() for name, value in row.items()}
    check_words(text["site"])
    intact, ablated = parse_share(text, "intact", 0), parse_share(text, "ablated", 0)
    effect, both = parse_share(text, "effect", -1), ablated - intact
    if math.isnan(intact) != math.isnan(ablated):
        raise ValueError("intact and ablated go together: give both scores, or the effect alone")
    if abs(effect - both) > ROUNDING:
        raise ValueError(f"effect {effect:g} is not ablated minus intact, {both:g}")
    effect = effect if math.isnan(both) else both
    if math.isnan(effect) and text["task"] not in LAYER_SETS:
        raise ValueError(
            f"neither scores nor an effect: only sets of layers, of {' or '.join(LAYER_SETS)}, "
            f"have none, not {text['task']!r}"
        )
    names = {name: text[name] for name in ("model", "site", "task", "protocol", "source", "note")}
    n, tests = parse_count(text, "n"), parse_count(text, "tests") or 1
    return Published(**names, intact=intact, ablated=ablated, effect=effect, n=n, tests=tests)


def parse_share(text: dict[str, str], name: str, least: float) -> float:
    """A field between `least` and 1; NaN if it is empty."""
    try:
        value = float(text[name] or math.nan)
    except ValueError:
        value = math.inf
    if text[name] and not least <= value <= 1:
        raise ValueError(f"{name} {text[name]!r} is not a number from {least:g} to 1")
    return value


def parse_count(text: dict[str, str], name: str) -> int:
    """A field that counts; 0 if it is empty."""
    value = text.get(name, "")
    if value and not (value.isdecimal() and int(value) > 0):
        raise ValueError(f"{name} {value!r} is not a whole number from 1 on")
    return int(value or 0)


def describe_cell(cell: Published, assumed: int = 0) -> dict[str, object]:
    """A row of the table: the effect, its two intervals, and the questions it needs.

    Args:
        cell: a published cell.
        assumed: the number of questions if the cell states none; 0 leaves it open.
    """
    row: dict[str, object] = {"cell": cell.name, "source": cell.source, "note": cell.note}
    row |= {"intact": cell.intact, "ablated": cell.ablated, "effect": cell.effect}
    row |= {"n": cell.n or "not stated", "tests": cell.tests}
    if cell.is_layer_set:
        return {**row, "verdict": "a set of layers, of which no interval is known."}
    for changed, share in cell.changed.items():
        row[f"needed_{changed}"] = count_needed(cell.effect, share)
        row[f"needed_{changed}_of_tests"] = count_needed(cell.effect, share, cell.tests)
        row[f"for_power_{changed}"] = count_for_power(cell.effect, share, cell.tests)
    words = ""
    if not cell.n:
        words = "n not stated; "
        if cell.effect:
            few, many = (row[f"needed_{changed}"] for changed in ("fewest", "most"))
            words += f"{cell.effect:+.2f} is more than noise from n = {few:.0f} (fewest answers "
            words += f"changed) to {many:.0f} (most){describe_picked(cell, row)}"
        else:
            words += "no number of questions makes an effect of 0 more than noise"
        if not assumed:
            return {**row, "verdict": f"{words}."}
        words += f"; if n = {assumed}: "
        cell = replace(cell, n=assumed)
    bounds = []
    for changed in ("fewest", "most"):
        found = stats.tango(*cell.counts(changed, cell.n), cell.n)
        row |= {f"low_{changed}": found.low, f"high_{changed}": found.high}
        bounds.append(f"[{found.low:+.2f}, {found.high:+.2f}] ({changed})")
    words += f"{judge(cell)}, {cell.effect:+.2f} {' or '.join(bounds)} at n = {cell.n}"
    if cell.tests > 1:
        words += f"; as one picked from {cell.tests}: {judge(cell, cell.tests)}"
    return {**row, "verdict": f"{words}."}


def judge(cell: Published, tests: int = 1) -> str:
    """Say whether the effect of a cell, picked from `tests` cells, is more than noise at its n."""
    beyond = {}
    for changed in ("fewest", "most"):
        level = 1 - (1 - stats.LEVEL) / tests
        found = stats.tango(*cell.counts(changed, cell.n), cell.n, level=level)
        beyond[changed] = found.low > 0 or found.high < 0
    if beyond["most"]:
        return "more than noise"
    return "depends on how many answers changed" if beyond["fewest"] else "within noise"


def describe_picked(cell: Published, row: dict[str, object]) -> str:
    """Say how many questions a cell that was picked from several needs; empty if it was not."""
    if cell.tests == 1:
        return ""
    few, many = (row[f"needed_{changed}_of_tests"] for changed in ("fewest", "most"))
    return f", as one picked from {cell.tests} from n = {few:.0f} to {many:.0f}"


def count_needed(effect: float, changed: float, tests: int = 1) -> float:
    """From how many questions Tango's interval excludes 0, given the share of changed answers."""
    if effect == 0 or math.isnan(changed):
        return math.nan
    z = float(norm.isf((1 - stats.LEVEL) / 2 / tests))
    return math.floor(1 + z * z * changed / effect**2) + 1


def count_for_power(effect: float, changed: float, tests: int = 1) -> float:
    """From about how many questions such an effect is found in 80% of studies (McNemar's test)."""
    if effect == 0 or math.isnan(changed):
        return math.nan
    # A rounding error must not ask for more answers than there are.
    background, drop = max(0.0, (changed - abs(effect)) / 2 - 1e-9), abs(effect) + 1e-9

    def is_found(n: int) -> bool:
        return stats.minimum_detectable(n, tests, background) <= drop

    enough = 1
    while not is_found(enough):
        if enough >= MOST_QUESTIONS:
            return math.inf
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        enough, too_few = (middle, too_few) if is_found(middle) else (enough, middle)
    return enough


def compare_with_run(
    cell: Published, own: lr.SweepResult | None, frames: Sequence[pd.DataFrame]
) -> str:
    """Say what one's own run, with its probe `frames`, shows of the same cell."""
    same = own is not None and last_part(own.manifest["model"]["name"]) == last_part(cell.model)
    if own is None or not same:
        return "not checkable here, the model is not at hand."
    if cell.is_layer_set:
        found = [frame for frame in frames if LAYER_SETS[cell.task][0] in frame]
        about = own.manifest["model"]
        size = Size(about["n_layers"], about["n_heads"], about["n_heads"])
        layers = {site.layer for site in parse_sites(cell.site, size)}
        return compare_layers(cell.task, layers, found[0]) if found else "not measured there."
    effects = own.effects()
    rows = effects[
        (effects["site"] == cell.site)
        & (effects["at"] == "all")
        & effects["ablation"].isin(DELETIONS)
        & effects["task"].map(lambda label: is_named(cell.task, label))
        & effects["protocol"].map(lambda label: not cell.protocol or label == cell.protocol)
    ]
    sentences = [
        f"{row.condition}, {row.task}, {row.protocol}: "
        f"{format_interval(row.effect, row.ci_low, row.ci_high)} (n = {row.n}, "
        f"intact {row.intact:.2f}), "
        f"which {'holds' if row.ci_low <= cell.effect <= row.ci_high else 'excludes'} the "
        "published number"
        for row in rows.itertuples()
    ]
    return "; ".join(sentences) + "." if sentences else "not measured there."


def last_part(model: str) -> str:
    return model.rsplit("/", 1)[-1].lower()


def is_named(task: str, label: str) -> bool:
    """Whether a run's label, such as `kv_retrieval@2[pairs=20]`, is of this task."""
    return task == label or task in re.split(r"[@:\[\],=]", label)


def compare_layers(task: str, layers: set[int], frame: pd.DataFrame) -> str:
    """How many of the published layers one's own prompts choose, and how firmly."""
    size, (column, published_at) = len(layers), LAYER_SETS[task]
    n_layers, sentences = int(frame["layer"].max()) + 1, []
    measured_at = LAST_TOKEN if (frame["n_tokens"] == 1).all() else ALL_TOKENS
    where = "as published"
    if measured_at != published_at:
        where = f"the published values {published_at}"
    for name, rows in frame[frame["n"] == (size if column == "angular" else 1)].groupby("task"):
        values = rows.pivot(index="example", columns="layer", values=column).to_numpy(float)
        draws = stats.resampled_counts(len(values), np.random.default_rng(0), 999)
        shared = [
            len(layers & choose_least(means, size, in_a_row=column == "angular"))
            for means in draws @ values
        ]
        chosen = choose_least(values.mean(axis=0), size, in_a_row=column == "angular")
        low, high = np.quantile(shared, [0.025, 0.975])
        sentences.append(
            f"{name}: layers {', '.join(map(str, sorted(chosen)))}, {len(layers & chosen)} of "
            f"{size} the same ([{low:.0f}, {high:.0f}] over prompts, n = {len(values)}; "
            f"{size**2 / n_layers:.1f} by chance; measured {measured_at}, {where})"
        )
    return "; ".join(sentences) + "." if sentences else "not measured there."


def choose_least(values: np.ndarray, size: int, *, in_a_row: bool) -> set[int]:
    """Return the `size` layers with the least values, or (`in_a_row`) those from the least on."""
    if in_a_row:
        start = int(np.argmin(values))
        return set(range(start, start + size))
    return {int(layer) for layer in np.argsort(values)[:size]}


if __name__ == "__main__":
    run("audit", main)
