"""A class's page as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..lookups.key_neurons import Ranking, classes_near, ranked_values
from .atlas import Atlas
from .exemplar_data import columns_data, images_data, maps_data
from .plain import Page, listed, plain

NEURONS = 8  # by each ranking
COUNTED = 100  # neurons whose layers are counted
EXEMPLARS = 6  # of each neuron
IMAGES = 24
NEAR = 8
CLASSES_KEPT = 16


@dataclass(frozen=True)
class _Contents:
    """What a class's page shows: neurons by ranking as [layer's place, unit, value], its images, all images."""

    ranked: dict[Ranking, list[tuple[int, int, float]]]
    own: NDArray[np.int64]
    shown: list[int]

    @property
    def neurons(self) -> list[tuple[int, int]]:
        """The first neurons of all rankings, each once."""
        first = ((place, unit) for rows in self.ranked.values() for place, unit, _ in rows[:NEURONS])
        return list(dict.fromkeys(first))


def class_page(atlas: Atlas, class_id: int) -> Page:
    """What an index holds of a class.

    Args:
        class_id: its row in the head.

    Returns:
        id, name, wnid; rankings: for each its first neurons as [layer's place, unit, value], and how many of its first
        hundred sit in each layer; neurons: 'PLACE:UNIT' of all of these with says, thresholds, exemplars; near: classes
        whose rows of the head point most nearly its way, with the cosine; answers: what the model takes its images for;
        own: its images with p_class, surest first; images: what is said of those shown.

    Raises:
        QueryError: no such class.
    """
    index, contents = atlas.index, _contents(atlas, class_id)
    answers, counts = np.unique(atlas.images.predicted[contents.own], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    near = classes_near(index, class_id)[:NEAR] if index.spec.classes > 1 else []
    return {
        "id": class_id,
        "name": index.class_name(class_id),
        "wnid": plain(index.classes.wnid[class_id]),
        "rankings": {by: _ranking(rows) for by, rows in contents.ranked.items()},
        "neurons": _cards(atlas, contents.neurons),
        "near": [[other, plain(np.float32(cosine))] for other, cosine in near],
        "answers": [[int(answers[i]), int(counts[i])] for i in order if answers[i] >= 0],
        "own": {
            "image": contents.own.tolist(),
            "p_class": listed(atlas.images.p_class[contents.own]),
            "shown": min(IMAGES, len(contents.own)),
        },
        "images": images_data(atlas.images, contents.shown),
    }


def pictures_of_class(atlas: Atlas, class_id: int) -> list[bytes]:
    """The pictures of a class's page, in the order of its `images`. Raises QueryError as class_page."""
    return atlas.thumbnails(_contents(atlas, class_id).shown)


def _contents(atlas: Atlas, class_id: int) -> _Contents:
    """What a class's page shows: kept for its pictures, which are asked for with its data."""
    of = atlas.once("contents of classes", lambda: lru_cache(CLASSES_KEPT)(lambda own: _found(atlas, own)))
    found: _Contents = of(class_id)
    return found


def _found(atlas: Atlas, class_id: int) -> _Contents:
    atlas.index.class_id(class_id)
    places = {layer.name: place for place, layer in enumerate(atlas.index.spec.layers)}
    ranked = {}
    for by in atlas.rankings:
        rows = ranked_values(atlas.index, class_id, COUNTED, by)
        if rows:
            ranked[by] = [(places[neuron.layer], neuron.unit, plain(np.float32(value))) for neuron, value in rows]
    own = atlas.images.of_class(class_id)
    contents = _Contents(ranked, own, [])
    tops = (i for place, unit in contents.neurons for i in atlas.exemplars(place)["top"].ids(unit, EXEMPLARS))
    return _Contents(ranked, own, list(dict.fromkeys([*own[:IMAGES].tolist(), *tops])))


def _ranking(rows: list[tuple[int, int, float]]) -> Page:
    layers, counts = np.unique([place for place, _, _ in rows], return_counts=True)
    layers_counted = [[int(place), int(count)] for place, count in zip(layers, counts, strict=True)]
    return {"neurons": [list(row) for row in rows[:NEURONS]], "layers": layers_counted, "counted": len(rows)}


def _cards(atlas: Atlas, neurons: list[tuple[int, int]]) -> Page:
    """What is said of some neurons, layer by layer: their maps are read together."""
    found: Page = {}
    columns = atlas.neurons.columns
    for place in sorted({place for place, _ in neurons}):
        units, top = [unit for own, unit in neurons if own == place], atlas.exemplars(place)["top"]
        maps = maps_data(atlas, atlas.layer(place), "top", top, units, EXEMPLARS)
        for unit, own_maps in zip(units, maps, strict=True):
            row = atlas.neurons.row(place, unit)
            found[f"{place}:{unit}"] = {
                "says": atlas.says(place, unit),
                "thresholds": {name: plain(columns[name][row]) for name in ("q001", "q999")},
                "exemplars": columns_data(top, unit, EXEMPLARS, own_maps),
            }
    return found
