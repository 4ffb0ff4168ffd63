"""Neurons near one: whose value vectors point its way, and who fire most for the same images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ...schemas.run_spec import EXEMPLARS
from ..stored.stored_index import StoredIndex
from .ahead import Ahead
from .columns import must_be_there

SPARE = 4  # neurons more than are asked for: rounding may turn the order of near ones
Near = list[tuple[int, int, float]]  # a layer's place among all layers, a unit, how near


class Nearness:
    """All neurons with value vectors, as rows: of a matrix of directions, and of one of top exemplars.

    36,864 neurons of 768 features and 100 exemplars take 180 MB.
    """

    def __init__(self, index: StoredIndex) -> None:
        self.index = index
        places = {layer.name: place for place, layer in enumerate(index.spec.layers)}
        self.layers = [(places[layer.name], layer) for layer in index.ranked_layers]
        units = [layer.units for _, layer in self.layers]
        self.starts = np.concatenate([[0], np.cumsum(units)]).astype(np.int64)
        self.place = np.repeat([place for place, _ in self.layers], units)  # [row], the layer's place
        self.unit = np.concatenate([np.arange(n) for n in units]) if units else np.empty(0, np.int64)  # [row]
        self._cosines = Ahead(lambda first, end: self.directions[first:end] @ self.directions.T)
        if self.layers:
            self.directions, self.shown = self._directions(), self._shown()

    def row(self, place: int, unit: int) -> int | None:
        """A neuron's row; None for a coordinate of the stream, which has no value vector."""
        for start, (own, _) in zip(self.starts, self.layers, strict=False):
            if own == place:
                return int(start) + unit
        return None

    def _directions(self) -> NDArray[np.float32]:
        """Value vectors of length 1: float32 [row, feature]; zero where the vector is."""
        rows = np.empty((len(self.unit), self.index.spec.features), np.float32)
        for start, (_, layer) in zip(self.starts, self.layers, strict=False):
            names, at = self.index.vectors_of(layer.name)
            rows[start : start + layer.units] = self.index.reader.chunk(names.vectors, at)[0]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        np.divide(rows, lengths, out=rows, where=lengths > 0)
        return rows

    def _shown(self) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Which images are among each neuron's top exemplars: 1 at [row, image], and the same turned round."""
        rows, images = [], []
        for start, (_, layer) in zip(self.starts, self.layers, strict=False):
            query = "SELECT unit, image_id FROM exemplars WHERE layer = ? AND side = 'top' AND token = 'patch'"
            found = self.index.look_up(query, [layer.name])
            must_be_there("neuron", found.unit, layer.units)
            must_be_there("image", found.image_id, self.index.spec.images)
            rows.append(start + found.unit.to_numpy(np.int64))
            images.append(found.image_id.to_numpy(np.int64))
        at = (np.concatenate(rows), np.concatenate(images))
        ones = np.ones(len(at[0]), np.int32)
        matrix = sparse.csr_array((ones, at), shape=(len(self.unit), self.index.spec.images))
        return matrix, matrix.T.tocsr()

    def by_vectors(self, row: int, k: int, known: NDArray[np.int64] | None = None) -> Near:
        """The k neurons with the largest cosine of value vectors, nearest first; itself left out.

        known: rows of at least so many nearest ones, where they have been found before. However they were found, alone
        or with others, each cosine is made anew, so that a page is the same whenever it is asked for.
        """
        if known is None or len(known) < k:
            known = self._largest(self._cosines.of(row, len(self.unit)), row, k + SPARE)
        cosines = [float(np.dot(self.directions[i], self.directions[row])) for i in known]
        best = sorted(zip(known.tolist(), cosines, strict=True), key=lambda one: (-one[1], one[0]))[:k]
        return [(int(self.place[i]), int(self.unit[i]), cosine) for i, cosine in best]

    def by_images(self, row: int, k: int) -> Near:
        """The k neurons that share most of their top exemplars with it, and how many."""
        matrix, turned = self.shown
        images = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
        if not len(images):  # no readable image
            return []
        others = [turned.indices[turned.indptr[i] : turned.indptr[i + 1]] for i in images]
        counts = np.bincount(np.concatenate(others), minlength=len(self.unit))
        return [(int(self.place[i]), int(self.unit[i]), int(counts[i])) for i in self._largest(counts, row, k)]

    @property
    def compared(self) -> int:
        """How many of a neuron's top exemplars are compared."""
        return min(EXEMPLARS, int(self.index.manifest["images"]["indexed"]))

    @property
    def by_chance(self) -> float:
        """How many of them two neurons share whose images are drawn."""
        return self.compared**2 / int(self.index.manifest["images"]["indexed"])

    def _largest(self, near: NDArray[Any], row: int, k: int) -> NDArray[np.int64]:
        """The rows of the k largest but the own, largest first; ties to the earlier neuron."""
        k = min(k, len(near) - 1)
        if k < 1:
            return np.empty(0, np.int64)
        far = -near  # of counts most are equal: from this end partition is ten times as fast
        far[row] = 2  # beyond any cosine and any count
        best = np.flatnonzero(far <= np.partition(far, k - 1)[k - 1])
        return best[np.argsort(far[best], kind="stable")][:k]
