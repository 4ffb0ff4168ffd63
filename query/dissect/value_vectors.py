"""Value vectors of whole layers, for what compares all units with all classes at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..stored.stored_index import StoredIndex


def whole_vectors(index: StoredIndex, layers: Sequence[str], folded: bool = False) -> dict[str, NDArray[np.float32]]:
    """Value vectors [unit, d] by layer, as stored or with all gains folded in; every array is read once."""
    places = {layer: index.vectors_of(layer) for layer in layers}
    paths = {layer: arrays.folded if folded else arrays.vectors for layer, (arrays, _) in places.items()}
    whole = {path: index.reader.whole(path) for path in {*paths.values()}}
    return {layer: whole[paths[layer]][place] for layer, (_, place) in places.items()}
