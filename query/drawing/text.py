"""Text on pictures: a font, sizes, line breaks, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

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
SMALLEST = 9  # at which letters can be read
LINE = 1.35  # of a letter's height


def text_width(text: str, size: int) -> float:
    return font(size).getlength(escaped(text))


def lines_height(lines: Sequence[str], size: int) -> int:
    """The height of lines."""
    return round(len(lines) * size * LINE)


def fitted(text: str, width: float, largest: int) -> tuple[str, int]:
    """A line and the largest size at which it is no wider; its end is left out where SMALLEST is too large."""
    size = next((size for size in range(largest, SMALLEST, -1) if text_width(text, size) <= width), SMALLEST)
    return cut(text, width, size), size


def cut(text: str, width: float, size: int) -> str:
    """A line, without its end where it would be wider than that."""
    text = escaped(text)
    if text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text}…"


def wrap(text: str, size: int, width: float) -> list[str]:
    """A text in lines no wider than that."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, size) > width:
            lines.append(cut(word, width, size))
        else:
            lines[-1] = cut(longer, width, size)
    return lines
