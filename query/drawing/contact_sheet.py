"""A contact sheet: pictures, a few in a row, with captions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from .canvas import PixelCanvas, write
from .colours import Scale
from .overlay import draw_legend
from .text import GAP, TEXT, TITLE, fitted, lines_height, number, wrap

CELL = 150  # width of an image in pixels
COLUMNS = 5
SMALL = TEXT - 2
MOST_PIXELS, HEADING = 4000, 400  # of a side, and what is kept of it for the title and the legend


def captions(table: pd.DataFrame, value: str) -> list[list[str]]:
    """What stands below each image: its label or file, and its value."""
    names = table.label.where(table.label.notna(), table.path.str.rsplit("/", n=1).str[-1])
    rows = zip(names, table.image_id, table[value], strict=True)
    return [[f"{name}, {image_id}", number(float(v))] for name, image_id, v in rows]


def sheet(
    pictures: NDArray[np.uint8], below: Sequence[Sequence[str]], title: Sequence[str], scale: Scale | None = None
) -> Image.Image:
    """Pictures [n, y, x, channel] in rows with lines below each; the legend of `scale` at the foot.

    COLUMNS a row, more where the sheet would be higher than MOST_PIXELS; what does not fit then is left out, and said.
    """
    height = round(CELL * pictures.shape[1] / pictures.shape[2])
    step = height + lines_height(below[0], SMALL) + GAP
    columns, count = _columns(len(pictures), step)
    if count < len(pictures):
        title = [*title, f"The first {count} of {len(pictures):,}."]
    width = GAP + max(columns, 3) * (CELL + GAP)
    heading = [line for text in title[1:] for line in wrap(text, TEXT, width - 2 * GAP)]
    top = GAP + lines_height([""], TITLE) + lines_height(heading, TEXT) + GAP
    foot = top + math.ceil(count / columns) * step
    canvas = PixelCanvas(width, foot + (3 * TEXT + GAP if scale else 0))
    canvas.text(GAP, GAP, *fitted(title[0], width - 2 * GAP, TITLE))
    write(canvas, GAP, GAP + lines_height([""], TITLE), heading, TEXT)
    for i, (pixels, lines) in enumerate(zip(pictures[:count], below, strict=False)):
        x, y = GAP + i % columns * (CELL + GAP), top + i // columns * step
        canvas.image(resized(pixels, (CELL, height)), x, y)
        for j, line in enumerate(lines):
            canvas.text(x, y + height + 2 + j * lines_height([""], SMALL), *fitted(line, CELL, SMALL))
    if scale:
        draw_legend(canvas, GAP, foot, 2 * CELL, scale, SMALL)
    return canvas.picture


def _columns(count: int, step: int) -> tuple[int, int]:
    """How many pictures a row, and how many in all, so that a sheet is no larger than MOST_PIXELS."""
    rows = max(1, (MOST_PIXELS - HEADING) // step)
    columns = min(max(COLUMNS, math.ceil(count / rows)), (MOST_PIXELS - GAP) // (CELL + GAP))
    return min(columns, count), min(count, rows * columns)


def resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
