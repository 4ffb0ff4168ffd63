"""The figures of dissection: a table in, a matplotlib Figure out. Colours after Okabe and Ito and Tol."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text


class PlainFigure(Figure):
    """A figure in whose texts a '$' is a '$': they hold strangers' names, and no mathematics."""

    def draw(self, renderer: Any) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().draw(renderer)


def new_axes(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = PlainFigure(figsize=(width, height), layout="constrained", dpi=130)
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes
