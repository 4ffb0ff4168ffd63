"""The picture of regions: a class's images with the active regions of its first neurons, one colour each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from .colours import COLOURS
from .figure_style import new_figure

SHEET_DPI = 90  # of pictures of photographs


@dataclass(frozen=True)
class Regions:
    """Images, regions and masks at one size.

    pixels: uint8 [image, y, x, channel]. owners: for each image int64 [top, y, x], the row of `neurons` that a pixel of
    the region belongs to, -1 outside. masks: for each image bool [y, x], or None. neurons: a row a neuron, best first:
    block, unit, negative (it has no region of its own). tops: how many neurons a region is of.
    """

    pixels: NDArray[np.uint8]
    owners: Sequence[NDArray[np.int64]]
    masks: Sequence[NDArray[np.bool_] | None]
    neurons: pd.DataFrame
    tops: Sequence[int]


def draw_regions(regions: Regions, caption: str, colours: str | None) -> Figure:
    """A row for the images and one for each number of neurons; the object's edge in white.

    colours: which neuron a pixel has its colour of, in words. None: the image inside the region and black outside.
    """
    count, draw = len(regions.pixels), image_inside if colours is None else coloured
    figure = new_figure(1.5 * count + 1.8, 1.55 * (len(regions.tops) + 1) + 0.3, caption, SHEET_DPI)
    axes = figure.subplots(len(regions.tops) + 1, count, squeeze=False)
    for column, (bytes_, owners, mask) in enumerate(zip(regions.pixels, regions.owners, regions.masks, strict=True)):
        pixels = bytes_.astype(np.float32) / np.float32(255)
        axes[0, column].imshow(pixels)
        for axis, owner in zip(axes[1:, column], owners, strict=True):
            axis.imshow(draw(pixels, owner))
            if mask is not None and mask.any() and not mask.all():
                axis.contour(mask, [0.5], colors="white", linewidths=0.7)
    for axis in axes.reshape(-1):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for row, name in enumerate(["image", *(f"top {top}" for top in regions.tops)]):
        axes[row, 0].set_ylabel(name, fontsize=9)
    figure.legend(
        handles=_legend(regions.neurons, plain=colours is None),
        loc="outside right center",
        frameon=False,
        fontsize=8,
        title="block:unit" if colours is None else f"block:unit,\n{colours}",
        title_fontsize=9,
        handlelength=0 if colours is None else None,
        handletextpad=0 if colours is None else None,
    )
    return figure


def coloured(pixels: NDArray[np.float32], owner: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pixels [y, x, 3] in dim grey; those of the region [y, x] in the colour of the neuron that owns them."""
    light = pixels.mean(2, keepdims=True)
    colours = np.array([to_rgb(colour) for colour in COLOURS], np.float32)[owner % len(COLOURS)]
    shown: NDArray[np.float32] = np.where(owner[..., None] >= 0, 0.7 * colours + 0.3 * light, 0.45 * light)
    return shown


def image_inside(pixels: NDArray[np.float32], owner: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pixels [y, x, 3] as they are inside the region [y, x], black outside."""
    return np.where(owner[..., None] >= 0, pixels, np.float32(0))


def _legend(neurons: pd.DataFrame, plain: bool) -> list[Patch]:
    """The neurons, best first, with their colours; plain: without."""
    names = [f"{n.block}:{n.unit}" + (" (no region)" if n.negative else "") for n in neurons.itertuples()]
    colours = ["none"] * len(names) if plain else [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    return [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)]
