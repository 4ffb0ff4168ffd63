"""The picture of heatmaps: images down, neurons across, headings, a legend a colour scale. Drawn with Pillow alone."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...schemas.shown_text import escaped
from .colours import Scale
from .overlay import draw_legend, overlay
from .text import GAP, TEXT, TITLE, fitting, font, lines_height, text_width, wrap, write
from .upsample import blocky, smooth

CELL = 224  # width of a heatmap in pixels
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
        return draw(self, blocks)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.picture().save(buffer, "PNG")
        return buffer.getvalue()


def draw(maps: Heatmaps, blocks: bool) -> Image.Image:
    """The whole sheet: the images as they were seen on the left, then a column a neuron."""
    rows, columns = maps.values.shape[:2]
    height = round(CELL * maps.images.shape[1] / maps.images.shape[2])
    margin = GAP + round(max(text_width(line, TEXT) for heading in maps.row_headings for line in heading))
    width = GAP + margin + (columns + 1) * (CELL + GAP)
    title, notes = (
        wrap(maps.title, TITLE, width - 2 * GAP),
        [line for note in maps.notes for line in wrap(note, TEXT, width - 2 * GAP)],
    )
    top = GAP + lines_height(title, TITLE) + GAP + lines_height([""], TEXT)
    step = height + GAP + (3 * SMALL if maps.image_scales else 0)  # room for a legend a cell
    below = top + rows * step
    foot = below + (0 if maps.image_scales else 3 * TEXT)
    sheet = Image.new("RGB", (width, foot + lines_height(notes, TEXT) + GAP), "white")
    write(sheet, GAP, GAP, title, TITLE)
    left = [GAP + margin + i * (CELL + GAP) for i in range(columns + 1)]
    for x, heading in zip(left, ("input", *maps.column_headings), strict=True):
        size = fitting(heading, CELL, TEXT)
        ImageDraw.Draw(sheet).text((x + CELL / 2, top - TEXT * 0.3), escaped(heading), "black", font(size), anchor="ms")
    for row, heading_lines in enumerate(maps.row_headings):
        y = top + row * step
        write(sheet, GAP, y + (height - lines_height(heading_lines, TEXT)) // 2, heading_lines, TEXT)
        image = Image.fromarray(maps.images[row]).resize((CELL, height), Image.Resampling.LANCZOS)
        sheet.paste(image, (left[0], y))
        for column, x in enumerate(left[1:]):
            sheet.paste(Image.fromarray(maps.pixels(row, column, height, CELL, blocks)), (x, y))
            if maps.image_scales:
                draw_legend(sheet, x, y + height + 3, CELL, maps.scale(row, column), SMALL)
    for x, scale in zip(left[1:], maps.scales, strict=False):  # none where each image has its own
        draw_legend(sheet, x, below, CELL, scale, TEXT - 2)
    write(sheet, GAP, foot, notes, TEXT)
    return sheet
