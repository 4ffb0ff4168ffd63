"""The picture of heatmaps: images down, neurons across, headings, a legend a colour scale. Drawn with Pillow alone."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .canvas import Canvas, PixelCanvas, write
from .colours import Scale
from .overlay import draw_legend, overlay
from .text import GAP, TEXT, TITLE, cut, fitted, lines_height, text_width, wrap
from .upsample import blocky, smooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 224  # width of a heatmap in pixels, less where a sheet would have more than MOST_PIXELS
MOST_PIXELS, HEADING = 4000, 400  # of a side, and what is kept of the height for the title and the notes
MARGIN = 180  # of what stands beside an image
SMALL = 11  # letters of the legend below one heatmap


@dataclass(frozen=True)
class Heatmaps:
    """One view of neurons (columns) on images (rows), with a scale a neuron or one an image and neuron.

    values: float32 [image, neuron, rows, columns], on patches or, for gradients by pixel, on pixels.
    images: uint8 [image, y, x, channel], what the model saw.
    scales: one a neuron; empty where image_scales (by image, then neuron) are each image's own.
    """

    values: NDArray[np.float32]
    images: NDArray[np.uint8]
    scales: tuple[Scale, ...]
    title: str
    row_headings: tuple[tuple[str, ...], ...]
    column_headings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    image_scales: tuple[tuple[Scale, ...], ...] = ()

    def scale(self, row: int, column: int) -> Scale:
        """The colour scale of one heatmap."""
        return self.image_scales[row][column] if self.image_scales else self.scales[column]

    def overlay(self, row: int = 0, column: int = 0, blocks: bool = False) -> Image.Image:
        """One heatmap over its image, at the size that the model saw and with nothing around it."""
        height, width = self.images.shape[1:3]
        return Image.fromarray(self.pixels(row, column, height, width, blocks))

    def pixels(self, row: int, column: int, height: int, width: int, blocks: bool = False) -> NDArray[np.uint8]:
        """The same at another size: uint8 [height, width, channel]."""
        values = (blocky if blocks else smooth)(self.values[row, column], height, width)
        image = Image.fromarray(self.images[row]).resize((width, height), Image.Resampling.LANCZOS)
        return overlay(np.asarray(image), values, self.scale(row, column))

    def picture(self, blocks: bool = False) -> Image.Image:
        """Images down, neurons across, with headings and a legend a scale."""
        canvas = PixelCanvas(*_size(self))
        draw(self, blocks, canvas)
        return canvas.picture

    def figure(self, blocks: bool = False) -> Figure:
        """The same with letters as letters, for PDF and SVG. Imports matplotlib."""
        from .figure_canvas import FigureCanvas

        canvas = FigureCanvas(*_size(self))
        draw(self, blocks, canvas)
        return canvas.figure

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.picture().save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True)
class _Layout:
    """Where things stand on a sheet, in pixels: the size of a heatmap, lines of text, and the tops of all parts."""

    cell: int
    height: int
    margin: int
    title: list[str]
    notes: list[str]
    headings: list[list[str]]
    width: int
    top: int
    step: int
    below: int
    foot: int


def _layout(maps: Heatmaps) -> _Layout:
    rows, columns = maps.values.shape[:2]
    ratio = maps.images.shape[1] / maps.images.shape[2]
    own = bool(maps.image_scales)  # a legend a heatmap
    headings = [[cut(line, MARGIN, TEXT) for line in heading] for heading in maps.row_headings]
    margin = GAP + round(max(text_width(line, TEXT) for heading in headings for line in heading))
    across = (MOST_PIXELS - 2 * GAP - margin) / (columns + 1) - GAP
    down = (MOST_PIXELS - HEADING) / rows - GAP - 3 * SMALL * own
    cell = int(min(CELL, across, down / ratio))
    height = round(cell * ratio)
    width = GAP + margin + (columns + 1) * (cell + GAP)
    title = wrap(maps.title, TITLE, width - 2 * GAP)
    notes = [line for note in maps.notes for line in wrap(note, TEXT, width - 2 * GAP)]
    top = GAP + lines_height(title, TITLE) + GAP + lines_height([""], TEXT)
    step = height + GAP + 3 * SMALL * own
    below = top + rows * step
    foot = below + (0 if own else 3 * TEXT)
    return _Layout(cell, height, margin, title, notes, headings, width, top, step, below, foot)


def _size(maps: Heatmaps) -> tuple[int, int]:
    """Width and height of the sheet."""
    at = _layout(maps)
    return at.width, at.foot + lines_height(at.notes, TEXT) + GAP


def draw(maps: Heatmaps, blocks: bool, canvas: Canvas) -> None:
    """The whole sheet: the images as they were seen on the left, then a column a neuron."""
    at = _layout(maps)
    write(canvas, GAP, GAP, at.title, TITLE)
    left = [GAP + at.margin + i * (at.cell + GAP) for i in range(maps.values.shape[1] + 1)]
    for x, heading in zip(left, ("input", *maps.column_headings), strict=True):
        canvas.text(x + at.cell / 2, at.top - TEXT * 0.3, *fitted(heading, at.cell, TEXT), "ms")
    for row, lines in enumerate(at.headings):
        y = at.top + row * at.step
        write(canvas, GAP, y + (at.height - lines_height(lines, TEXT)) // 2, lines, TEXT)
        image = Image.fromarray(maps.images[row]).resize((at.cell, at.height), Image.Resampling.LANCZOS)
        canvas.image(np.asarray(image), left[0], y)
        for column, x in enumerate(left[1:]):
            canvas.image(maps.pixels(row, column, at.height, at.cell, blocks), x, y)
            if maps.image_scales:
                draw_legend(canvas, x, y + at.height + 3, at.cell, maps.scale(row, column), SMALL)
    for x, scale in zip(left[1:], maps.scales, strict=False):  # none where each image has its own
        draw_legend(canvas, x, at.below, at.cell, scale, TEXT - 2)
    write(canvas, GAP, at.foot, at.notes, TEXT)
