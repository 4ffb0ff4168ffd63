"""Images by what a group of neurons does on them: the strongest ones, and the nearest to one of them.

top_images(index, ["blocks.4.mlp.fc1:473", ("blocks.5.mlp.fc1", 16)], k=20, aggregate="min")
neighbours(index, "coin/013.jpg", ["blocks.5.mlp.fc1"], metric="cosine")     # all units of a layer

A neuron's value on an image is its largest patch. All images are compared, none sampled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ..stored.names import Neuron, NeuronLike, at_least
from ..stored.stored_index import StoredIndex

Group = Sequence[NeuronLike]  # a text may also be LAYER: all its units
Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Piece = tuple[str, int, NDArray[np.int64]]

Aggregate = Literal["mean", "max", "min", "sum"]
Metric = Literal["l1", "l2", "cosine"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)
METRICS: tuple[Metric, ...] = get_args(Metric)
THREADS = os.cpu_count() or 1
ROWS_AT_ONCE = 8  # added in float32; such sums are added in float64


def top_images(index: StoredIndex, neurons: Group, k: int = 20, aggregate: Aggregate = "mean") -> pd.DataFrame:
    """The k images with the largest aggregate over a group of neurons.

    Args:
        neurons: neurons, or 'LAYER' for all units of a layer; one that is named twice counts once.
        k: how many.
        aggregate: 'mean', 'max', 'min' or 'sum' over the neurons of each one's largest patch (LAYER/max).

    Returns:
        Columns rank, image_id, value, path, label. Ties go to the lower image_id; unreadable images are left out.

    Raises:
        QueryError: an unknown layer, unit or aggregate, or an empty group.

    Example:
        >>> top_images(index, ["blocks.4.mlp.fc1:473", ("blocks.5.mlp.fc1", 16)], k=20, aggregate="min")
    """
    at_least(1, k=k)
    if aggregate not in AGGREGATES:
        raise QueryError(f"no aggregate '{aggregate}'", f"One of {', '.join(AGGREGATES)}.")
    group = members(index, neurons)
    combine = {"max": np.maximum, "min": np.minimum}.get(aggregate, np.add)
    values = _over(index, group, lambda rows, _: rows, combine)
    if aggregate == "mean":
        values /= sum(len(units) for units in group.values())
    return _first(index, values, k, "value", largest=True)


def neighbours(
    index: StoredIndex, image: str | int, neurons: Group, k: int = 20, metric: Metric = "cosine"
) -> pd.DataFrame:
    """The k images nearest to one in the space of a group of neurons.

    Args:
        image: by number, path, or the end of a path; it is left out itself.
        neurons: as in top_images; a neuron's value on an image is its largest patch (LAYER/max).
        k: how many.
        metric: 'l1' (sum of absolute differences), 'l2' (Euclidean), 'cosine' (1 - cosine; an image on which all
            neurons are 0 has none and is left out).

    Returns:
        Columns rank, image_id, distance, path, label. Ties go to the lower image_id; unreadable images are left out.

    Raises:
        QueryError: an unknown image, layer, unit or metric, an empty group, or an unreadable image.

    Example:
        >>> neighbours(index, "coin/013.jpg", ["blocks.5.mlp.fc1"], k=9)
    """
    at_least(1, k=k)
    if metric not in METRICS:
        raise QueryError(f"no metric '{metric}'", f"One of {', '.join(METRICS)}.")
    group, here = members(index, neurons), index.image_id(image)
    if metric == "l1":
        distances = _over(index, group, lambda rows, own: np.abs(rows - own), here=here)
    elif metric == "l2":
        distances = np.sqrt(_over(index, group, lambda rows, own: np.square(rows - own), here=here))
    else:
        dots = _over(index, group, lambda rows, own: rows * own, here=here)
        norms = np.sqrt(_over(index, group, lambda rows, _: np.square(rows)))
        with np.errstate(invalid="ignore"):  # 0 / 0, an image without a direction
            distances = 1 - dots / (norms * norms[here])
    if np.isnan(distances[here]):
        raise QueryError(f"image {here} has no place among these neurons", "It could not be read, or all are 0 on it.")
    distances[here] = np.nan
    return _first(index, distances, k, "distance", largest=False)


def members(index: StoredIndex, neurons: Group) -> dict[str, NDArray[np.int64]]:
    """The units of a group by layer, ascending, each once. Raises QueryError for unknown names and an empty group."""
    found: dict[str, set[int]] = {}
    for neuron in neurons:
        if isinstance(neuron, str) and ":" not in neuron:
            found.setdefault(neuron, set()).update(range(index.neuron_layer(neuron, 0).units))
            continue
        layer, unit = Neuron.of(neuron)
        index.neuron_layer(layer, unit)
        found.setdefault(layer, set()).add(int(unit))
    if not found:
        raise QueryError("a group of no neurons", "Name LAYER:UNIT, or LAYER for all its units.")
    return {layer: np.array(sorted(units)) for layer, units in found.items()}


def _over(
    index: StoredIndex,
    group: dict[str, NDArray[np.int64]],
    term: Callable[[Rows, Rows], Rows],
    combine: np.ufunc = np.add,
    here: int = 0,
) -> Floats:
    """For every image, `term` of the group's rows and, as a column, their values on image `here`, combined: [image]."""
    pieces = list(_pieces(index, group))

    def some(share: list[Piece]) -> Floats:
        total: Floats | None = None
        for piece in share:
            rows = _rows(index, piece)
            one = combine.reduce(term(rows, rows[:, here, None]), 0)
            total = one.astype(np.float64) if total is None else combine(total, one, out=total)
        assert total is not None
        return total

    with ThreadPoolExecutor(THREADS) as pool:  # NumPy lets go of the interpreter: half the time on two cores
        totals = list(pool.map(some, [pieces[i::THREADS] for i in range(min(THREADS, len(pieces)))]))
    found: Floats = combine.reduce(totals)
    return found


def _pieces(index: StoredIndex, group: dict[str, NDArray[np.int64]]) -> Iterator[Piece]:
    """A few neurons of one chunk of max_by_neuron each: its path, the chunk's place, rows of the chunk."""
    for layer, units in group.items():
        path = f"{layer}/max_by_neuron"
        size = index.reader.specs[path].chunks[0]
        for wanted in np.split(units, np.flatnonzero(np.diff(units // size)) + 1):
            for start in range(0, len(wanted), ROWS_AT_ONCE):
                yield path, int(wanted[0]) // size, wanted[start : start + ROWS_AT_ONCE] % size


def _rows(index: StoredIndex, piece: Piece) -> Rows:
    """The piece's image maxima [neuron, image], a view where it can be; NaN where an image was unreadable."""
    path, place, rows = piece
    chunk = index.reader.chunk(path, place)
    adjacent = rows[-1] - rows[0] == len(rows) - 1
    return chunk[rows[0] : rows[-1] + 1] if adjacent else chunk[rows]


def _first(index: StoredIndex, values: Floats, k: int, name: str, largest: bool) -> pd.DataFrame:
    """The k best images: their values under `name`, and what they are. NaN is nowhere among them."""
    keys = np.where(np.isnan(values), np.inf, -values if largest else values)
    last = np.partition(keys, min(k, len(keys)) - 1)[min(k, len(keys)) - 1]
    near = np.flatnonzero((keys <= last) & (keys < np.inf))
    ids = near[np.argsort(keys[near], kind="stable")][:k]
    images = index.look_up("SELECT image_id, path, label FROM images WHERE list_contains(?, image_id)", [ids.tolist()])
    table = pd.DataFrame({"rank": range(1, len(ids) + 1), "image_id": ids, name: values[ids]})
    return table.merge(images.astype({"image_id": "int64"}), "left", "image_id")
