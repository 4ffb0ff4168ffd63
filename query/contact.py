"""Contact sheets: images that were found, a few in a row, with captions; a neuron's maps below its exemplars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from .index import Index
from .maps import stored_inputs
from .overlay import Scale, draw_legend, number
from .sheet import GAP, TEXT, TITLE, fitting, lines_height, wrap, write

if TYPE_CHECKING:
    from .neuron import NeuronCard

CELL = 150  # width of an image in pixels
COLUMNS = 5
SMALL = TEXT - 2


def images_picture(index: Index, table: pd.DataFrame, title: str, value: str) -> Image.Image:
    """Images of a table of image_id, path, label and a column `value`, in their order."""
    pixels = stored_inputs(index, table.image_id.tolist())
    return sheet(pixels, captions(table, value), [title])


def neighbours_picture(index: Index, image: str | int, table: pd.DataFrame, title: str) -> Image.Image:
    """An image, and those of a table of image_id, path, label and distance, nearest first."""
    image_id = index.image_id(image)
    own = index.sql("SELECT image_id, path, label, 0.0 AS distance FROM images WHERE image_id = ?", [image_id])
    return images_picture(index, pd.concat([own, table], ignore_index=True), title, "distance")


def exemplars_picture(
    index: Index, layer: str, unit: int, table: pd.DataFrame, notes: Sequence[str] = ()
) -> Image.Image:
    """A neuron's exemplars, each above its map."""
    maps = index.heatmaps([(layer, unit)], table.image_id.tolist())
    height, width = maps.images.shape[1:3]
    size = (CELL, round(CELL * height / width))
    both = [
        np.concatenate([_resized(maps.images[i], size), maps.pixels(i, 0, size[1], size[0])]) for i in range(len(table))
    ]
    title = [f"{layer}:{unit}", *notes]
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
    found = exemplars_picture(card.index, card.layer, card.unit, card.exemplars, notes)
    files = [card.index.layout.notes_folder / name for name in card.generated.file.unique()[:COLUMNS]]
    if not files:
        return found
    made = np.stack([_resized(np.asarray(Image.open(file).convert("RGB")), (CELL, CELL)) for file in files])
    ratios = [[f"ratio {number(ratio)}"] for ratio in card.generated.drop_duplicates("file").ratio[:COLUMNS]]
    below = sheet(made, ratios, ["generated"])
    whole = Image.new("RGB", (max(found.width, below.width), found.height + below.height), "white")
    whole.paste(found, (0, 0))
    whole.paste(below, (0, found.height))
    return whole


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
        whole.paste(Image.fromarray(_resized(pixels, (CELL, height))), (x, y))
        for j, line in enumerate(lines):
            write(whole, x, y + height + 2 + j * lines_height([""], SMALL), [line], fitting(line, CELL, SMALL))
    if scale:
        draw_legend(whole, GAP, foot, 2 * CELL, scale, SMALL)
    return whole


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
