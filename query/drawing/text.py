"""Text on pictures: a font, sizes, line breaks, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ...schemas.shown_text import escaped


def number(value: float) -> str:
    """A value for a legend: three figures, a true minus sign, none before zero."""
    return f"{value + 0.0:.3g}".replace("-", "−")


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which comes with matplotlib and knows most scripts. Does not import matplotlib."""
    found = find_spec("matplotlib")
    assert found is not None
    return ImageFont.truetype(Path(found.origin or "").parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)


GAP = 10
TEXT, TITLE = 15, 18  # heights of the letters
LINE = 1.35  # of a letter's height


def text_width(text: str, size: int) -> float:
    return font(size).getlength(escaped(text))


def lines_height(lines: Sequence[str], size: int) -> int:
    """The height of lines."""
    return round(len(lines) * size * LINE)


def write(sheet: Image.Image, x: int, y: int, lines: Sequence[str], size: int) -> None:
    """Lines of text from a corner on."""
    for number, line in enumerate(lines):
        ImageDraw.Draw(sheet).text((x, y + round(number * size * LINE)), escaped(line), "black", font(size))


def fitting(text: str, width: int, largest: int) -> int:
    """The largest size up to `largest` at which a line is no wider."""
    return next((size for size in range(largest, 7, -1) if text_width(text, size) <= width), 7)


def wrap(text: str, size: int, width: float) -> list[str]:
    """A text in lines no wider than that; a single word may be."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
