"""Contact sheets: images that were found, a few in a row, with captions; a neuron's maps below its exemplars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ...schemas.numbers_shown import number_of
from ..drawing.contact_sheet import CELL, captions, resized, sheet
from ..stored.names import Neuron
from ..stored.stored_index import StoredIndex
from .heatmap import neuron_heatmaps


def images_picture(index: StoredIndex, table: pd.DataFrame, title: str, value: str) -> Image.Image:
    """Images of a table of image_id, path, label and a column `value`, in their order."""
    pixels = index.inputs(table.image_id.tolist())
    return sheet(pixels, captions(table, value), [title])


def neighbours_picture(index: StoredIndex, image: str | int, table: pd.DataFrame, title: str) -> Image.Image:
    """An image, and those of a table of image_id, path, label and distance, nearest first."""
    image_id = index.image_id(image)
    own = index.look_up("SELECT image_id, path, label, 0.0 AS distance FROM images WHERE image_id = ?", [image_id])
    return images_picture(index, pd.concat([own, table], ignore_index=True), title, "distance")


def exemplars_picture(
    index: StoredIndex,
    neuron: Neuron,
    table: pd.DataFrame,
    notes: Sequence[str] = (),
    *,
    weights: str | Path | None = None,
    device: str | None = None,
) -> Image.Image:
    """A neuron's exemplars, each above its map."""
    maps = neuron_heatmaps(index, [neuron], table.image_id.tolist(), weights=weights, device=device)
    height, width = maps.images.shape[1:3]
    size = (CELL, round(CELL * height / width))
    both = [
        np.concatenate([resized(maps.images[i], size), maps.pixels(i, 0, size[1], size[0])]) for i in range(len(table))
    ]
    what = f"The {number_of(len(table), 'image')} with its largest patch; below each its map. {maps.title}."
    title = [str(neuron), what, *notes, *maps.notes]
    return sheet(np.stack(both), captions(table, "pre"), title, maps.scales[0])
