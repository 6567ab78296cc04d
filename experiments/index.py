"""The page of all experiments: for each its verdict, its numbers and the way to its report."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import layerroles as lr

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


def written(out: Path, names: Sequence[str], failed: Mapping[str, str]) -> Path:
    """Write the page of these experiments, and of others in the folder that have a report.

    Args:
        out: the folder that holds theirs.
        names: of those that were run, in order.
        failed: why, for those that failed.
    """
    others = sorted(path.parent.name for path in out.glob("*/report.html"))
    body = "\n".join(
        section(out, name, failed.get(name, "")) for name in dict.fromkeys([*names, *others])
    )
    page = out / "index.html"
    page.write_text(PAGE.format(body=body), encoding="utf-8")
    return page


def section(out: Path, name: str, failed: str) -> str:
    """What the page says of one experiment."""
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
        parts.append(table(lr.read(folder)))
    if (folder / "report.html").is_file():
        parts.append(f'<p><a href="{quote(name)}/report.html">Report</a></p>')
    return "".join([*parts, "</section>"])


def table(result: lr.SweepResult) -> str:
    """The scores of the intact model, as a table."""
    lines = ["".join(f"<th>{name}</th>" for name in HEAD)]
    for row in result.intact().itertuples():
        spread = f"[{row.score_low:.2f}, {row.score_high:.2f}]"
        cells = (row.task, row.protocol, row.n, f"{row.score:.2f}", spread, f"{row.chance:.2f}")
        lines.append("".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
