"""Stored inputs and maps of an index, and a neuron's top exemplars. What is not stored is said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import DamagedIndex, QueryError
from ...schemas.run_spec import EXEMPLARS, RunSpec
from ...schemas.storage.array_reader import ArrayReader
from ...schemas.storage.map_codes import CODES, decode_map

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def needs_inputs(spec: RunSpec) -> None:
    """Raise QueryError where the index stores no inputs."""
    if not spec.inputs:
        raise QueryError("this index stores no inputs (--no-inputs)", "Index again without --no-inputs.")


def stored_inputs(reader: ArrayReader, spec: RunSpec, image_ids: Sequence[int]) -> NDArray[np.uint8]:
    """The pixels that the model saw: uint8 [image, y, x, channel]. Raises QueryError where none are stored."""
    needs_inputs(spec)
    return reader.rows("inputs", image_ids)


def stored_map(reader: ArrayReader, spec: RunSpec, layer: str, unit: int, image_id: int) -> Floats | None:
    """A map before the nonlinearity, float32 [patch], of a neuron and image that exist; None where it is not stored.

    From bytes the error is at most (max - min) / 510. NaN where the image was unreadable. Raises DamagedIndex.
    """
    if spec.maps == "none":
        return None
    if spec.maps == "float16":
        return reader.cell(f"{layer}/map", image_id, unit).astype(np.float32)
    if spec.maps == "uint8":
        codes_at = (f"{layer}/map", image_id, unit)
    else:
        rank = exemplar_ranks(reader, layer, [unit], [image_id])[0, 0]
        if rank > min(EXEMPLARS, spec.images):
            return None
        codes_at = (f"{layer}/exemplar_map", unit, int(rank) - 1)
    ends_at = [(f"{layer}/{leaf}", image_id, unit) for leaf in ("min", "max")]
    reader.ahead(codes_at, *ends_at)
    codes, low, high = (reader.cell(*at) for at in (codes_at, *ends_at))
    return decode_map(codes, low, high)


def stored_maps(
    reader: ArrayReader, spec: RunSpec, layer: str, units: Sequence[int], image_ids: Sequence[int]
) -> Floats:
    """Maps of neurons on images from an index that stores all: float32 [image, unit, patch]. Raises DamagedIndex."""
    codes = reader.rows(f"{layer}/map", image_ids, units)
    if spec.maps == "float16":
        return codes.astype(np.float32)
    low, high = (reader.rows(f"{layer}/{leaf}", image_ids, units) for leaf in ("min", "max"))
    return decode_map(codes, low, high)


def exemplar_maps(
    reader: ArrayReader, spec: RunSpec, layer: str, units: Sequence[int], image_ids: Sequence[int]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Maps float32 [image, unit, patch] from an index that stores those of exemplars, and which are stored."""
    low, high = (reader.rows(f"{layer}/{leaf}", image_ids, units) for leaf in ("min", "max"))
    ranks = exemplar_ranks(reader, layer, units, image_ids)
    stored = ranks <= min(EXEMPLARS, spec.images)
    codes = np.zeros((*ranks.shape, spec.patches), np.uint8)
    rows, columns = np.nonzero(stored)
    codes[stored] = reader.cells(f"{layer}/exemplar_map", np.asarray(units)[columns], ranks[rows, columns] - 1)
    return decode_map(codes, low, high), stored


def exemplar_ranks(reader: ArrayReader, layer: str, units: Sequence[int], image_ids: Sequence[int]) -> Ints:
    """Each image's rank among each neuron's exemplars, from 1: int64 [image, unit].

    Ties go to the lower image; unreadable images come last.
    """
    ranks = np.empty((len(image_ids), len(units)), np.int64)
    for column, unit in enumerate(units):
        maxima = reader.cell(f"{layer}/max_by_neuron", unit)
        for row, image_id in enumerate(image_ids):
            own = maxima[image_id]
            ahead = int((maxima > own).sum() + (maxima[:image_id] == own).sum())
            ranks[row, column] = len(maxima) + 1 if np.isnan(own) else 1 + ahead
    return ranks


def top_maps(
    reader: ArrayReader,
    spec: RunSpec,
    layer: str,
    units: Ints,
    image_ids: Ints,
    peaks: NDArray[np.uint16],
    highs: Floats | None = None,
) -> Floats:
    """Stored maps of the units' top exemplars [unit, k], in the order of their ranks: float32 [unit, k, patch].

    peaks: the patch of each map's maximum; highs: that maximum, read where it is not given. Each map is read by itself,
    without the checksum of the chunk around it: one whose stored maximum does not lie at its peak raises DamagedIndex
    (FORMAT.md, "Reading").
    """
    if spec.maps == "exemplars":
        ranks = np.broadcast_to(np.arange(image_ids.shape[1]), image_ids.shape)
        stored = reader.cells(f"{layer}/exemplar_map", units[:, None], ranks, checked=False)
    else:
        stored = reader.cells(f"{layer}/map", image_ids, units[:, None], checked=False)
    high = reader.cells(f"{layer}/max", image_ids, units[:, None]) if highs is None else highs
    at_peak = np.take_along_axis(stored, peaks[..., None].astype(np.int64), 2)[..., 0]
    if stored.dtype == np.float16:
        same = np.isclose(at_peak, high, rtol=1e-3, atol=1e-6)
        values = stored.astype(np.float32)
    else:
        low = reader.cells(f"{layer}/min", image_ids, units[:, None])
        same = (at_peak == CODES) | (low == high)
        values = decode_map(stored, low, high)
    if not same.all():
        raise DamagedIndex(f"maps of {layer} do not fit their maxima")
    return values
