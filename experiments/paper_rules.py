r"""What do two rules of the paper's scripts measure, for heads and for angular distance?

Claim
    The scripts of arXiv 2510.02091 ablate a head by setting its query and output slices to 0, and
    the keys and values that it shares. Where query heads share keys and values, this ablates the
    whole group: it equals `Zero` at `part="kv_group"`
    (tests/unit/ablations/test_paper_head_rule.py). They compute the angular distance between layers
    from three texts that are padded to one length, at the last position, which may be a pad.

Setting
    Each head of some layers is zeroed alone (our rule), and so is each group (their rule), on the
    same look-up questions; differences are paired, question by question. The angular distance over
    one block, and over a quarter of the blocks, is measured at the last real token of `--texts`
    prompts (the probe `similarity`), and by their rule on sets of three of the same prompts, padded
    on the right. Intervals allow for questions of one template.

Cost
    13 minutes for 96 questions, 4 layers and 500 texts of two tasks with a 135M model in bfloat16
    on one core.

Run
    python experiments/paper_rules.py --layers L16:19,L23 --out runs/paper_rules
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from held_out import estimate_difference
from sentences import format_interval
from setting import Options, ask, conclude, run
from similarity import quarter

import layerroles as lr
from layerroles import stats
from layerroles.probes.answering_position import make_batches
from layerroles.results import cells_of, score_interval
from layerroles.sites import ENTRY, EXIT, Size, parse_sites, size_of

LOOK_UP = "kv_retrieval"
TEXTS = ("facts", "word_problems")
TOGETHER = 3  # texts of the paper's angular distance


def main(argv: Sequence[str] | None = None) -> None:
    """Compare both rules for heads, then both for the angular distance; report."""
    options = Options(__doc__, limit=96, out="runs/paper_rules")
    options.add_argument("--layers", default="", help="L16:19,L23; by default two past the middle")
    options.add_argument("--texts", type=int, default=500, help="prompts of each task, for angles")
    options.add_argument("--protocol", default="generation")
    args = options.parse(argv)
    if args.texts < 2 * TOGETHER:
        raise lr.InputError(f"--texts {args.texts}: {2 * TOGETHER} or more, two times three texts")
    model = lr.load(args.model, dtype=args.dtype)
    size = size_of(model.cfg)
    layers = choose_layers(args.layers, size)
    conditions = lr.each_head(model, lr.Zero(), layers=layers)
    shares = size.n_kv_heads < size.n_heads
    if shares:
        conditions += lr.each_kv_group(model, lr.Zero(), layers=layers)
    sweep = lr.Sweep(
        model,
        [lr.task(LOOK_UP)],
        conditions,
        protocols=[args.protocol],
        limit=args.limit,
        noise_floor=False,
    )
    result = ask(sweep, args.out)
    lines = ["Each head has keys and values of its own: both rules are the same here."]
    if shares:
        compared = compare_heads(result, size)
        compared.to_csv(args.out / "heads.csv", index=False)
        lines = describe_heads(result, compared, size)
    tasks = [lr.task(name) for name in TEXTS]
    probe = lr.probes.Similarity()
    frame = lr.probes.measure_into(args.out, probe, model, tasks, limit=args.texts)
    for task in tasks:
        examples = task.examples(args.texts, 0)
        templates = {example.id: example.cluster or example.id for example in examples}
        real = frame[frame["task"] == task.label]
        real = real.assign(template=real["example"].map(templates))
        theirs = measure_padded(model, examples)
        table = compare_angles(real, theirs)
        table.to_csv(args.out / f"angles_{task.name}.csv", index=False)
        lines += describe_angles(task.label, table, real, theirs)
    verdict, lines = lines[0], lines[1:]
    conclude(args, __doc__, result, [*lines, verdict], [frame])


def choose_layers(text: str, size: Size) -> list[int]:
    """Return the layers whose heads are ablated: those in `text`, or two past the middle."""
    if text:
        return sorted({site.layer for site in parse_sites(text, size)})
    past = size.n_layers // 2
    return sorted({min(past + more, size.n_layers - 1) for more in (1, 3)})


def compare_heads(result: lr.SweepResult, size: Size) -> pd.DataFrame:
    """Both rules' effects of each head, and their paired difference, theirs minus ours."""
    effects = result.effects().set_index("site")
    scores, (cell,) = scores_by_site(result), cells_of(result)
    per_group = size.n_heads // size.n_kv_heads
    rows = []
    for site, ours in effects[effects["part"] == "head"].iterrows():
        group = f"L{ours['layer']}.KV{ours['head'] // per_group}"
        theirs = effects.loc[group]
        apart = estimate_difference(scores.loc[site], scores.loc[group], cell)
        rows.append(
            {
                "head": site,
                "group": group,
                "n": ours["n"],
                "intact": ours["intact"],
                **with_bounds("ours", ours["effect"], ours["ci_low"], ours["ci_high"]),
                **with_bounds("theirs", theirs["effect"], theirs["ci_low"], theirs["ci_high"]),
                **with_bounds("more", apart.effect, apart.interval.low, apart.interval.high),
                "p": apart.p,
            }
        )
    table = pd.DataFrame(rows)
    table["p_adjusted"] = stats.holm(table["p"].to_numpy(float))
    return table


def with_bounds(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def scores_by_site(result: lr.SweepResult) -> pd.DataFrame:
    """The scores of each site's condition, by question."""
    rows = result.frame[result.frame["condition"] != "intact"]
    return rows.pivot(index="site", columns="example", values="score").astype(float)


def describe_heads(result: lr.SweepResult, table: pd.DataFrame, size: Size) -> list[str]:
    """The verdict on the rule for heads, then the numbers of the heads on which both differ."""
    scores, (cell,) = scores_by_site(result), cells_of(result)
    more = np.mean(
        [
            scores.loc[row.group].to_numpy(float) - scores.loc[row.head].to_numpy(float)
            for row in table.itertuples()
        ],
        axis=0,
    )
    clusters = cell.clusters_of(list(scores.columns))
    mean = score_interval(more, clusters, "difference", np.random.default_rng(0))
    # Their rule gives each head of a group the group's effect.
    ours, theirs = table["ours_high"] < 0, table["theirs_high"] < 0
    verdict = (
        f"A head by the paper's rule is {size.n_heads // size.n_kv_heads} heads here: its effect "
        f"minus that of one head is {format_interval(float(more.mean()), mean.low, mean.high, 3)} "
        f"on average over {len(table)} heads (n = {int(table['n'].min())}). By 95% intervals "
        f"{theirs.sum()} of them are needed by their rule and {ours.sum()} by ours; "
        f"{(theirs & ~ours).sum()} by theirs alone."
    )
    apart = table[table["p_adjusted"] < 0.05].sort_values("more")
    lines = [
        f"{row.head}: alone {format_interval(row.ours, row.ours_low, row.ours_high)}, "
        f"with {row.group} {format_interval(row.theirs, row.theirs_low, row.theirs_high)}; "
        f"their rule minus ours {format_interval(row.more, row.more_low, row.more_high)}, "
        f"Holm p {row.p_adjusted:.1g}."
        for row in apart.itertuples()
    ]
    of_all = f"Heads on which both rules differ (Holm, {len(table)} tests): {len(apart)}."
    return [verdict, of_all, *lines]


def measure_padded(model: Any, examples: Sequence[lr.Example]) -> pd.DataFrame:
    """Measure angular distances by the paper's rule: a row for each text and run of blocks.

    The texts are those of the probe, up to its answering position, padded three at a time.

    Returns:
        Columns example, triple (the number of the three texts), n_pads, layer, n, angular.
    """
    texts = {}
    for batch in make_batches(model, examples):
        rows = zip(batch.examples, batch.tokens, batch.attended, strict=True)
        texts |= {example.id: row[mask.bool()] for example, row, mask in rows}
    measured = []
    for triple in range(len(examples) // TOGETHER):
        names = [one.id for one in examples[triple * TOGETHER : (triple + 1) * TOGETHER]]
        longest = max(len(texts[name]) for name in names)
        distances = measure_last_angles(model, [texts[name] for name in names]).tolist()
        measured += [
            (name, triple, longest - len(texts[name]), layer, n, distance[layer][layer + n])
            for name, distance in zip(names, distances, strict=True)
            for layer, n in runs_of_blocks(model.cfg.n_layers)
        ]
    columns = ["example", "triple", "n_pads", "layer", "n", "angular"]
    return pd.DataFrame(measured, columns=columns)


def runs_of_blocks(n_layers: int) -> Iterator[tuple[int, int]]:
    """The runs of blocks that are compared, as first block and length: one, and a quarter."""
    for n in dict.fromkeys((1, quarter(n_layers))):
        yield from ((layer, n) for layer in range(n_layers - n + 1))


def measure_last_angles(model: Any, texts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Angles between the streams at the last position of texts padded on the right.

    Positions count on over the pads, as they do by default in transformers.

    Returns:
        `[text, stream, stream]`, in units of pi: stream `l` enters block `l`; the last one leaves
        the last block.
    """
    pad = model.tokenizer.pad_token_id or 0
    rows = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True, padding_value=pad)
    real = torch.tensor([len(text) for text in texts], device=rows.device)
    places = torch.arange(rows.shape[1], device=rows.device)
    attended = (places[None] < real[:, None]).long()
    streams: list[torch.Tensor] = []

    def note(value: torch.Tensor, *, hook: object) -> None:
        streams.append(value[:, -1].double().cpu())

    n_layers = model.cfg.n_layers
    names = [*(ENTRY.format(layer=n) for n in range(n_layers)), EXIT.format(layer=n_layers - 1)]
    with torch.inference_mode(), model.hooks(fwd_hooks=[(name, partial(note)) for name in names]):
        model(rows, attention_mask=attended, position_ids=places.expand_as(rows))
    x = torch.stack(streams, dim=1)
    unit = x / x.norm(dim=-1, keepdim=True)
    return (unit @ unit.transpose(-1, -2)).clamp(-1, 1).arccos() / torch.pi


def compare_angles(real: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Return, for each run of blocks, the mean distance at real tokens and by the paper's rule.

    `theirs` is the mean by the paper's rule over sets of three texts, and 95% of the sets lie from
    `theirs_low` to `theirs_high` (the paper shows one set); at real tokens, they lie from
    `three_low` to `three_high`. `more` is theirs minus real, paired over the same texts. The
    intervals of means allow for texts of one template, which is a column of `real`.
    """
    rng = np.random.default_rng(0)
    keys = ["example", "layer", "n"]
    both = theirs.merge(real[[*keys, "angular", "template"]], on=keys)
    both["more"] = both["angular_x"] - both["angular_y"]
    rows = []
    for (n, layer), own in both.groupby(["n", "layer"], sort=False):
        at_real = real[(real["n"] == n) & (real["layer"] == layer)]
        angles = at_real["angular"].to_numpy(float)
        around = score_interval(angles, at_real["template"].to_numpy(object), "angle", rng)
        of_three = own.groupby("triple")[["angular_x", "angular_y", "more"]].mean()
        values, more = (of_three[name].to_numpy(float) for name in ("angular_x", "more"))
        # The units are sets of three texts, or templates: the wider of both intervals counts.
        apart = stats.clustered(
            stats.mean_interval(more, rng),
            own["more"].to_numpy(float),
            own["template"].to_numpy(object),
            None,
        )
        low, high = np.quantile(values, [0.025, 0.975])
        three_low, three_high = np.quantile(of_three["angular_y"], [0.025, 0.975])
        rows.append(
            {
                "layer": layer,
                "n_blocks": n,
                "texts": len(angles),
                **with_bounds("real", angles.mean(), around.low, around.high),
                "three_low": three_low,
                "three_high": three_high,
                **with_bounds("theirs", values.mean(), low, high),
                **with_bounds("more", more.mean(), apart.low, apart.high),
            }
        )
    return pd.DataFrame(rows)


def describe_angles(
    name: str, table: pd.DataFrame, real: pd.DataFrame, theirs: pd.DataFrame
) -> list[str]:
    """How far the paper's rule is from real tokens, and which blocks each would cut."""
    single = table[table["n_blocks"] == 1]
    far = single.loc[single["more"].abs().idxmax()]
    layer, n_layers = int(far["layer"]), len(single)
    width = quarter(n_layers)
    start = int(lr.probes.least_change(real).set_index("n").loc[width, "layer"])
    both = theirs.merge(real[["example", "layer", "n", "angular"]], on=["example", "layer", "n"])
    by_rule, at_real = (count_cuts(both[both["n"] == width], f"angular_{side}") for side in "xy")
    pads = theirs.drop_duplicates("example")["n_pads"]
    return [
        f"{name}, angle over one block, their rule minus real tokens on the same texts (in pi): on "
        f"average over layers {single['more'].mean():+.4f}, most at layer {layer}: "
        f"{format_interval(far['more'], far['more_low'], far['more_high'], 3)}; the interval "
        f"excludes 0 at {count_excluding_zero(single)} of {n_layers} layers. "
        f"{(pads > 0).mean():.0%} of the texts end in pads, "
        f"{pads[pads > 0].mean():.1f} on average.",
        f"{name}: at layer {layer} the mean at real tokens is {far['real']:.3f} "
        f"[{far['real_low']:.3f}, {far['real_high']:.3f}] (n = {int(far['texts'])}); 95% of sets "
        f"of three texts lie from {far['three_low']:.3f} to {far['three_high']:.3f} at real "
        f"tokens, and from {far['theirs_low']:.3f} to {far['theirs_high']:.3f} by their rule.",
        f"{name}: of {width} blocks in a row, [{start}, {start + width}) turns the residual "
        f"stream least at real tokens; sets of three texts choose {list_runs(at_real, width)} at "
        f"real tokens, and {list_runs(by_rule, width)} by their rule.",
    ]


def count_cuts(rows: pd.DataFrame, column: str) -> "Counter[int]":
    """How many sets of three texts change least in the run that begins at each block."""
    means = rows.groupby(["triple", "layer"])[column].mean().unstack("layer")
    return Counter(means.idxmin(axis=1).astype(int))


def list_runs(starts: "Counter[int]", width: int) -> str:
    """The runs that most sets of three texts choose, in words."""
    runs = ", ".join(f"[{at}, {at + width}) {times}" for at, times in starts.most_common(4))
    return f"{runs} (of {starts.total()})"


def count_excluding_zero(table: pd.DataFrame) -> int:
    return int(((table["more_low"] > 0) | (table["more_high"] < 0)).sum())


if __name__ == "__main__":
    run("paper_rules", main)
