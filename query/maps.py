"""What an index holds of images: their pixels, and maps of neurons. Maps that are not stored are computed anew.

maps = MapReader(index)
maps("blocks.4.mlp.fc1", [7, 9], [0, 1])    # float32 [image, unit, rows, columns]; loads torch only where it must
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.codes import decode_map
from ..schemas.errors import QueryError
from .index import Index

if TYPE_CHECKING:
    from .live import LiveModel


class MapReader:
    """Reads maps of an index; opens its model at most once, and only where maps are missing.

    weights: what `open_model` takes, for models that are neither packaged nor on timm's hub.
    """

    def __init__(self, index: Index, weights: str | Path | None = None) -> None:
        self.index, self.weights = index, weights

    @cached_property
    def live(self) -> LiveModel:
        """The model behind the index. Imports torch."""
        from .live import open_model

        return open_model(self.index, self.weights)

    def __call__(self, layer: str, units: Sequence[int], image_ids: Sequence[int]) -> NDArray[np.float32]:
        """Pre-GELU values: float32 [image, unit, rows, columns], all in memory; NaN where an image was unreadable.

        Raises QueryError for unknown names, and where a map is neither stored nor computable (`--no-inputs`);
        ModelError where the model's weights are not the index's.
        """
        units = [int(unit) for unit in units]
        ids = [self.index.image_id(i) for i in image_ids]
        for unit in units:
            self.index.neuron_layer(layer, unit)
        stored = self.index.spec.maps
        if stored == "none":
            return self.live.maps(layer, units, ids)
        if stored == "exemplars":
            return self._exemplar_maps(layer, units, ids)
        values = self._select(layer, "map", ids, units)
        if stored == "uint8":
            low, high = (self._select(layer, leaf, ids, units) for leaf in ("min", "max"))
            values = decode_map(values, low, high)
        return values.astype(np.float32).reshape(len(ids), len(units), *self.index.spec.grid)

    def _exemplar_maps(self, layer: str, units: list[int], ids: list[int]) -> NDArray[np.float32]:
        """The stored maps of top exemplars, and the model's for all other pairs of image and neuron."""
        low, high = (self._select(layer, leaf, ids, units) for leaf in ("min", "max"))
        ranks = self._ranks(layer, units, ids)
        out = np.empty((*ranks.shape, self.index.spec.patches), np.float32)
        for column, unit in enumerate(units):
            rows = np.flatnonzero(ranks[:, column])
            if len(rows):
                kept = self.index.arrays[f"{layer}/exemplar_map"].oindex[unit, ranks[rows, column] - 1, :]
                out[rows, column] = decode_map(np.asarray(kept), low[rows, column], high[rows, column])
        out = out.reshape(*ranks.shape, *self.index.spec.grid)
        missing = ranks == 0
        rows, columns = np.flatnonzero(missing.any(1)), np.flatnonzero(missing.any(0))
        if len(rows):
            anew = self.live.maps(layer, [units[c] for c in columns], [ids[r] for r in rows])
            block = np.ix_(rows, columns)
            out[block] = np.where(missing[block][..., None, None], anew, out[block])
        return out

    def _ranks(self, layer: str, units: list[int], ids: list[int]) -> NDArray[np.int64]:
        """Ranks among a neuron's top exemplars: [image, unit], 0 where an image is not among them."""
        found = self.index.sql(
            "SELECT image_id, unit, rank FROM exemplars WHERE layer = ? AND side = 'top' AND token = 'patch' "
            "AND list_contains(?, unit) AND list_contains(?, image_id)",
            [layer, units, ids],
        )
        rank = {(i, u): r for i, u, r in found.itertuples(index=False)}
        return np.array([[rank.get((i, u), 0) for u in units] for i in ids])

    def _select(self, layer: str, leaf: str, ids: list[int], units: list[int]) -> NDArray[Any]:
        return np.asarray(self.index.arrays[f"{layer}/{leaf}"].oindex[ids, units])


def maps_of(
    index: Index, layer: str, units: Sequence[int], image_ids: Sequence[int], weights: str | Path | None = None
) -> NDArray[np.float32]:
    """Maps of a layer's neurons on images, stored or computed anew, see MapReader."""
    return MapReader(index, weights)(layer, units, image_ids)


def stored_inputs(index: Index, image_ids: Sequence[int]) -> NDArray[np.uint8]:
    """The pixels that the model saw: uint8 [image, y, x, channel]. Raises QueryError where none are stored."""
    if not index.spec.inputs:
        raise QueryError("this index stores no inputs (--no-inputs)", "Index again without --no-inputs.")
    return np.stack([np.asarray(index.arrays["inputs"][index.image_id(i)]) for i in image_ids])
