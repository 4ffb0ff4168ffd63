"""All neurons as one Parquet file for Apple's Embedding Atlas: the atlas's map with what each neuron says and shows.

It needs no library of that tool: an image is a struct of bytes and path, neighbours a struct of ids (rows of the file,
from 0) and distances, as its documentation has them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.database import hearing_ctrl_c, quoted
from ...schemas.errors import QueryError
from ...schemas.progress import Progress, tracked
from ...schemas.storage.plain_files import replacing
from ...schemas.storage.room import check_room, trouble
from ..drawing.colours import Scale
from ..stored.maps import top_maps
from ..stored.names import Neuron
from ..stored.stored_index import StoredIndex
from .atlas import Atlas
from .placing import nearest_of, placing, points_of
from .spaces import Space
from .thumbnails import overlaid, thumbnail

ROWS = 512  # neurons made at once
ROW_GROUP = 2048  # rows of the file that a reader takes at once
NEIGHBOURS = 10
MEMORY = "1GB"  # for rows that are not written yet; more go to disk
ROW_BYTES = 400  # of a row without its image
MEASURED = 16  # images whose size tells how large all are
TYPES = {
    "id": "VARCHAR", "layer": "VARCHAR", "block": "INTEGER", "unit": "INTEGER", "x": "FLOAT", "y": "FLOAT",
    "says": "VARCHAR", "score": "FLOAT", "auroc": "FLOAT", "auroc_class": "VARCHAR", "effect": "FLOAT",
    "effect_class": "VARCHAR", "positive_share": "FLOAT", "post_mean": "FLOAT", "value_norm": "FLOAT",
    "dead": "BOOLEAN", "text": "VARCHAR",
}  # fmt: skip
STRUCTS = {  # each made of columns of its parts, and one of them
    "image": ("{'bytes': picture::BLOB, 'path': path::VARCHAR}", "picture"),
    "neighbors": ("{'ids': ids::BIGINT[], 'distances': distances::FLOAT[]}", "ids"),
}
NUMBERS = ("score", "auroc", "effect", "positive_share", "post_mean", "value_norm")
CLASSES = ("says", "auroc_class", "effect_class")  # written by name


def export_embedding_atlas(
    index: StoredIndex, out: str | Path, space: Space = "vectors", *, progress: Progress | None = None
) -> int:
    """Write all neurons that have value vectors to a Parquet file for Embedding Atlas, layer after layer.

    Columns: id (LAYER:UNIT), layer, block, unit; x, y: the place on the atlas's map; says, score: the class that the
    value vector says loudest; auroc, effect: the largest of all classes, with auroc_class and effect_class;
    positive_share, post_mean, value_norm, dead; text: the descriptions, else what it says; image: the first image with
    the map over it; neighbors: the 10 nearest by the cosine of value vectors, with 1 - cosine. What the index does not
    have has no column.

    Args:
        out: the file.
        space: the map of the atlas that gives x and y: 'vectors' or 'scores'. Neurons are arranged for it where that
            has not been done; without openTSNE x and y are two principal components.
        progress: told how far arranging is, then how many groups of 512 neurons are done.

    Returns:
        The number of rows.

    Raises:
        QueryError: no neuron has a value vector, an unknown space or one that the index does not have, no room.

    Example:
        >>> export_embedding_atlas(index, "neurons.parquet")
        4608
    """
    atlas, out = Atlas(index), Path(out)
    if not atlas.nearness.layers:
        raise QueryError("no neuron of this index has a value vector", "Index layers of fc1 or attn.")
    if space not in placing(atlas).spaces:
        raise QueryError(f"no space '{space}'", f"There is {' and '.join(placing(atlas).spaces)}.")
    placing(atlas).make(progress)
    points = points_of(atlas, space)
    rows = len(points)
    check_room(out.absolute().parent, rows * (ROW_BYTES + _image_bytes(atlas)))
    groups = _groups(atlas)
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as db, replacing(out) as part:
        db.execute(f"SET memory_limit = '{MEMORY}'")
        db.execute(f"SET temp_directory = {quoted(spill)}")
        try:
            with hearing_ctrl_c():
                for place, units in tracked(groups, progress):
                    _insert(db, _table(atlas, points, place, units))
                form = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP}, USE_TMP_FILE false"
                db.execute(f"COPY rows TO {quoted(part)} ({form})")
        except duckdb.Error as error:
            fact = f"{out} cannot be written: {trouble(error)}"
            raise QueryError(fact, "Make space, or choose another place.") from error
    return rows


def _groups(atlas: Atlas) -> list[tuple[int, range]]:
    """All neurons in the order of rows, some at once: a layer's place, and units of it."""
    return [
        (place, range(first, min(first + ROWS, layer.units)))
        for place, layer in atlas.nearness.layers
        for first in range(0, layer.units, ROWS)
    ]


def _first_rows(atlas: Atlas) -> dict[int, int]:
    """The first row of each layer, by its place."""
    near = atlas.nearness
    return {place: int(start) for start, (place, _) in zip(near.starts, near.layers, strict=False)}


def _table(atlas: Atlas, points: NDArray[np.float32], place: int, units: range) -> pd.DataFrame:
    """The rows of some neurons of a layer; the two structs are still in parts: image and path, ids and distances."""
    spec, first = atlas.index.spec.layers[place], _first_rows(atlas)[place] + units.start
    rows = range(first, first + len(units))
    held = {
        name: atlas.neurons.of_layer(place, name)[units.start : units.stop]
        for name, whole in atlas.neurons.columns.items()
        if not np.isnan(whole).all()
    }
    columns: dict[str, Any] = {
        "id": [str(Neuron(spec.name, unit)) for unit in units],
        "layer": spec.name,
        "block": spec.block,
        "unit": units,
        "x": points[rows, 0],
        "y": points[rows, 1],
        **{name: _named(atlas, held[name]) for name in CLASSES if name in held},
        **{name: held[name] for name in NUMBERS if name in held},
        "dead": held["dead"] > 0,
    }
    columns["text"] = _texts(atlas, spec.name, units, columns.get("says"))
    if atlas.index.spec.inputs:
        columns["picture"], columns["path"] = _pictures(atlas, place, units)
    columns["ids"], columns["distances"] = zip(*(_neighbours(atlas, row) for row in rows), strict=True)
    return pd.DataFrame(columns)


def _named(atlas: Atlas, classes: NDArray[np.float64]) -> list[str | None]:
    """Names of classes by number; None for NaN."""
    names = atlas.index.classes.name
    return [None if np.isnan(row) else str(names[int(row)]) for row in classes]


def _texts(atlas: Atlas, layer: str, units: range, says: list[str | None] | None) -> list[str | None]:
    """What neurons are described as, by whatever source, else the class that they say."""
    query = "SELECT unit, description FROM descriptions WHERE layer = ? ORDER BY unit, source"
    described: dict[int, list[str]] = {}
    for unit, text in atlas.index.tables.rows(query, [layer]):
        described.setdefault(unit, []).append(text)
    said = says or [None] * len(units)
    return ["; ".join(described[unit]) if unit in described else own for unit, own in zip(units, said, strict=True)]


def _pictures(atlas: Atlas, place: int, units: range) -> tuple[list[bytes | None], list[str | None]]:
    """Each neuron's first image, with its map over it where maps are stored, as a small JPEG; and the image's path."""
    index, layer = atlas.index, atlas.layer(place)
    top = atlas.exemplars(place)["top"]
    ids, peaks = top.image[units.start : units.stop, :1], top.patch[units.start : units.stop, :1]
    shown = np.flatnonzero(ids[:, 0] >= 0)
    pictures: list[bytes | None] = [None] * len(units)
    paths = [atlas.images.path[i] if i >= 0 else None for i in ids[:, 0]]
    if not len(shown):
        return pictures, paths
    order, which = np.unique(ids[shown, 0], return_inverse=True)
    pixels = index.inputs(order.tolist())[which]
    if index.spec.maps == "none":
        small = map(thumbnail, pixels)
    else:
        numbers = np.asarray(units)[shown]
        maps = top_maps(index.reader, index.spec, layer, numbers, ids[shown], peaks[shown].astype(np.uint16))
        quantiles = zip(*(atlas.neurons.of_layer(place, name)[numbers] for name in ("q001", "q999")), strict=True)
        scales = [
            Scale(min(float(a), float(values.min()), 0.0), max(float(b), float(values.max()), 0.0))
            for (a, b), values in zip(quantiles, maps, strict=True)
        ]
        small = map(overlaid, pixels, maps.reshape(len(shown), *index.spec.grid), scales)
    for row, picture in zip(shown, small, strict=True):
        pictures[row] = picture
    return pictures, paths


def _neighbours(atlas: Atlas, row: int) -> tuple[list[int], list[float]]:
    """The rows of the neurons nearest to one, nearest first, and how far they are: 1 - cosine."""
    found, first = nearest_of(atlas, row, NEIGHBOURS), _first_rows(atlas)
    return [first[place] + unit for place, unit, _ in found], [max(0.0, 1 - cosine) for _, _, cosine in found]


def _image_bytes(atlas: Atlas) -> int:
    """About how many bytes the picture of a neuron is, from some of them."""
    if not atlas.index.spec.inputs:
        return 0
    place, layer = atlas.nearness.layers[-1]
    pictures, _ = _pictures(atlas, place, range(min(MEASURED, layer.units)))
    return max(len(picture or b"") for picture in pictures)


def _insert(db: duckdb.DuckDBPyConnection, table: pd.DataFrame) -> None:
    """Put rows into the table `rows`, made where there is none."""
    columns = [f"{name}::{kind} AS {name}" for name, kind in TYPES.items() if name in table]
    structs = [f"{made} AS {name}" for name, (made, of) in STRUCTS.items() if of in table]
    db.register("part", table)
    query = f"SELECT {', '.join(columns + structs)} FROM part"
    db.execute(f"CREATE TABLE IF NOT EXISTS rows AS {query} LIMIT 0")
    db.execute(f"INSERT INTO rows {query}")
    db.unregister("part")
