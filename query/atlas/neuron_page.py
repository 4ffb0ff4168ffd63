"""A neuron's page as plain data."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ..lookups.neuron import QUANTILES
from ..notes.database import notes_stamp
from ..notes.generated_images import read_picture
from ..stored.names import Neuron
from .atlas import Atlas
from .columns import SHOWN, STATISTICS
from .exemplar_data import exemplars_data, images_data
from .placing import nearest_of
from .plain import Page, listed, plain
from .thumbnails import thumbnail

CLASSES = 8  # for it, and against it, by each ranking
NEAR = 8
BINS = 48
SELDOM = 0.001  # share of patches
LONGEST = 0.99  # quantile of its layer's value vectors
GENERATED = ("id", "class_id", "recipe", "step", "post_mean", "ratio", "percentile")


def neuron_page(atlas: Atlas, place: int, unit: int) -> Page:
    """All that an index holds of a neuron.

    Args:
        place: the layer's place among all layers, from 0; unit: the neuron in it.

    Returns:
        layer, unit, block; statistics, thresholds; histogram (of each image's largest patch: low, high, counts);
        exemplars by side, column by column, with maps; images: what is said of those shown; classes for and against by
        ranking, as [class_id, value]; says: the class that it says loudest; near: by vectors and by images; flags;
        descriptions, generated; code: the same question in Python and SQL.

    Raises:
        QueryError: no such neuron.
    """
    index, layer = atlas.index, atlas.layer(place)
    spec = index.neuron_layer(layer, unit)
    row, columns = atlas.neurons.row(place, unit), atlas.neurons.columns
    return {
        "layer": place,
        "unit": unit,
        "block": spec.block,
        "kind": spec.kind,
        "statistics": {name: plain(columns[name][row]) for name in STATISTICS if name != "dead"},
        "thresholds": {name: plain(columns[name][row]) for name in QUANTILES},
        "histogram": _histogram(index.reader.cell(f"{layer}/max_by_neuron", unit)),
        "exemplars": exemplars_data(atlas, place, unit),
        "images": images_data(atlas.images, _shown(atlas, place, unit)),
        "classes": {by: extremes(values[:, unit]) for by, values in atlas.classes(place).items()},
        "says": atlas.says(place, unit),
        "near": _near(atlas, place, unit),
        "flags": flags(atlas, place, unit),
        "descriptions": _descriptions(atlas, layer, unit),
        "generated": _generated(atlas, layer, unit),
        "code": _code(index.name, Neuron(layer, unit)),
    }


def pictures_of(atlas: Atlas, place: int, unit: int) -> list[bytes]:
    """The pictures of a neuron's page: its images in the page's order, each once, then its generated images.

    An empty one stands where a generated image cannot be shown. Raises QueryError where the index stores no inputs.
    """
    index, layer = atlas.index, atlas.layer(place)
    index.neuron_layer(layer, unit)
    pictures = atlas.thumbnails(_shown(atlas, place, unit))
    for row in _generated(atlas, layer, unit):
        try:
            pixels = read_picture(index.layout, row["id"], index.spec.preprocessing["input_size"][1:])
            pictures.append(thumbnail(pixels))
        except QueryError:
            pictures.append(b"")
    return pictures


def flags(atlas: Atlas, place: int, unit: int) -> list[str]:
    """What is remarkable about a neuron: 'dead', 'silent', 'seldom', 'long', as the front end words them."""
    row, columns, says = atlas.neurons.row(place, unit), atlas.neurons.columns, atlas.says(place, unit)
    if columns["dead"][row]:
        return ["dead"]
    auroc, lengths = atlas.classes(place).get("auroc"), atlas.neurons.of_layer(place, "value_norm")
    long = atlas.once(("long", place), lambda: np.quantile(lengths, LONGEST))
    found = {
        "silent": says >= 0 and auroc is not None and auroc[says, unit] < 0.5,
        "seldom": columns["positive_share"][row] < SELDOM,
        "long": lengths[unit] >= long,
    }
    return [name for name, holds in found.items() if holds]


def extremes(values: NDArray[np.float32]) -> Page:
    """The classes with the largest values, largest first, and with the smallest, smallest first; none in both."""
    order = np.argsort(-values, kind="stable")
    order = order[np.isfinite(values[order])]
    ahead = min(CLASSES, (len(order) + 1) // 2)
    first, last = order[:ahead], order[ahead:][-CLASSES:][::-1]
    return {"for": [[int(c), plain(values[c])] for c in first], "against": [[int(c), plain(values[c])] for c in last]}


def _shown(atlas: Atlas, place: int, unit: int) -> list[int]:
    """The images on a neuron's page, each once."""
    sides = atlas.exemplars(place)
    return list(dict.fromkeys(i for side, rows in sides.items() for i in rows.ids(unit, SHOWN[side])))


def _histogram(maxima: NDArray[np.float32]) -> Page:
    """How the images' largest patches are spread."""
    known = maxima[np.isfinite(maxima)]
    counts, edges = np.histogram(known, BINS)
    low, high = (np.float32(edge) for edge in (edges[0], edges[-1]))
    return {"low": plain(low), "high": plain(high), "counts": counts.tolist(), "images": len(known)}


def _near(atlas: Atlas, place: int, unit: int) -> Page:
    """Its nearest neurons, as [layer's place, unit, how near, the class it says]: by cosine, by images shared."""
    near = atlas.nearness
    row = near.row(place, unit)
    if row is None:
        return {"vectors": [], "images": [], "shared": 0, "chance": None}
    vectors = [[p, u, plain(np.float32(value)), atlas.says(p, u)] for p, u, value in nearest_of(atlas, row, NEAR)]
    images = [[p, u, count, atlas.says(p, u)] for p, u, count in near.by_images(row, NEAR)]
    return {"vectors": vectors, "images": images, "shared": near.compared, "chance": round(near.by_chance, 1)}


def _descriptions(atlas: Atlas, layer: str, unit: int) -> list[Page]:
    if notes_stamp(atlas.index.layout) is None:  # nobody has added any
        return []
    columns = ("source", "description", "note")
    query = f"SELECT {', '.join(columns)} FROM descriptions WHERE layer = ? AND unit = ? ORDER BY source"
    return [dict(zip(columns, row, strict=True)) for row in atlas.index.tables.rows(query, [layer, unit])]


def _generated(atlas: Atlas, layer: str, unit: int) -> list[Page]:
    if notes_stamp(atlas.index.layout) is None:
        return []
    query = f"SELECT {', '.join(GENERATED)} FROM generated WHERE layer = ? AND unit = ? AND id IS NOT NULL ORDER BY id"
    rows = atlas.index.tables.rows(query, [layer, unit])
    return [dict(zip(GENERATED, listed(row), strict=True)) for row in rows]


def _code(name: str, neuron: Neuron) -> dict[str, str]:
    layer = neuron.layer.replace("'", "''")
    python = f"Index({json.dumps(name)}).neuron({json.dumps(neuron.layer)}, {neuron.unit})"
    return {
        "python": f"from vitdex.query import Index\n\n{python}",
        "sql": f"FROM key_neurons WHERE layer = '{layer}' AND unit = {neuron.unit} ORDER BY score DESC",
    }
