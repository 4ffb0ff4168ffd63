"""Exemplars with their maps as plain data, and what a page says of the images that it shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...schemas.run_spec import Side
from ...schemas.storage.map_codes import CODES
from ..stored.effects import StoredEffects
from ..stored.maps import stored_map, top_maps
from .ahead import Ahead
from .atlas import Atlas
from .columns import SHOWN, Exemplars, Images
from .plain import Page, listed, packed

Maps = list[Page | None]


def exemplars_data(atlas: Atlas, place: int, unit: int) -> dict[Side, Page]:
    """A neuron's exemplars with their maps, by side; where there are effects, with the neuron's on each image."""
    layer, sides = atlas.layer(place), atlas.exemplars(place)

    def made(first: int, end: int) -> list[dict[Side, Maps]]:
        maps = {
            side: maps_data(atlas, layer, side, rows, range(first, end), SHOWN[side]) for side, rows in sides.items()
        }
        return [{side: maps[side][i] for side in sides} for i in range(end - first)]

    ahead: Ahead = atlas.once(("maps", place), lambda: Ahead(made))
    maps = ahead.of(unit, atlas.index.spec.layers[place].units)
    found = {side: columns_data(rows, unit, SHOWN[side], maps[side]) for side, rows in sides.items()}
    if atlas.index.effects is not None and layer in atlas.index.effects.spec.layers:
        for column in found.values():
            column["effect"] = _effects(atlas.index.effects, layer, unit, column["image"])
    return found


def _effects(effects: StoredEffects, layer: str, unit: int, image_ids: list[int]) -> list[float | None]:
    """What the logit asked about would lose on each image, were the neuron replaced; None where it was not measured."""
    ids = np.array(image_ids, np.int64)
    rows = np.minimum(np.searchsorted(effects.images, ids), len(effects.images) - 1)
    values = effects.reader.cells(f"{layer}/effect", rows, np.array(unit)).astype(np.float32)
    return listed(np.where(effects.images[rows] == ids, values, np.float32(np.nan)))


def columns_data(rows: Exemplars, unit: int, k: int, maps: Maps) -> Page:
    """A neuron's first k exemplars at one side, column by column, with their maps."""
    ids = rows.ids(unit, k)
    shown = slice(len(ids))
    return {
        "image": ids,
        "patch": rows.patch[unit, shown].tolist(),
        "pre": listed(rows.pre[unit, shown]),
        "post": listed(rows.post[unit, shown]),
        "map": maps[shown],
    }


def maps_data(atlas: Atlas, layer: str, side: Side, rows: Exemplars, units: Sequence[int], k: int) -> list[Maps]:
    """The maps of some neurons' first k exemplars: as bytes in base64 with the smallest and the largest value.

    value = min + code / 255 * (max - min), as FORMAT.md has it: of maps in bytes these are the codes of the index. None
    where a map is not stored.
    """
    reader, spec = atlas.index.reader, atlas.index.spec
    own = np.array(units, np.int64)
    if spec.maps == "none":
        return [[None] * k for _ in units]
    if spec.maps == "exemplars" and side != "top":  # some are there: of images that are top exemplars as well
        maps = [[stored_map(reader, spec, layer, unit, i) for i in rows.ids(unit, k)] for unit in units]
        return [[None if values is None else coded(values[None])[0] for values in of_one] for of_one in maps]
    there = rows.image[own, :k] >= 0
    there = there[:, : there.sum(1).max()]  # there are fewer images: where one is missing, the first stands in
    columns = (a[own, : there.shape[1]] for a in (rows.image, rows.patch, rows.pre))
    images, peaks, highs = (np.where(there, column, column[:, :1]) for column in columns)
    stored = top_maps(reader, spec, layer, own, images, peaks.astype(np.uint16), highs)
    return [coded(of_one) for of_one in stored]


def coded(maps: NDArray[np.float32]) -> Maps:
    """Maps [k, patch] as pages have them."""
    low, high = maps.min(1, keepdims=True), maps.max(1, keepdims=True)
    shares = np.divide(maps - low, high - low, out=np.zeros_like(maps), where=high > low)
    codes = np.rint(shares * np.float32(CODES)).astype(np.uint8)
    ends = zip(listed(low[:, 0]), listed(high[:, 0]), strict=True)
    return [{"codes": packed(own), "min": least, "max": most} for own, (least, most) in zip(codes, ends, strict=True)]


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
