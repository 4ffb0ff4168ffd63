"""The picture of regions: a class's images with the active regions of its first neurons, one colour each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from .colours import COLOURS


@dataclass(frozen=True)
class Regions:
    """Images, regions and masks at one size.

    pixels: uint8 [image, y, x, channel]. active: for each image bool [neuron, y, x]. masks: for each image bool [y, x],
    or None. neurons: a row a neuron, best first: rank, block, unit, negative (it has no region of its own).
    """

    pixels: NDArray[np.uint8]
    active: Sequence[NDArray[np.bool_]]
    masks: Sequence[NDArray[np.bool_] | None]
    neurons: pd.DataFrame


def draw_regions(regions: Regions, tops: Sequence[int]) -> Figure:
    """A row for the images and one for each of `tops`; the object's edge in white."""
    neurons, count = regions.neurons, len(regions.pixels)
    size = (1.5 * count + 1.6, 1.55 * (len(tops) + 1) + 0.3)
    figure = Figure(figsize=size, layout="constrained", dpi=75)
    axes = figure.subplots(len(tops) + 1, count, squeeze=False)
    for column, (bytes_, active, mask) in enumerate(zip(regions.pixels, regions.active, regions.masks, strict=True)):
        pixels = bytes_.astype(np.float32) / np.float32(255)
        axes[0, column].imshow(pixels)
        for row, top in enumerate(tops, start=1):
            shown = ((neurons["rank"] <= top) & ~neurons.negative).to_numpy()
            axes[row, column].imshow(coloured(pixels, active, shown))
            if mask is not None and mask.any() and not mask.all():
                axes[row, column].contour(mask, [0.5], colors="white", linewidths=0.7)
    for axis in axes.reshape(-1):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for row, name in enumerate(["image", *(f"top {top}" for top in tops)]):
        axes[row, 0].set_ylabel(name, fontsize=9)
    figure.legend(
        handles=_legend(neurons),
        loc="outside right upper",
        frameon=False,
        fontsize=8,
        title="block:unit",
        title_fontsize=9,
    )
    return figure


def coloured(pixels: NDArray[np.float32], active: NDArray[np.bool_], shown: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Pixels [y, x, 3] in dim grey, the shown neurons' regions [neuron, y, x] in their colours, the first on top."""
    out = np.repeat(pixels.mean(2, keepdims=True) * 0.45, 3, 2)
    light = pixels.mean(2, keepdims=True)
    for i in np.flatnonzero(shown)[::-1]:
        colour = np.array(to_rgb(COLOURS[i % len(COLOURS)]), np.float32)
        out = np.where(active[i][..., None], 0.7 * colour + 0.3 * light, out)
    return out


def _legend(neurons: Any) -> list[Patch]:
    return [
        Patch(color=COLOURS[i % len(COLOURS)], label=f"{n.block}:{n.unit}" + (" (no region)" if n.negative else ""))
        for i, n in enumerate(neurons.itertuples())
    ]
