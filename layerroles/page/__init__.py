"""Write the report: one HTML file that opens offline, with the verdict, figures and an explorer.

The verdict states in sentences and a table what `localize` concludes about the roles of layers.

    report(result, probes, "runs/demo/report.html")
    report(result, probes, "both.html", against=other)

`document.py` puts the page together, `first_screen.py` summarizes the verdict, `sections.py` draws
the figures, and `explorer_data.py` lays out the data of the explorer, the interactive view of every
condition's effects and answers. The other files are the page's templates, style sheets and scripts.
"""

from layerroles.page.document import check_name as check_name
from layerroles.page.document import render as render
from layerroles.page.document import report as report

__all__ = ["render", "report"]
