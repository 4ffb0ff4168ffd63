"""A contact sheet: pictures, a few in a row, with captions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from .colours import Scale
from .overlay import draw_legend
from .text import GAP, TEXT, TITLE, fitting, lines_height, number, wrap, write

CELL = 150  # width of an image in pixels
COLUMNS = 5
SMALL = TEXT - 2


def captions(table: pd.DataFrame, value: str) -> list[list[str]]:
    """What stands below each image: its label or file, and its value."""
    names = table.label.where(table.label.notna(), table.path.str.rsplit("/", n=1).str[-1])
    rows = zip(names, table.image_id, table[value], strict=True)
    return [[f"{name}, {image_id}", number(float(v))] for name, image_id, v in rows]


def sheet(
    pictures: NDArray[np.uint8], below: Sequence[Sequence[str]], title: Sequence[str], scale: Scale | None = None
) -> Image.Image:
    """Pictures [n, y, x, channel] in rows of COLUMNS with lines below each; the legend of `scale` at the foot."""
    columns = min(COLUMNS, len(pictures))
    height = round(CELL * pictures.shape[1] / pictures.shape[2])
    step = height + lines_height(below[0], SMALL) + GAP
    width = GAP + max(columns, 3) * (CELL + GAP)
    heading = [line for text in title[1:] for line in wrap(text, TEXT, width - 2 * GAP)]
    top = GAP + lines_height([""], TITLE) + lines_height(heading, TEXT) + GAP
    foot = top + math.ceil(len(pictures) / columns) * step
    whole = Image.new("RGB", (width, foot + (3 * TEXT + GAP if scale else 0)), "white")
    write(whole, GAP, GAP, [title[0]], fitting(title[0], width - 2 * GAP, TITLE))
    write(whole, GAP, GAP + lines_height([""], TITLE), heading, TEXT)
    for i, (pixels, lines) in enumerate(zip(pictures, below, strict=True)):
        x, y = GAP + i % columns * (CELL + GAP), top + i // columns * step
        whole.paste(Image.fromarray(resized(pixels, (CELL, height))), (x, y))
        for j, line in enumerate(lines):
            write(whole, x, y + height + 2 + j * lines_height([""], SMALL), [line], fitting(line, CELL, SMALL))
    if scale:
        draw_legend(whole, GAP, foot, 2 * CELL, scale, SMALL)
    return whole


def resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
