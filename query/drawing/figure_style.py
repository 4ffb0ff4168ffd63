"""What all figures have in common: a caption above, sizes that stay within MOST_PIXELS, names that fit.

A table comes in, a matplotlib Figure goes out. Colours after Okabe and Ito and Tol.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from ...schemas.shown_text import escaped

DPI = 130
MOST_PIXELS = 4000  # of a side
MANY = 40  # classes: up to so many have a row each, more are shown by their extremes and how they are spread
EXTREME = 12  # rows at either end
BLOCKS = 14  # numbers of blocks below an axis
NAME = 28  # letters of a name
CAPTION, LABEL, TICK = 9, 8, 7  # heights of letters, in points
INTERVAL = 1.96  # standard errors: 95%
LETTER = 0.6  # width of a letter of its height


class PlainFigure(Figure):
    """A figure in whose texts a '$' is a '$': they hold strangers' names, and no mathematics."""

    def draw(self, renderer: Any) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().draw(renderer)


def new_figure(width: float, height: float, caption: str, dpi: int = DPI) -> Figure:
    """A figure of so many inches below its caption: every sentence of it begins a line."""
    letters = int(width * 72 / (CAPTION * LETTER))
    lines = [
        line for sentence in caption.split("\n") for line in wrap(escaped(sentence), letters, break_on_hyphens=False)
    ]
    height += len(lines) * CAPTION * 1.3 / 72
    figure = PlainFigure(
        figsize=(width, height), layout="constrained", dpi=min(dpi, int(MOST_PIXELS / max(width, height)))
    )
    if lines:
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=CAPTION)
    return figure


def new_axes(width: float, height: float, caption: str, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes in a row."""
    figure = new_figure(width, height, caption)
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    for one in axes:
        plain(one)
    return figure, axes


def plain(axis: Axes) -> None:
    """Without a frame, with small letters."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=LABEL)
    axis.xaxis.label.set_fontsize(LABEL + 1)
    axis.yaxis.label.set_fontsize(LABEL + 1)


def powers(axis: Axis) -> None:
    """A logarithmic axis whose numbers are written out, for in a PlainFigure '10^2' is no mathematics."""
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_formatter(lambda value, _: "")


def block_ticks(axis: Axes, blocks: Sequence[object], places: Sequence[float] | None = None) -> None:
    """The numbers of blocks below an axis, of many every second or third; on end where they are names of layers."""
    names = [str(block) for block in blocks]
    if not all(name.isdigit() for name in names):
        axis.tick_params(axis="x", rotation=90)
    step = -(-len(names) // BLOCKS)
    axis.set_xticks(list(map(float, names) if places is None else places)[::step], names[::step])


def short(name: object, most: int = NAME) -> str:
    """A name on one line, its end left out where it is long."""
    text = escaped(str(name))
    return text if len(text) <= most else text[: most - 1] + "…"


def ends(count: int, most: int = MANY, each: int = EXTREME) -> list[int]:
    """The places of rows that are shown of so many: all, or the first and the last of them."""
    return [*range(count)] if count <= most else [*range(each), *range(count - each, count)]
