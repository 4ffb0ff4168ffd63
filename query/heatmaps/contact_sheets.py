"""Contact sheets: images that were found, a few in a row, with captions; a neuron's maps below its exemplars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from ..drawing.contact_sheet import CELL, COLUMNS, captions, resized, sheet
from ..drawing.text import number
from ..stored.names import Neuron
from ..stored.stored_index import StoredIndex
from .heatmap import heatmaps

if TYPE_CHECKING:
    from .neuron_card import NeuronCard


def images_picture(index: StoredIndex, table: pd.DataFrame, title: str, value: str) -> Image.Image:
    """Images of a table of image_id, path, label and a column `value`, in their order."""
    pixels = index.inputs(table.image_id.tolist())
    return sheet(pixels, captions(table, value), [title])


def neighbours_picture(index: StoredIndex, image: str | int, table: pd.DataFrame, title: str) -> Image.Image:
    """An image, and those of a table of image_id, path, label and distance, nearest first."""
    image_id = index.image_id(image)
    own = index.sql("SELECT image_id, path, label, 0.0 AS distance FROM images WHERE image_id = ?", [image_id])
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
    maps = heatmaps(index, [neuron], table.image_id.tolist(), weights=weights, device=device)
    height, width = maps.images.shape[1:3]
    size = (CELL, round(CELL * height / width))
    both = [
        np.concatenate([resized(maps.images[i], size), maps.pixels(i, 0, size[1], size[0])]) for i in range(len(table))
    ]
    title = [str(neuron), *notes]
    return sheet(np.stack(both), captions(table, "pre"), title, maps.scales[0])


def card_picture(card: NeuronCard) -> Image.Image:
    """The exemplars of a neuron under its figures, its classes, its descriptions; generated images below."""
    s, q = card.statistics, card.thresholds
    notes = [
        f"mean {number(s.pre_mean)}, deviation {number(s.pre_std)}, 0.99 quantile {number(q.q99)}, "
        f"positive on {s.positive_share:.1%} of patches" + (", dead" if s.dead else "")
    ]
    if len(card.classes):
        first = card.classes.head(5)
        notes.append("says " + ", ".join(f"{c} {number(v)}" for c, v in zip(first["class"], first.score, strict=True)))
    notes += [f"{row.source}: {row.description}" for row in card.descriptions.itertuples(index=False)]
    found = exemplars_picture(card.index, Neuron(card.layer, card.unit), card.exemplars, notes)
    files = [card.index.layout.notes_folder / name for name in card.generated.file.unique()[:COLUMNS]]
    if not files:
        return found
    made = np.stack([resized(np.asarray(Image.open(file).convert("RGB")), (CELL, CELL)) for file in files])
    ratios = [[f"ratio {number(ratio)}"] for ratio in card.generated.drop_duplicates("file").ratio[:COLUMNS]]
    below = sheet(made, ratios, ["generated"])
    whole = Image.new("RGB", (max(found.width, below.width), found.height + below.height), "white")
    whole.paste(found, (0, 0))
    whole.paste(below, (0, found.height))
    return whole
