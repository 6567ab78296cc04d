"""The report: one HTML file that opens offline, with the verdict first and the rest to explore.

    report(result, probes, "runs/demo/report.html")
    report(result, probes, "both.html", against=other)

The page is made of the parts in this folder: `document.py` puts it together, `sections.py` draws
the figures, `explored.py` lays out what the explorer shows, and the files beside them are the
page's own (templates, style sheets, scripts).
"""

from layerroles.page.document import render as render
from layerroles.page.document import report as report

__all__ = ["render", "report"]
