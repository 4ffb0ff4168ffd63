"""A canvas of lines and letters, for PDF and SVG. Imports matplotlib."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ...schemas.shown_text import escaped
from .canvas import FRAME, INK, Canvas
from .figure_style import PlainFigure

DPI = 100
POINT = 72 / DPI  # points of a pixel
ACROSS, UPRIGHT = {"l": "left", "m": "center", "r": "right"}, {"a": "top", "t": "top", "s": "baseline"}


class FigureCanvas(Canvas):
    """A matplotlib Figure, `figure`, a hundred pixels an inch."""

    def __init__(self, width: int, height: int) -> None:
        self.figure = PlainFigure(figsize=(width / DPI, height / DPI), dpi=DPI)
        self._axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self._axes.axis("off")

    def image(self, pixels: NDArray[np.uint8], x: int, y: int) -> None:
        height, width = pixels.shape[:2]
        extent = (x, x + width, y + height, y)
        self._axes.imshow(pixels, extent=extent, aspect="auto", interpolation="none")
        self._axes.set_autoscale_on(False)

    def text(self, x: float, y: float, text: str, size: int, anchor: str = "la") -> None:
        across, upright = ACROSS[anchor[0]], UPRIGHT[anchor[1]]
        self._axes.text(x, y, escaped(text), fontsize=size * POINT, color=INK, ha=across, va=upright)

    def line(self, x: float, top: float, bottom: float) -> None:
        self._axes.vlines(x, top, bottom, color=FRAME, lw=POINT)

    def frame(self, x: int, y: int, width: int, height: int) -> None:
        self._axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=FRAME, lw=POINT))
