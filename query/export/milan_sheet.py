"""A figure sheet: a neuron's top exemplars, all but their masked regions darkened, and what it was called."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...schemas.shown_text import shortened
from ..drawing.figure_style import PlainFigure
from ..lookups.neuron import quantiles
from ..stored.names import Neuron, NeuronLike, at_least
from ..stored.stored_index import StoredIndex
from .milan import SIZE, check_k
from .milan_files import exemplar_maps, resized, top_exemplars
from .milan_masks import milan_masks

if TYPE_CHECKING:
    from ..model.live_model import LiveModel

COLUMNS = 5
MOST_SAID, LETTERS = 10, 300  # descriptions, and letters of each
DARK = 0.25  # brightness outside the mask, as MILAN shows it
INCHES = 1.25  # of one image
GAP = 0.06


def milan_sheet(
    index: StoredIndex,
    neuron: NeuronLike,
    k: int = 15,
    size: int = SIZE,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
) -> Figure:
    """What MILAN is given of a neuron, rank by rank, with its descriptions.

    Args:
        neuron: a Neuron, 'LAYER:UNIT' or (layer, unit).
        k: images.
        size: pixels of a side, as exported.
        weights, device: see open_model; needed where the index stores no maps.

    Returns:
        A matplotlib Figure: all but the masked regions darkened.

    Raises:
        QueryError: an unknown neuron, or no inputs stored.

    Example:
        >>> milan_sheet(index, "blocks.5.mlp.fc1:16").savefig("sheet.png")
    """
    at_least(1, size=size)
    layer, unit = Neuron.of(neuron)
    index.neuron_layer(layer, unit)
    check_k(index, layer, k)
    live = None
    if index.spec.maps == "none":
        from ..model.live_model import open_model

        live = open_model(index, weights, device)
    shown = masked_exemplars(index, layer, unit, k, size, live)
    titles = index.sql("SELECT source, description FROM descriptions WHERE layer = ? AND unit = ?", [layer, unit])
    said = titles.sort_values("source").head(MOST_SAID).itertuples(index=False)
    words = [shortened(f"{row.description}  ({row.source})", LETTERS) for row in said]
    lines = [line for text in words for line in textwrap.wrap(text, 80)]
    rows = -(-len(shown) // COLUMNS)
    head = 0.34 + 0.17 * len(lines)
    width, height = COLUMNS * (INCHES + GAP) + GAP, rows * (INCHES + GAP) + head
    figure = PlainFigure(figsize=(width, height), dpi=200)
    figure.text(GAP / width, 1 - 0.09 / height, f"{layer}  unit {unit}", va="top", fontsize=9, weight="bold")
    for i, line in enumerate(lines):
        figure.text(GAP / width, 1 - (0.29 + 0.17 * i) / height, line, va="top", fontsize=8.5)
    for place, picture in enumerate(shown):
        row, column = divmod(place, COLUMNS)
        left, bottom = GAP + column * (INCHES + GAP), GAP + (rows - 1 - row) * (INCHES + GAP)
        axes = figure.add_axes((left / width, bottom / height, INCHES / width, INCHES / height))
        axes.imshow(picture)
        axes.set_axis_off()
    return figure


def masked_exemplars(
    index: StoredIndex, layer: str, unit: int, k: int, size: int, live: LiveModel | None
) -> NDArray[np.uint8]:
    """The k top exemplars [rank, y, x, channel], dark outside the neuron's masks as export_milan writes them."""
    top = top_exemplars(index, layer, np.array([unit]), k)
    q99 = quantiles(index, layer, [unit], "q99")
    masks = milan_masks(exemplar_maps(index, top, live)[0], q99[0], (size, size))
    images = np.stack([resized(pixels, size) for pixels in index.inputs(top.image_ids[0].tolist())])
    shown: NDArray[np.uint8] = (images * np.where(masks, 1, DARK)[..., None]).round().astype(np.uint8)
    return shown
