"""Token table: the next token that a lens finds likeliest at every layer and position of a text.

>>> table = LogitLens(top=1).read(model, ["The capital of France is"])  # doctest: +SKIP
>>> figure = token_table(table)  # doctest: +SKIP
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from layerroles.errors import InputError
from layerroles.figures import select, style

_COLUMNS = ("text", "position", "token", "layer", "part", "kl", "agrees", "top_0", "top_0_logprob")
# Height and width of a cell in pixels, and the characters that fit.
_HEIGHT, _WIDTH, _LETTERS = 19, 74, 9


def token_table(read: pd.DataFrame, *, text: int = 0, last: int = 14) -> go.Figure:
    """Draw the likeliest next token at each depth (rows, the output on top) and position (columns).

    A cell is coloured by the probability of its token, which is bold if it is also the model's
    final prediction. The label under each column is the token of the text at that position.

    Args:
        read: the result of a lens's `read`, with `top=1` or more.
        text: index of the text.
        last: the number of tokens to draw, counted from the end of the text.

    Raises:
        InputError: no such text, `last` below 1, several lenses or conditions, or a frame that is
            empty or lacks the likeliest tokens.

    Example:
        read = lr.probes.LogitLens(top=1).read(model, ["silver fence silver"])
        figure = lr.figures.token_table(read)
    """
    if last < 1:
        raise InputError(f"last must be 1 or more, got {last}")
    select.require_columns(read, _COLUMNS, "the token table (read a text with LogitLens(top=1))")
    table = read[read["text"] == text]
    if table.empty:
        raise InputError(f"unknown text {text}: the frame holds 0 to {int(read['text'].max())}")
    for column in ("probe", "condition", "model"):
        if column in table and table[column].nunique() > 1:
            names = ", ".join(map(str, dict.fromkeys(table[column])))
            raise InputError(f"the token table draws one {column}, and the frame holds {names}")
    positions = sorted(table["position"].unique())[-last:]
    table = table[table["position"].isin(positions)]
    depths = list(dict.fromkeys(zip(table["layer"], table["part"], strict=True)))
    shape = (len(depths), len(positions))
    probability, texts, hover = (
        np.full(shape, np.nan),
        *(np.full(shape, "", dtype=object) for _ in "12"),
    )
    for line in table.to_dict("records"):
        place = depths.index((line["layer"], line["part"])), positions.index(line["position"])
        probability[place] = np.exp(line["top_0_logprob"])
        word = style.escape(_visible_token(line["top_0"]))
        texts[place] = f"<b>{word}</b>" if line["agrees"] else word
        hover[place] = _hover_text(line)
    heat = style.heat_map(probability, hover, "likeliest token")
    figure = go.Figure(heat.update(text=texts, texttemplate="%{text}", textfont_size=11))
    tokens = table.drop_duplicates("position").set_index("position")["token"]
    figure.update_xaxes(
        tickmode="array",
        tickvals=list(range(len(positions))),
        ticktext=[style.escape(_visible_token(tokens[position])) for position in positions],
        title_text="token read",
        showgrid=False,
        tickangle=0,
    )
    step = next(s for s in (1, 2, 4, 8) if len(depths) / s <= 40 or s == 8)
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(0, len(depths), step)),
        ticktext=[_depth_label(*depth) for depth in depths[::step]],
        title_text="read after layer (0-based)",
        range=[-0.5, len(depths) - 0.5],
        showgrid=False,
    )
    name = str(table["probe"].iloc[0]).replace("_", " ") if "probe" in table else "lens"
    condition = str(table["condition"].iloc[0]) if "condition" in table else "intact"
    style.finish(
        figure,
        kind="token_table",
        about=table,
        title=f"What the {name} reads at every layer and token",
        subtitle=f"likeliest next token; bold = what the model says in the end; one text, "
        f"{'intact model' if condition == 'intact' else condition}; layers are 0-based",
        height=190 + _HEIGHT * len(depths),
        legend=False,
    )
    return figure.update_layout(
        width=190 + _WIDTH * len(positions),
        margin_l=84,
        coloraxis=style.colour_axis("probability", 0.0, 1.0, ".0%"),
    )


def _depth_label(layer: int, part: str) -> str:
    if layer == -1:
        return "emb"
    return str(layer) if part == "block" else f"{layer} {part}"


def _visible_token(token: object) -> str:
    """Return a token with visible signs for spaces, tabs and line ends, shortened to fit a cell."""
    shown = str(token).replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
    shown = shown.replace(" ", "\N{OPEN BOX}").replace("\t", "\N{RIGHTWARDS ARROW}")
    return shown if len(shown) <= _LETTERS else shown[: _LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _hover_text(line: dict[str, object]) -> str:
    where = _depth_label(int(str(line["layer"])), str(line["part"])).replace("emb", "embedding")
    probability = style.format_number(np.exp(float(str(line["top_0_logprob"]))), places=3)
    lines = [
        f"<b>{style.escape(repr(line['top_0']))}</b> \N{MIDDLE DOT} probability {probability}",
        f"after {'the ' if where == 'embedding' else 'layer '}{where}, "
        f"at {style.escape(repr(line['token']))} (position {line['position']})",
        f"KL(final \N{PARALLEL TO} lens) {style.format_number(line['kl'])} nats",
    ]
    if not pd.isna(line.get("rank")):
        follows = f"the token that follows has rank {int(float(str(line['rank'])))} (0 = top)"
        lines.append(follows)
    return "<br>".join(lines)
