"""From an image to its neurons: which of them are a token's largest, and what their value vectors say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...schemas.errors import QueryError
from ..stored.stored_index import StoredIndex


def firing_neurons(
    index: StoredIndex, image: str | int, patch: int | str | None = None, layer: str | None = None
) -> pd.DataFrame:
    """Neurons that are among the five largest (before the nonlinearity) of a token of an image, by block.

    Args:
        image: by number, path, or the end of a path.
        patch: one patch by its number, 'cls' for the CLS token, or None for all tokens (prefix tokens included).
        layer: only this layer.

    Returns:
        Columns layer, block, unit, tokens (on how many it is among the five), first (on how many the largest), class
        (what its value vector says loudest, by score), and for the image's own class: score, rank_in_unit (the class
        among the neuron's classes), rank_in_layer (the neuron among the layer's for the class). Most tokens first
        within a block. The class columns are missing without a head, or for an image without a class.

    Raises:
        QueryError: an unknown image, patch or layer, or an unreadable image.

    Example:
        >>> firing_neurons(index, "bird/000.jpg", patch=27)
    """
    image_id = index.readable(image)
    tokens = _tokens(index, patch)
    if layer is not None:
        index.neuron_layer(layer, 0)
    frames = []
    for spec in (s for s in index.spec.layers if layer in (None, s.name)):
        top = index.reader.cell(f"{spec.name}/token_top", image_id)[tokens]
        units, counts = np.unique(top, return_counts=True)
        largest = (top[:, :1] == units).sum(0)
        frame = pd.DataFrame(
            {"layer": spec.name, "block": spec.block, "unit": units, "tokens": counts, "first": largest}
        )
        frame = frame.merge(_said(index, spec.name, image_id), "left", "unit")
        frames.append(frame.sort_values(["tokens", "first", "unit"], ascending=[False, False, True]))
    return pd.concat(frames, ignore_index=True)


def _tokens(index: StoredIndex, patch: int | str | None) -> slice:
    """The asked tokens among all of an image, prefix tokens first."""
    if patch is None:
        return slice(None)
    if patch == "cls":
        if not index.spec.cls:
            raise QueryError("this model has no CLS token", "Give a patch by its number.")
        return slice(0, 1)
    if not str(patch).isdecimal() or int(patch) >= index.spec.patches:
        raise QueryError(f"no patch '{patch}'", f"Patches count from 0 to {index.spec.patches - 1}, or 'cls'.")
    token = index.spec.prefix + int(patch)
    return slice(token, token + 1)


def _said(index: StoredIndex, layer: str, image_id: int) -> pd.DataFrame:
    """What the units of a layer say: unit, class, and score, rank_in_unit, rank_in_layer for the image's class."""
    return index.sql(
        "WITH own AS (SELECT unit, score, rank_in_unit, rank_in_layer FROM class_scores WHERE layer = $1 "
        "AND class_id = (SELECT class_id FROM images WHERE image_id = $2)) "
        "SELECT b.unit, class, own.score, own.rank_in_unit, own.rank_in_layer FROM class_scores b "
        "JOIN classes USING (class_id) LEFT JOIN own USING (unit) WHERE b.layer = $1 AND b.rank_in_unit = 1",
        [layer, image_id],
    )
