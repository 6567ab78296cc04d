r"""Are neighbouring layers alike, and are those that change little the ones that can be spared?

Claim
    "Neighbouring layers are similar" (arXiv 2510.02091): the angle between the residual stream
    before block l and before block l + n is small in the middle and grows at the ends; the block
    influence of ShortGPT (arXiv 2403.03853) and the angular distance of arXiv 2403.17887 choose
    layers by it.

Setting
    Influence (1 - cos) and angular distance (arccos(cos) / pi) at the answering position of
    look-up, facts and word problems, for every run of blocks. With `--run FOLDER`, a run of one of
    the other experiments: how far the influence of a layer says what skipping it costs.

Cost
    A minute for 32 prompts of each task with a 135M model in bfloat16 on one core.

Run
    python experiments/similarity.py --run runs/retrieval --out runs/similarity
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sentences import format_interval
from setting import Options, conclude, run

import layerroles as lr
from layerroles import stats
from layerroles.results import Cell, cells_of, score_interval

TASKS = tuple(lr.task(name).label for name in ("kv_retrieval", "facts", "word_problems"))
SHOWN = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, compare with a run if one is given, report."""
    options = Options(__doc__, limit=32, out="runs/similarity")
    options.add_argument("--run", type=Path, help="a run folder, to compare influence with harm")
    args = options.parse(argv)
    other = lr.read(args.run) if args.run else None
    model = lr.load(args.model, dtype=args.dtype)
    tasks = [lr.task(name) for name in TASKS]
    how = {"protocols": ["continuation"], "limit": args.limit, "noise_floor": False}
    result = lr.Sweep(model, tasks, [], **how).run(args.out)
    if other is not None:
        mine, theirs = result.manifest["model"], other.manifest["model"]
        if (theirs.get("weights") or theirs["name"]) != (mine.get("weights") or mine["name"]):
            raise lr.InputError(
                f"--run {str(args.run)!r} is a run of {theirs['name']}, not of {args.model}"
            )
    probe = lr.probes.Similarity()
    frame = lr.probes.measure_into(args.out, probe, model, tasks, limit=args.limit)
    gaps = {
        cell.task: measure_gap(frame[frame["task"] == cell.task], cell)
        for cell in cells_of(result)
        if cell.task in TASKS
    }
    lines = [
        line
        for task in TASKS
        for line in list_similarities(frame[frame["task"] == task], task, gaps[task])
    ]
    if other is not None:
        asked = [lr.task(name) for name in dict.fromkeys(other.frame["task"])]
        seed, limit = int(other.manifest["seed"]), int(other.manifest["limit"])
        into = args.out / "paired"
        seen = lr.probes.measure_into(into, probe, model, asked, limit=limit, seed=seed)
        lines += list_correlations(other, seen)
    lines.append(describe_verdict(frame, gaps))
    conclude(args, __doc__, result, lines, [frame])


def list_similarities(frame: pd.DataFrame, task: str, gap: stats.IntervalEstimate) -> list[str]:
    """Which layers change least, which third of the depth does, and what would be cut."""
    single = frame[frame["n"] == 1].pivot(index="example", columns="layer", values="angular")
    influence = frame[frame["n"] == 1].groupby("layer")["influence"].mean()
    least = ", ".join(
        f"{layer} ({value:.3f})" for layer, value in influence.nsmallest(SHOWN).items()
    )
    value, of = gap
    more = "more" if of.low > 0 else "less" if of.high < 0 else "no more, as far as is shown,"
    width = quarter(single.shape[1])
    angle = format_interval(value, of.low, of.high, 4)
    cut = lr.probes.least_change(frame).set_index("n").loc[width]
    return [
        f"{task}: least influence at layers {least}; the mean angle over one block is "
        f"{single.to_numpy().mean():.3f} of pi (n = {len(single)}).",
        f"{task}: blocks of the first and last third turn the residual stream {more} than those "
        f"of the middle: {angle} of pi; of {width} blocks in a row, "
        f"[{cut['layer']}, {cut['stop']}) changes it least ({cut['angular']:.3f}).",
    ]


def quarter(n_layers: int) -> int:
    """A quarter of the blocks, as many as would be cut."""
    return max(1, round(n_layers / 4))


def measure_gap(frame: pd.DataFrame, cell: Cell) -> stats.IntervalEstimate:
    """Return the mean angle of the first and last third of the blocks minus that of the middle.

    Its interval allows for texts of one template.

    Args:
        frame: the probe's rows of one task.
        cell: the cell of the task, which knows the templates.
    """
    single = frame[frame["n"] == 1].pivot(index="example", columns="layer", values="angular")
    third = max(1, single.shape[1] // 3)
    middle = single.iloc[:, third:-third].mean(axis=1)
    ends = pd.concat([single.iloc[:, :third], single.iloc[:, -third:]], axis=1).mean(axis=1)
    gap, clusters = (ends - middle).to_numpy(float), cell.clusters_of(list(single.index))
    of = score_interval(gap, clusters, "angle", np.random.default_rng(0))
    return stats.IntervalEstimate(float(gap.mean()), of)


def describe_verdict(frame: pd.DataFrame, gaps: Mapping[str, stats.IntervalEstimate]) -> str:
    """Whether neighbours are similar, and whether those in the middle are so most."""
    single = frame[frame["n"] == 1]
    mean = single.groupby("task", sort=False)["angular"].mean()
    n_layers = int(single["layer"].max()) + 1
    width = quarter(n_layers)
    places: list[tuple[int, int]] = []
    for _, own in frame.groupby("task", sort=False):
        cut = lr.probes.least_change(own).set_index("n").loc[width]
        places.append((int(cut["layer"]), int(cut["stop"])))
    flatter = [of.low > 0 for _, of in gaps.values()]
    inside = [n_layers / 3 <= (start + stop) / 2 <= n_layers * 2 / 3 for start, stop in places]
    flattest = ", ".join(f"[{start}, {stop})" for start, stop in dict.fromkeys(places))
    return (
        f"Neighbours are similar: {'yes' if mean.max() < 0.25 else 'no'} (largest mean angle over "
        f"one block {mean.max():.3f} of pi; unrelated streams have 0.5); most so in the middle: "
        f"{'yes' if all([*inside, *flatter]) else 'not shown'}, the flattest {width} blocks are "
        f"{flattest} of {n_layers}."
    )


def list_correlations(result: lr.SweepResult, seen: pd.DataFrame) -> list[str]:
    """Rank correlation over layers of influence and of the cost of skipping."""
    found = lr.probe_agreement(result, seen, ablation="skip")
    own = found[(found["probe"] == "similarity") & (found["measure"] == "influence")]
    return [
        f"Influence and cost over {row.n_sites} layers, {row.task}, {row.protocol}, at {row.at} "
        f"(n = {row.n}): Spearman {format_interval(row.spearman, row.low, row.high)}."
        for row in own.itertuples()
    ]


if __name__ == "__main__":
    run("similarity", main)
