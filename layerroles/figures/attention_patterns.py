"""Draw the attention patterns of chosen heads, with the tokens as labels.

>>> figure = attention_pattern(lr.probes.head_patterns(model, text, heads))  # doctest: +SKIP
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.figures import select, style
from layerroles.figures.head_map import head_name

_COLUMNS = ("layer", "head", "query", "key", "query_token", "key_token", "weight")
_BESIDE = 36  # up to this many keys, two patterns stand side by side
_LABELLED = 110  # up to this many tokens, all have labels; else every second, every third, ...


def attention_pattern(patterns: pd.DataFrame) -> go.Figure:
    """Draw what each token attends to, a panel per head.

    Args:
        patterns: a frame that `probes.head_patterns` returned.

    Raises:
        InputError: the frame is empty or lacks columns.

    Example:
        heads = [lr.Site(1, "head", head=0)]
        patterns = lr.probes.head_patterns(model, "silver fence silver", heads)
        figure = lr.figures.attention_pattern(patterns)
    """
    select.require_columns(patterns, _COLUMNS, "the attention pattern")
    heads = list(patterns.groupby(["layer", "head"], sort=False))
    first, last = int(patterns["query"].min()), int(patterns["query"].max())
    columns = 1 if last >= _BESIDE else min(2, len(heads))
    rows = -(-len(heads) // columns)
    panel = min(900, max(200, (15 if columns == 1 else 12) * (last - first + 1)))
    below = 92  # room for the labels of keys
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"<b>{head_name(part.iloc[0])}</b>" for _, part in heads],
        vertical_spacing=below / (rows * panel + below * max(1, rows - 1)) if rows > 1 else 0,
        horizontal_spacing=0.12,
    )
    for place, (_, part) in enumerate(heads):
        _draw_panel(figure, part, 1 + place // columns, 1 + place % columns)
    keys = patterns.drop_duplicates("key").set_index("key")["key_token"].sort_index()
    queries = patterns.drop_duplicates("query").set_index("query")["query_token"].sort_index()
    figure.update_xaxes(**_token_axis(keys), tickangle=-90)
    figure.update_yaxes(**_token_axis(queries), autorange="reversed")
    figure.update_xaxes(title_text="looked at", row=rows)
    figure.update_yaxes(title_text="from", col=1)
    style.align_headings(figure)
    style.finish(
        figure,
        kind="attention_pattern",
        about=patterns,
        title="Attention patterns",
        subtitle=f"share of each token's attention, 1 text of {last + 1} tokens; "
        "layers and heads are 0-based",
        height=180 + rows * panel + below * (rows - 1),
        legend=False,
    )
    return figure.update_layout(
        margin={"l": 104, "b": 108}, coloraxis=style.colour_axis("share", 0.0, 1.0, ".0%")
    )


def _draw_panel(figure: go.Figure, part: pd.DataFrame, row: int, column: int) -> None:
    grid = part.pivot(index="query", columns="key", values="weight")
    key_tokens = part.drop_duplicates("key").set_index("key")["key_token"]
    query_tokens = part.drop_duplicates("query").set_index("query")["query_token"]
    name = head_name(part.iloc[0])
    hover = np.full(grid.shape, "", dtype=object)
    for place, query in enumerate(grid.index):
        for key in grid.columns[grid.columns <= query]:
            hover[place, key] = (
                f"<b>{name}</b><br>{_visible_token(query_tokens[query])} ({query}) looks at "
                f"{_visible_token(key_tokens[key])} ({key})<br>share {grid.at[query, key]:.3f}"
            )
    queries, keys = grid.index.tolist(), grid.columns.tolist()
    heat = style.heat_map(grid.to_numpy(), hover, name, x=keys, y=queries, gap=0.0)
    figure.add_trace(heat, row=row, col=column)


def _token_axis(tokens: "pd.Series[str]") -> dict[str, object]:
    step = -(-len(tokens) // _LABELLED)
    labelled = tokens.iloc[::step]
    return {
        "tickmode": "array",
        "tickvals": list(labelled.index),
        "ticktext": [_visible_token(token) for token in labelled],
        "tickfont": {"size": 10},
        "showgrid": False,
    }


def _visible_token(token: str) -> str:
    """Return a token's text, stripped, with arrows for line breaks; an open box if it is blank."""
    text = token.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}").strip()
    return style.escape(text) or "\N{OPEN BOX}"
