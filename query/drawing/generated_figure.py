"""The picture of generated images: columns of images with a line below each. Imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .figure_style import PlainFigure


@dataclass(frozen=True)
class Column:
    """Images [y, x, channel], what stands above them all and below each."""

    heading: str
    pixels: Sequence[NDArray[np.uint8]]
    captions: Sequence[str]


def draw_columns(title: str, columns: Sequence[Column]) -> Figure:
    """Columns of images side by side."""
    high = max(len(column.pixels) for column in columns)
    figure = PlainFigure(figsize=(1.7 * len(columns), 1.85 * high + 0.5), layout="constrained", dpi=100)
    axes = figure.subplots(high, len(columns), squeeze=False)
    for place, column in enumerate(columns):
        axes[0, place].set_title(column.heading, fontsize=9)
        for row, (pixels, caption) in enumerate(zip(column.pixels, column.captions, strict=True)):
            axes[row, place].imshow(pixels)
            axes[row, place].set_xlabel(caption, fontsize=7)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        if not axis.images:
            axis.set_visible(False)
    figure.suptitle(title, fontsize=9)
    return figure
