"""Exemplars with their maps as plain data, and what a page says of the images that it shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...schemas.storage.map_codes import CODES
from ..stored.maps import stored_map
from .atlas import Atlas
from .columns import Exemplars, Images
from .plain import Page, listed, packed, plain


def maps_data(atlas: Atlas, layer: str, unit: int, image_ids: Sequence[int]) -> list[Page | None]:
    """Each image's map as bytes in base64 with its smallest and largest value; None where it is not stored.

    value = min + code / 255 * (max - min), as FORMAT.md has it: of maps in bytes these are the codes of the index.
    """
    index = atlas.index
    maps = (stored_map(index.reader, index.spec, layer, unit, image_id) for image_id in image_ids)
    return [None if values is None or np.isnan(values).any() else _coded(values) for values in maps]


def _coded(values: NDArray[np.float32]) -> Page:
    low, high = values.min(), values.max()
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    codes = np.rint(share * np.float32(CODES)).astype(np.uint8)
    return {"codes": packed(codes), "min": plain(low), "max": plain(high)}


def exemplars_data(atlas: Atlas, layer: str, unit: int, rows: Exemplars, k: int) -> Page:
    """A neuron's first k exemplars at one side, column by column, with their maps."""
    ids = rows.ids(unit, k)
    shown = slice(len(ids))
    return {
        "image": ids,
        "patch": rows.patch[unit, shown].tolist(),
        "pre": listed(rows.pre[unit, shown]),
        "post": listed(rows.post[unit, shown]),
        "map": maps_data(atlas, layer, unit, ids),
    }


def images_data(images: Images, image_ids: Iterable[int]) -> dict[str, Page]:
    """What is said of images, by number, each once: path, label, and the numbers of class and answer, -1 for none."""
    return {
        str(i): {
            "path": images.path[i],
            "label": images.label[i],
            "class": int(images.class_id[i]),
            "predicted": int(images.predicted[i]),
        }
        for i in dict.fromkeys(image_ids)
    }
