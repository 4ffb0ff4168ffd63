"""From an image to its neurons: which of them are a token's largest, and what their value vectors say."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ..stored.maps import stored_maps
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
        Columns layer, block, unit, tokens (on how many it is among the five), first (on how many the largest),
        activation (before the nonlinearity: its largest on the asked tokens, register tokens left out; missing where
        the image's map is not stored), says (the class that its value vector says loudest, by score), class (the
        image's), and of that class: score, rank_in_unit (the class among the neuron's classes), rank_in_layer (the
        neuron among the layer's for the class). Most tokens first within a block. Layers without value vectors are in
        it only where `layer` names them. What is not defined is missing: `says` without a head, the last four for an
        image without a class.

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
    chosen = [s for s in index.spec.layers if s.name == layer] or index.hidden_layers or index.spec.layers
    for spec in chosen:
        top = index.reader.cell(f"{spec.name}/token_top", image_id)[tokens]
        units, counts = np.unique(top, return_counts=True)
        largest = (top[:, :1] == units).sum(0)
        frame = pd.DataFrame(
            {"layer": spec.name, "block": spec.block, "unit": units, "tokens": counts, "first": largest}
        )
        frame["activation"] = _activation(index, spec.name, units, image_id, patch)
        frame = frame.merge(_said(index, spec.name, image_id), "left", "unit")
        frames.append(frame.sort_values(["tokens", "first", "unit"], ascending=[False, False, True]))
    whole = {"rank_in_unit": "Int64", "rank_in_layer": "Int64"}  # missing in some rows, and numbers none the less
    return pd.concat(frames, ignore_index=True).astype(whole)


def _activation(
    index: StoredIndex, layer: str, units: NDArray[np.int64], image_id: int, patch: int | str | None
) -> NDArray[np.float32]:
    """The units' largest value on the asked tokens: float32 [unit]; NaN where a patch's is not stored."""
    if patch is not None and patch != "cls":
        if index.spec.maps not in ("uint8", "float16"):
            return np.full(len(units), np.nan, np.float32)
        maps = stored_maps(index.reader, index.spec, layer, units.tolist(), [image_id])
        return maps.reshape(len(units), -1)[:, int(patch)]
    names = [*(["max"] if patch is None else []), *(["cls"] if index.spec.cls else [])]
    values = [index.reader.cell(f"{layer}/{name}", image_id)[units] for name in names]
    largest: NDArray[np.float32] = np.max(values, axis=0)
    return largest


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
    """What the units of a layer say: unit, says; the image's class, and its score, rank_in_unit, rank_in_layer."""
    return index.sql(
        "WITH own AS (SELECT unit, class, score, rank_in_unit, rank_in_layer FROM class_scores JOIN classes "
        "USING (class_id) WHERE layer = $1 AND class_id = (SELECT class_id FROM images WHERE image_id = $2)) "
        "SELECT b.unit, c.class AS says, own.class, own.score, own.rank_in_unit, own.rank_in_layer FROM class_scores b "
        "JOIN classes c USING (class_id) LEFT JOIN own USING (unit) WHERE b.layer = $1 AND b.rank_in_unit = 1",
        [layer, image_id],
    )
