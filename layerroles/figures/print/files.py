"""Figures as files: PDF, SVG and PNG for a paper, or HTML, with their captions beside them.

Chromium draws PDF, SVG and PNG, through kaleido; one browser draws all figures of a call. Text is
set in a font that comes with the package (Arimo, which is as wide as Arial), so that a figure looks
the same wherever it is made; PDF and SVG files embed the font.
"""

import base64
import importlib.util
import struct
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from layerroles.errors import InputError
from layerroles.figures.print.captions import caption, latex_figure, read_meta
from layerroles.figures.print.screen_to_print import PER_INCH, paper

if TYPE_CHECKING:
    from layerroles.results import SweepResult

FORMATS = ("pdf", "svg", "png", "html")
_FACES = {400: "arimo-regular.woff2", 700: "arimo-bold.woff2"}
# Without this, kaleido leaves a margin of 0.1 inch at each side and cuts the picture by as much.
_NO_MARGIN = "<style>@page { margin: 0 !important } body { margin: 0 }</style>"
_PNG_HEADER = 33  # bytes
_TWO_COLUMNS = 4.5  # inches from which a figure spans both columns
_INSTALL = "pip install 'layerroles[export]'"


def save(
    figures: go.Figure | Mapping[str, go.Figure],
    path: str | PathLike[str],
    *,
    formats: Sequence[str] = ("pdf",),
    width: str | float = "column",
    title: bool = False,
    dpi: int = 300,
    result: "SweepResult | None" = None,
) -> list[Path]:
    """Write figures for a paper, each with its caption beside it, and return the files.

    Next to `NAME.pdf`, `NAME.txt` holds the caption and `NAME.tex` a LaTeX figure environment with
    image and caption. LaTeX reads neither svg nor html, so if only these are written, there is no
    `NAME.tex`.

    Args:
        figures: one figure, or several by name.
        path: the file to write for one figure, whose suffix sets the format; the folder for
            several.
        formats: formats of several figures: pdf, svg, png, html; not used for one figure.
        width: as in `paper`; html keeps the layout of the screen.
        title: whether to keep titles in the figures.
        dpi: dots per inch of png files.
        result: the sweep that the figures show; adds model, seed and versions to captions.

    Raises:
        InputError: no figures, or one that is not of `lr.figures`; an unknown format or width; a
            dpi out of range; no kaleido or browser; `result` is not a sweep's result; or a file
            that cannot be written.

    Example:
        lr.figures.save(lr.figures.harm_map(result), "figures/harm.pdf", result=result)
    """
    target = Path(path)
    if isinstance(figures, Mapping):
        folder, figure_by_name = target, dict(figures)
    else:
        folder, figure_by_name, formats = target.parent, {target.stem: figures}, [target.suffix[1:]]
    check_formats(formats)
    if not 30 <= dpi <= 2400:
        raise InputError(f"dpi={dpi}: from 30 to 2400 dots per inch")
    _check_figures(figure_by_name)
    printed = {name: paper(figure, width, title=title) for name, figure in figure_by_name.items()}
    captions = {name: caption(figure, result) for name, figure in printed.items()}
    drawn = _draw_files(printed, [ending for ending in formats if ending != "html"], dpi)
    picture = next((ending for ending in formats if ending in ("pdf", "png")), "")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figure_by_name.items():
            for ending in formats:
                file = folder / f"{name}.{ending}"
                if ending == "html":
                    page = figure.to_html(include_plotlyjs=True)
                    file.write_text(page, encoding="utf-8", errors="replace")
                else:
                    file.write_bytes(drawn[name, ending])
                written.append(file)
            words = captions[name]
            full = printed[name].layout.width / PER_INCH > _TWO_COLUMNS
            texts = {"tex": latex_figure(words, f"{name}.{picture}", full=full)} if picture else {}
            for ending, text in {"txt": words + "\n", **texts}.items():
                file = folder / f"{name}.{ending}"
                file.write_text(text, encoding="utf-8", errors="replace")
                written.append(file)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot write figures to {str(folder)!r}: {reason}") from error
    return written


def _check_figures(named: Mapping[str, go.Figure]) -> None:
    if not named:
        raise InputError("there are no figures to save: give one, or several by name")
    for figure in named.values():
        read_meta(figure, "save")


def check_formats(formats: Sequence[str]) -> None:
    """Raise an error if a format is unknown or cannot be written here.

    Raises:
        InputError: an unknown format, or one for which kaleido is missing.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"unknown format {name!r}: known are {', '.join(FORMATS)}")
    by_browser = [name for name in formats if name != "html"]
    if by_browser and importlib.util.find_spec("kaleido") is None:
        raise InputError(
            f"{by_browser[0]} needs the package kaleido: {_INSTALL}; html does without"
        )


def _draw_files(
    printed: Mapping[str, go.Figure], formats: Sequence[str], dpi: int
) -> dict[tuple[str, str], bytes]:
    """Draw all figures in all formats with one browser; map (name, format) to the file's bytes.

    Raises:
        InputError: no Chrome or Chromium starts, or it fails to draw a figure.
    """
    if not formats or not printed:
        return {}
    import kaleido
    from choreographer.errors import (
        BrowserClosedError,
        BrowserFailedError,
        ChannelClosedError,
        ChromeNotFoundError,
    )
    from kaleido.errors import JavascriptError, KaleidoError

    with TemporaryDirectory() as scratch:
        wanted: dict[tuple[str, str], Path] = {
            (name, ending): Path(scratch) / f"{number}.{ending}"
            for number, name in enumerate(printed)
            for ending in formats
        }
        tasks = [
            {
                "fig": printed[name],
                "path": str(file),
                "opts": {"format": ending, "scale": dpi / PER_INCH if ending == "png" else 1},
            }
            for (name, ending), file in wanted.items()
        ]
        try:
            kaleido.write_fig_from_object_sync(
                tasks, cancel_on_error=True, kopts={"page_generator": _drawing_page()}
            )
        except (ChromeNotFoundError, BrowserFailedError) as error:
            raise InputError(
                f"{formats[0]} needs Chrome or Chromium, and none was found that starts: install "
                "it (on Debian, apt-get install chromium), or run plotly_get_chrome; "
                "html does without"
            ) from error
        except (
            *(TimeoutError, BrowserClosedError, ChannelClosedError, JavascriptError),
            KaleidoError,
        ) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"the browser drew no {formats[0]} ({reason}): try again, with fewer figures at "
                "once; html does without it"
            ) from error
        return {
            key: _with_resolution(file.read_bytes(), dpi) if key[1] == "png" else file.read_bytes()
            for key, file in wanted.items()
        }


def _drawing_page() -> Any:
    """Return kaleido's drawing page, with local plotly.js, the package's font and no MathJax."""
    import kaleido

    page = kaleido.PageGenerator(mathjax=False)
    fonts = {weight: _encode_font(name) for weight, name in _FACES.items()}
    # A font face made from bytes loads at once, before any text is laid out.
    measured = "".join(
        f"document.fonts.add(new FontFace('Arimo', Uint8Array.from(atob('{font}'), "
        f"c => c.charCodeAt(0)), {{weight: '{weight}'}}));"
        for weight, font in fonts.items()
    )
    embedded = "".join(
        f"@font-face{{font-family:Arimo;font-weight:{weight};"
        f"src:url(data:font/woff2;base64,{font}) format('woff2')}}"
        for weight, font in fonts.items()
    )
    script = (files("layerroles.figures") / "drawing.js").read_text("utf-8")
    page.header = page.header.replace("Kaleido-fier", "layerroles") + _NO_MARGIN
    page.footer = f"<script>{measured}{script.replace('@FACES@', embedded)}</script>{page.footer}"
    return page


def _encode_font(name: str) -> str:
    return base64.b64encode((files("layerroles.figures") / "fonts" / name).read_bytes()).decode()


def _with_resolution(png: bytes, dpi: int) -> bytes:
    """Return the PNG with its resolution recorded (pHYs chunk), which sets its printed size."""
    per_metre = round(dpi / 0.0254)
    body = b"pHYs" + struct.pack(">IIB", per_metre, per_metre, 1)
    chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
    return png[:_PNG_HEADER] + chunk + png[_PNG_HEADER:]
