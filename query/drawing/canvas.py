"""What sheets of images are drawn on: pixels (Pillow, light), or a figure whose letters stay letters.

canvas = PixelCanvas(400, 300)             # canvas.picture: an image; figure_canvas.FigureCanvas: a matplotlib Figure
canvas.image(pixels, 10, 10)
canvas.text(10, 250, "coin", 15)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...schemas.shown_text import escaped
from .text import LINE, font

INK, FRAME = "black", "#888888"


class Canvas(ABC):
    """White paper of so many pixels; x and y count from the top left corner."""

    @abstractmethod
    def __init__(self, width: int, height: int) -> None: ...

    @abstractmethod
    def image(self, pixels: NDArray[np.uint8], x: int, y: int) -> None:
        """Pixels [y, x, channel] with their top left corner there."""

    @abstractmethod
    def text(self, x: float, y: float, text: str, size: int, anchor: str = "la") -> None:
        """One line; the anchor is Pillow's: l, m or r, then a or t for the top and s for the baseline."""

    @abstractmethod
    def line(self, x: float, top: float, bottom: float) -> None:
        """A thin upright line."""

    @abstractmethod
    def frame(self, x: int, y: int, width: int, height: int) -> None:
        """A thin rectangle."""


class PixelCanvas(Canvas):
    """Drawn at once, with Pillow."""

    def __init__(self, width: int, height: int) -> None:
        self.picture = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self.picture)

    def image(self, pixels: NDArray[np.uint8], x: int, y: int) -> None:
        self.picture.paste(Image.fromarray(pixels), (x, y))

    def text(self, x: float, y: float, text: str, size: int, anchor: str = "la") -> None:
        self._draw.text((x, y), escaped(text), INK, font(size), anchor=anchor)

    def line(self, x: float, top: float, bottom: float) -> None:
        self._draw.line([x, top, x, bottom], fill=FRAME)

    def frame(self, x: int, y: int, width: int, height: int) -> None:
        self._draw.rectangle([x, y, x + width - 1, y + height - 1], outline=FRAME)


def write(canvas: Canvas, x: int, y: int, lines: Sequence[str], size: int) -> None:
    """Lines of text from a corner on."""
    for place, line in enumerate(lines):
        canvas.text(x, y + round(place * size * LINE), line, size)
