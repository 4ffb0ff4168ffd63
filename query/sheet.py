"""The picture of heatmaps: images down, neurons across, headings, a legend a neuron. Drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from .overlay import draw_legend, font

if TYPE_CHECKING:
    from .heatmap import Heatmaps

CELL = 224  # width of a heatmap in pixels
GAP = 10
TEXT, TITLE = 15, 18  # heights of the letters
LINE = 1.35  # of a letter's height


def draw(maps: Heatmaps, blocks: bool) -> Image.Image:
    """The whole sheet: the images as they were seen on the left, then a column a neuron."""
    rows, columns = maps.values.shape[:2]
    height = round(CELL * maps.images.shape[1] / maps.images.shape[2])
    margin = GAP + round(max(_width(line, TEXT) for heading in maps.row_headings for line in heading))
    width = GAP + margin + (columns + 1) * (CELL + GAP)
    title, notes = (
        wrap(maps.title, TITLE, width - 2 * GAP),
        [line for note in maps.notes for line in wrap(note, TEXT, width - 2 * GAP)],
    )
    top = GAP + lines_height(title, TITLE) + GAP + lines_height([""], TEXT)
    below = top + rows * (height + GAP)
    foot = below + 3 * TEXT
    sheet = Image.new("RGB", (width, foot + lines_height(notes, TEXT) + GAP), "white")
    write(sheet, GAP, GAP, title, TITLE)
    left = [GAP + margin + i * (CELL + GAP) for i in range(columns + 1)]
    for x, heading in zip(left, ("input", *maps.column_headings), strict=True):
        size = fitting(heading, CELL, TEXT)
        ImageDraw.Draw(sheet).text((x + CELL / 2, top - TEXT * 0.3), heading, "black", font(size), anchor="ms")
    for row, heading_lines in enumerate(maps.row_headings):
        y = top + row * (height + GAP)
        write(sheet, GAP, y + (height - lines_height(heading_lines, TEXT)) // 2, heading_lines, TEXT)
        image = Image.fromarray(maps.images[row]).resize((CELL, height), Image.Resampling.LANCZOS)
        sheet.paste(image, (left[0], y))
        for column in range(columns):
            sheet.paste(Image.fromarray(maps.pixels(row, column, height, CELL, blocks)), (left[column + 1], y))
    for x, scale in zip(left[1:], maps.scales, strict=True):
        draw_legend(sheet, x, below, CELL, scale, TEXT - 2)
    write(sheet, GAP, foot, notes, TEXT)
    return sheet


def _width(text: str, size: int) -> float:
    return font(size).getlength(text)


def lines_height(lines: Sequence[str], size: int) -> int:
    """The height of lines."""
    return round(len(lines) * size * LINE)


def write(sheet: Image.Image, x: int, y: int, lines: Sequence[str], size: int) -> None:
    """Lines of text from a corner on."""
    for number, line in enumerate(lines):
        ImageDraw.Draw(sheet).text((x, y + round(number * size * LINE)), line, "black", font(size))


def fitting(text: str, width: int, largest: int) -> int:
    """The largest size up to `largest` at which a line is no wider."""
    return next((size for size in range(largest, 7, -1) if _width(text, size) <= width), 7)


def wrap(text: str, size: int, width: float) -> list[str]:
    """A text in lines no wider than that; a single word may be."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
