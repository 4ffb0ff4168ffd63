"""The picture of generated images: columns of images with lines below each. Imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .figure_style import LABEL, TICK, new_figure, short

LINE = 24  # letters below an image


@dataclass(frozen=True)
class Column:
    """Images [y, x, channel], what stands above them all and below each."""

    heading: str
    pixels: Sequence[NDArray[np.uint8]]
    captions: Sequence[str]


def draw_columns(caption: str, columns: Sequence[Column]) -> Figure:
    """Columns of images side by side."""
    high = max(len(column.pixels) for column in columns)
    figure = new_figure(max(1.8 * len(columns), 5), 2.05 * high + 0.5, caption, dpi=100)
    axes = figure.subplots(high, len(columns), squeeze=False)
    for place, column in enumerate(columns):
        axes[0, place].set_title("\n".join(wrap(column.heading, LINE)), fontsize=LABEL)
        for row, (pixels, text) in enumerate(zip(column.pixels, column.captions, strict=True)):
            axes[row, place].imshow(pixels)
            lines = [short(line, LINE) for line in text.splitlines() or [""]]
            axes[row, place].set_xlabel("\n".join(lines), fontsize=TICK)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        if not axis.images:
            axis.set_visible(False)
    return figure
