"""Heatmaps: what neurons do where, over the images that the model saw.

maps = heatmaps(index, [("blocks.4.mlp.fc1", 473)], ["coin/003.jpg"])
maps.values[0, 0]                    # float32 [rows, columns]
maps.picture().save("coin.png")      # with headings and a legend; maps.overlay() is the bare picture

Views of stored maps load no torch; views that need a gradient run the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ..schemas.errors import QueryError
from .index import Index
from .maps import MapReader, stored_inputs
from .overlay import Scale, overlay
from .upsample import blocky, smooth
from .views import OF_A_CLASS, VIEWS, Neuron, compute


@dataclass(frozen=True)
class Heatmaps:
    """One view of neurons (columns) on images (rows), with a scale a neuron.

    values: float32 [image, neuron, rows, columns], on patches or, for gradients by pixel, on pixels.
    images: uint8 [image, y, x, channel], what the model saw.
    """

    values: NDArray[np.float32]
    images: NDArray[np.uint8]
    scales: tuple[Scale, ...]
    title: str
    row_headings: tuple[tuple[str, ...], ...]
    column_headings: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def overlay(self, row: int = 0, column: int = 0, blocks: bool = False) -> Image.Image:
        """One heatmap over its image, at the size that the model saw and with nothing around it."""
        height, width = self.images.shape[1:3]
        return Image.fromarray(self.pixels(row, column, height, width, blocks))

    def pixels(self, row: int, column: int, height: int, width: int, blocks: bool = False) -> NDArray[np.uint8]:
        """The same at another size: uint8 [height, width, channel]."""
        values = (blocky if blocks else smooth)(self.values[row, column], height, width)
        image = Image.fromarray(self.images[row]).resize((width, height), Image.Resampling.LANCZOS)
        return overlay(np.asarray(image), values, self.scales[column])

    def picture(self, blocks: bool = False) -> Image.Image:
        """Images down, neurons across, with headings and a legend a neuron."""
        from .sheet import draw

        return draw(self, blocks)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.picture().save(buffer, "PNG")
        return buffer.getvalue()


def heatmaps(
    index: Index,
    neurons: Sequence[Neuron],
    images: Sequence[int | str],
    view: str = "map",
    class_: str | int | None = None,
    weights: str | Path | None = None,
) -> Heatmaps:
    """A view of every neuron on every image; docs/heatmaps.md defines the views.

    class_: the class that the views of OF_A_CLASS ask about; by default the one that the model predicts. The view
    'logit-gradient' is of no neuron and has one column. Raises QueryError for unknown names, unreadable images, and
    where the index lacks what the view needs: inputs, a head.
    """
    if view not in VIEWS:
        raise QueryError(f"no view '{view}'", f"One of {', '.join(VIEWS)}.")
    if not images or not (neurons or view == "logit-gradient"):
        raise QueryError("nothing to show", "Name at least one neuron and one image.")
    for layer, unit in neurons:
        index.neuron_layer(layer, unit)
    rows = _rows(index, images)
    class_id, name = _class(index, class_, rows) if view in OF_A_CLASS else (-1, "")
    ids = [int(i) for i in rows.image_id]
    found = compute(MapReader(index, weights), view, neurons, ids, class_id, name)
    columns = [f"{layer}:{unit}" for layer, unit in neurons] if view != "logit-gradient" else [f"logit of {name}"]
    headings = tuple(_heading(*row) for row in rows[["image_id", "path", "label", "answer"]].itertuples(index=False))
    pixels = stored_inputs(index, ids)
    return Heatmaps(found.values, pixels, found.scales, found.title, headings, tuple(columns), found.notes)


def class_heatmaps(
    index: Index,
    class_: str | int,
    k: int = 5,
    images: int = 5,
    by: str = "score",
    view: str = "map",
    weights: str | Path | None = None,
) -> Heatmaps:
    """A class's k key neurons (see Index.key_neurons) on its images of class_images. Raises QueryError as heatmaps."""
    return heatmaps(
        index, key_neurons(index, class_, k, by), class_images(index, class_, images), view, class_, weights
    )


def key_neurons(index: Index, class_: str | int, k: int, by: str) -> list[Neuron]:
    """A class's k key neurons, best first. Raises QueryError where the index has no head."""
    found = index.key_neurons(class_, k, by)
    if found.empty:
        raise QueryError(
            f"this index ranks no neurons by {by}: it has no head, or one that reads otherwise", "Name some."
        )
    return [(str(layer), int(unit)) for layer, unit in zip(found.layer, found.unit, strict=True)]


def class_images(index: Index, class_: str | int, count: int) -> list[int]:
    """The images of a class of which the model is surest (largest p_class; ties to the lower id).

    The choice looks at the model's answer alone and never at a neuron, so that neurons can be compared on it.
    """
    found = index.sql(
        "SELECT image_id FROM images WHERE class_id = ? AND path NOT IN (SELECT path FROM failures) "
        "ORDER BY p_class DESC NULLS LAST, image_id LIMIT ?",
        [index.class_id(class_), count],
    )
    if found.empty:
        raise QueryError(f"the index has no image of class '{class_}'", "Name images, or another class.")
    return [int(i) for i in found.image_id]


def _rows(index: Index, images: Sequence[int | str]) -> pd.DataFrame:
    """image_id, path, label, predicted (a class_id) of images, in their order, all of them readable."""
    ids = [index.image_id(image) for image in images]
    found = index.sql(
        "SELECT image_id, path, label, predicted, c.class AS answer FROM images LEFT JOIN classes c "
        "ON c.class_id = predicted WHERE list_contains(?, image_id)",
        [ids],
    )
    rows = found.set_index("image_id", drop=False).loc[ids]
    for image_id, path in zip(ids, rows.path, strict=True):
        if not index.arrays["valid"][image_id]:
            raise QueryError(f"image {image_id} ({path}) could not be read when the index was made", "Name another.")
    return rows


def _heading(image_id: int, path: str, label: str | None, answer: str | None) -> tuple[str, ...]:
    """What stands beside an image: its folder, the model's answer, its number."""
    first = path.rsplit("/", 1)[-1] if pd.isna(label) else str(label)
    return (first, *([] if pd.isna(answer) else [f"predicted {answer}"]), f"image {image_id}")


def _class(index: Index, class_: str | int | None, rows: pd.DataFrame) -> tuple[int, str]:
    """The class that a view asks about, by number and name."""
    if not index.spec.classes:
        raise QueryError("this index has no head, so no class scores and no logits", "Index again with --head FILE.")
    if class_ is None:
        answers = rows.predicted.dropna().unique()
        if len(answers) != 1:
            raise QueryError("the model predicts several classes for these images", "Name the one that is meant.")
        class_ = int(answers[0])
    class_id = index.class_id(class_)
    return class_id, str(index.sql("SELECT class FROM classes WHERE class_id = ?", [class_id])["class"][0])
