"""Maps of neurons on any images: stored ones, and where they are not stored the model's own, computed anew.

maps = MapSource(index)
maps("blocks.4.mlp.fc1", [7, 9], [0, 1])    # float32 [image, unit, rows, columns]; loads torch only where it must
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import erf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..stored.maps import exemplar_maps, stored_maps
from ..stored.stored_index import StoredIndex

if TYPE_CHECKING:
    from .live_model import LiveModel
    from .replacement import Substitute


class MapSource:
    """Reads maps of an index; opens its model at most once, and only where maps are missing.

    weights, device: what `open_model` takes, for models that are neither packaged nor on timm's hub.
    """

    def __init__(self, index: StoredIndex, weights: str | Path | None = None, device: str | None = None) -> None:
        self.index, self.weights, self.device = index, weights, device

    @cached_property
    def live(self) -> LiveModel:
        """The model behind the index. Imports torch."""
        from .live_model import open_model

        return open_model(self.index, self.weights, self.device)

    @cached_property
    def means(self) -> Substitute:
        """The mean of every neuron on every kind of token; each is looked up once. Imports torch."""
        from .replacement import Substitute

        return Substitute(self.live, "mean")

    def __call__(self, layer: str, units: Sequence[int], image_ids: Sequence[int]) -> NDArray[np.float32]:
        """Values as indexed: float32 [image, unit, rows, columns]; NaN where an image was unreadable.

        Raises QueryError for unknown names, and where a map is neither stored nor computable (`--no-inputs`);
        ModelError where the model's weights are not the index's.
        """
        index, spec = self.index, self.index.spec
        units = [int(unit) for unit in units]
        ids = [index.image_id(i) for i in image_ids]
        for unit in units:
            index.neuron_layer(layer, unit)
        if spec.maps == "none":
            return self.live.maps(layer, units, ids)
        if spec.maps == "exemplars":
            return self._exemplar_maps(layer, units, ids)
        return stored_maps(index.reader, spec, layer, units, ids).reshape(len(ids), len(units), *spec.grid)

    def activated(self, layer: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values after the model's own nonlinearity; units without one as they are. Only others than GELU need the
        model."""
        if self.index.neuron_layer(layer, 0).kind != "hidden":
            return values
        if self.index.spec.activation != "GELU":
            return self.live.activated(layer, values)
        phi = np.array([erf(v / 2**0.5) for v in values.ravel().tolist()]).reshape(values.shape)
        after: NDArray[np.float32] = (values * (1 + phi) / 2).astype(np.float32)
        return after

    def _exemplar_maps(self, layer: str, units: list[int], ids: list[int]) -> NDArray[np.float32]:
        """The stored maps of top exemplars, and the model's for all other pairs of image and neuron."""
        maps, stored = exemplar_maps(self.index.reader, self.index.spec, layer, units, ids)
        maps = maps.reshape(*stored.shape, *self.index.spec.grid)
        rows, columns = np.flatnonzero(~stored.all(1)), np.flatnonzero(~stored.all(0))
        if len(rows):
            anew = self.live.maps(layer, [units[c] for c in columns], [ids[r] for r in rows])
            block = np.ix_(rows, columns)
            maps[block] = np.where(stored[block][..., None, None], maps[block], anew)
        return maps
