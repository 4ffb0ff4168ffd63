"""Exact quantiles of neurons from the stored maps of all images: those that the table of neurons does not hold.

map_quantiles(index, {"blocks.4.mlp.fc1": np.array([473, 16])}, 0.95)    # float32 [unit] by layer
"""

from __future__ import annotations

from collections.abc import Iterator
from math import floor

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, silent
from ..stored.maps import stored_maps
from ..stored.stored_index import StoredIndex

Floats = NDArray[np.float32]
Units = dict[str, NDArray[np.int64]]
TAIL_VALUES = 20_000_000  # held at once; more units take more passes over the maps
MAPS_AT_ONCE = 10_000_000  # values of stored maps that are read together


def map_quantiles(
    index: StoredIndex, units: Units, share: float, progress: Progress | None = None
) -> dict[str, Floats]:
    """Quantiles over all patches of all readable images, by Hazen's definition, of values as the maps hold them.

    Of a unit's values only those from the quantile to the nearer end are held.

    Args:
        units: of each layer.
        share: of the values that lie below, 0 < share < 1.
        progress: told parts read, and all parts; once more for each pass over the maps.

    Returns:
        By layer: float32 [unit].

    Raises:
        QueryError: the maps of all images are not stored.

    Example:
        >>> map_quantiles(index, {"blocks.4.mlp.fc1": np.array([473])}, 0.95)
    """
    if index.spec.maps not in ("uint8", "float16"):
        raise QueryError(
            f"no quantile {share:g} here: it is not stored, and neither are the maps of all images",
            "Take q001, q50, q90, q99, q995 or q999, or index again with --maps uint8.",
        )
    readable = np.flatnonzero(index.reader.whole("valid"))
    values = len(readable) * index.spec.patches
    position = min(max(share * values - 0.5, 0.0), values - 1.0)
    held = values - floor(position) if share > 0.5 else min(floor(position) + 2, values)
    found: dict[str, list[Floats]] = {layer: [] for layer in units}
    turns = list(in_turns(units, max(1, TAIL_VALUES // held)))
    for turn, group in enumerate(turns):

        def tell(parts: int, total: int, turn: int = turn) -> None:
            (progress or silent)(turn * total + parts, len(turns) * total)

        for layer, ends in _ends(index, group, readable, held, share > 0.5, tell).items():
            ends.sort(axis=1)
            first = floor(position) - (values - held if share > 0.5 else 0)
            found[layer].append(_between(ends, first, position - floor(position)))
    return {layer: np.concatenate(pieces) for layer, pieces in found.items()}


def in_turns(units: Units, at_once: int) -> Iterator[Units]:
    """Units of layers, so many at once, in order."""
    group: Units = {}
    room = at_once
    for layer, left in units.items():
        while len(left):
            group[layer], left = left[:room], left[room:]
            room -= len(group[layer])
            if not room:
                yield group
                group, room = {}, at_once
    if group:
        yield group


def _ends(
    index: StoredIndex, units: Units, readable: NDArray[np.int64], held: int, largest: bool, progress: Progress
) -> dict[str, Floats]:
    """Each unit's `held` largest, or smallest, values over the maps of images: [unit, held], in no order."""
    ends = {layer: np.empty((len(chosen), 0), np.float32) for layer, chosen in units.items()}
    parts = index.spec.parts
    for done, part in enumerate(parts, 1):
        ids = readable[(readable >= part.start) & (readable < part.stop)]
        for layer, chosen in units.items():
            step = max(1, MAPS_AT_ONCE // (len(chosen) * index.spec.patches))
            for some in (ids[first : first + step] for first in range(0, len(ids), step)):
                maps = stored_maps(index.reader, index.spec, layer, chosen.tolist(), some.tolist())
                joined = np.concatenate([ends[layer], maps.transpose(1, 0, 2).reshape(len(chosen), -1)], 1)
                ends[layer] = _end(joined, held, largest)
        progress(done, len(parts))
    return ends


def _end(values: Floats, held: int, largest: bool) -> Floats:
    """The `held` largest, or smallest, values of every row; all where there are no more."""
    if values.shape[1] <= held:
        return values
    place = values.shape[1] - held if largest else held - 1
    parted = np.partition(values, place, axis=1)
    return (parted[:, place:] if largest else parted[:, :held]).copy()


def _between(ordered: Floats, first: int, share: float) -> Floats:
    """Between the values at `first` and after it, `share` of the way: [unit]."""
    low = ordered[:, first].astype(np.float64)
    high = ordered[:, min(first + 1, ordered.shape[1] - 1)].astype(np.float64)
    between: NDArray[np.float64] = low + share * (high - low)
    return between.astype(np.float32)
