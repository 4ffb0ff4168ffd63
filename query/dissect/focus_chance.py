"""What the search for a class's first neuron finds by chance: the same search with heads that mean nothing.

A class's first neuron with a shuffled head (see drawings) is one of those that the ranking likes anyhow, such as those
that are often on, and says nothing of the class.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..lookups.key_neurons import Ranking
from ..stored.stored_index import StoredIndex
from .drawings import drawn_heads
from .value_vectors import whole_vectors

Floats = NDArray[np.float32]


def found_by_chance(index: StoredIndex, by: Ranking, layer: str | None, seed: int) -> pd.DataFrame:
    """Every class's first neuron in every drawing: class_id, layer, block, unit.

    Args:
        by: the ranking; 'auroc' knows no head, so that shuffling it finds nothing: no rows.
        layer: only neurons of this layer.
        seed: of the drawings.
    """
    layers = [spec for spec in index.ranked_layers if layer in (None, spec.name)]
    if by == "auroc" or not layers:
        return pd.DataFrame({"class_id": [], "layer": [], "block": [], "unit": []})
    places = [{"layer": spec.name, "block": spec.block, "unit": np.arange(spec.units)} for spec in layers]
    units = pd.concat([pd.DataFrame(place) for place in places], ignore_index=True)
    names = [spec.name for spec in layers]
    vectors = np.concatenate([*whole_vectors(index, names, by in ("folded", "contribution")).values()])
    activity = _activity(index, names) if by == "contribution" else None
    drawings: list[pd.DataFrame] = [
        units.iloc[_ranked(head, vectors, by, activity).argmax(1)].assign(class_id=np.arange(len(head)))
        for head in drawn_heads(index.reader.whole("head"), seed)
    ]
    return pd.concat(drawings, ignore_index=True)


def _activity(index: StoredIndex, layers: list[str]) -> Floats:
    """What a unit's folded score is multiplied with in its contribution: [class, unit]; NaN where nothing is known."""
    columns = []
    for layer in layers:
        table = index.look_up(
            "SELECT contribution / nullif(folded, 0) AS activity FROM key_neurons WHERE layer = ? "
            "ORDER BY class_id, unit",
            [layer],
        )
        columns.append(table.activity.to_numpy(np.float32).reshape(index.spec.classes, -1))
    return np.concatenate(columns, 1)


def _ranked(head: Floats, vectors: Floats, by: Ranking, activity: Floats | None) -> Floats:
    """The ranking's value of every unit for every class: [class, unit]; the smallest where it has none."""
    values: Floats = head @ vectors.T
    if by == "cosine":
        values = values / np.linalg.norm(vectors, axis=1)  # and by the row's length, which changes no order
    elif by == "probability":
        values = np.exp(values - values.max(0))
        values = values / values.sum(0)
    elif activity is not None:
        values = values * activity
    return np.where(np.isnan(values), np.float32(-np.inf), values)
