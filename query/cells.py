"""Single images and maps straight from their shard files, at the speed of the disk.

zarr spends about a millisecond on every chunk and reads all of it for any cell in it: the maps of 15 images of each
neuron would take the whole layer, 30 GB of ImageNet's validation set for 9 MB of maps. FORMAT.md fixes the layout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ..schemas.codes import CODES, decode_map
from ..schemas.errors import BadIndex, QueryError
from ..schemas.layout import CHECKSUM_BYTES, ArraySpec, arrays
from .index import Index

REMEDY = "Ask 'vitdex verify' what else is damaged."


class Shard:
    """One open shard file of an array, and where its chunks begin."""

    def __init__(self, path: Path, spec: ArraySpec) -> None:
        self.path, self.spec = path, spec
        try:
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise BadIndex(f"{path} is missing", REMEDY) from error
        length = 16 * spec.chunks_per_file + CHECKSUM_BYTES
        index = self._read(max(0, path.stat().st_size - length), length)
        self._begins = np.frombuffer(self._checked(index), "<u8").reshape(-1, 2)[:, 0]

    def __enter__(self) -> Shard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def chunk(self, number: int) -> bytes:
        """A chunk's values, held against its checksum. Raises BadIndex."""
        return self._checked(self._read(int(self._begins[number]), self.spec.chunk_bytes))

    def cells(self, number: int, first: int, count: int) -> bytes:
        """Some values of a chunk in its own order; less than the chunk has no checksum."""
        size = np.dtype(self.spec.dtype).itemsize
        return self._read(int(self._begins[number]) + first * size, count * size)

    def _read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        found = self._file.read(length)
        if len(found) != length:
            raise BadIndex(f"{self.path} is cut short", REMEDY)
        return found

    def _checked(self, found: bytes) -> bytes:
        values = found[:-CHECKSUM_BYTES]
        if google_crc32c.value(values) != struct.unpack("<I", found[-CHECKSUM_BYTES:])[0]:
            raise BadIndex(f"{self.path} is damaged", REMEDY)
        return values


def images(index: Index, image_ids: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The stored inputs of images in ascending order: image_id, uint8 [y, x, channel]. Raises QueryError, BadIndex."""
    if not index.spec.inputs:
        raise QueryError("this index stores no inputs (--no-inputs)", "Index again without --no-inputs.")
    spec = arrays(index.spec)["inputs"]
    for part, ids in groupby(image_ids.tolist(), lambda i: i // index.spec.part_images):
        with Shard(index.layout.root / spec.file(part, 0, 0, 0), spec) as shard:
            for image in ids:
                pixels = np.frombuffer(shard.chunk(image % index.spec.part_images), np.uint8)
                yield image, pixels.reshape(spec.shape[1:])


def maps(
    index: Index, layer: str, units: NDArray[np.int64], image_ids: NDArray[np.int64], peaks: NDArray[np.uint16]
) -> NDArray[np.float32]:
    """Stored maps of the units' top exemplars [unit, k], in the order of their ranks: float32 [unit, k, patch].

    peaks: the patch of each map's maximum. The cells have no checksum of their own: a map whose stored maximum does not
    lie there raises BadIndex.
    """
    read = _of_exemplars if index.spec.maps == "exemplars" else _of_all
    stored = read(index, layer, units, image_ids)
    high = gather(index, f"{layer}/max", units, image_ids)
    at_peak = np.take_along_axis(stored, peaks[..., None].astype(np.int64), 2)[..., 0]
    if stored.dtype == np.float16:
        same = np.isclose(at_peak, high, rtol=1e-3, atol=1e-6)
        values = stored.astype(np.float32)
    else:
        low = gather(index, f"{layer}/min", units, image_ids)
        same = (at_peak == CODES) | (low == high)
        values = decode_map(stored, low, high)
    if not same.all():
        raise BadIndex(f"maps of {layer} do not fit their maxima", REMEDY)
    return values


def _of_all(index: Index, layer: str, units: NDArray[np.int64], image_ids: NDArray[np.int64]) -> NDArray[Any]:
    """Cells of `map` [image, neuron, patch], part by part."""
    spec = arrays(index.spec)[f"{layer}/map"]
    part_images, patches, chunk_units = index.spec.part_images, index.spec.patches, spec.chunks[1]
    out: NDArray[Any] = np.empty((*image_ids.shape, patches), spec.dtype)
    for part, slots in by_part(image_ids, part_images):
        with Shard(index.layout.root / spec.file(part, 0, 0), spec) as shard:
            for row, rank in zip(*slots, strict=True):
                chunk, unit = divmod(int(units[row]), chunk_units)
                cell = (int(image_ids[row, rank]) % part_images) * chunk_units + unit
                out[row, rank] = np.frombuffer(shard.cells(chunk, cell * patches, patches), spec.dtype)
    return out


def _of_exemplars(
    index: Index, layer: str, units: NDArray[np.int64], image_ids: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Cells of `exemplar_map` [neuron, rank, patch]."""
    spec = arrays(index.spec)[f"{layer}/exemplar_map"]
    chunk_units, kept, patches = spec.chunks
    out = np.empty((*image_ids.shape, patches), np.uint8)
    with Shard(index.layout.root / spec.file(0, 0, 0), spec) as shard:
        for row, unit in enumerate(units.tolist()):
            chunk, place = divmod(unit, chunk_units)
            found = shard.cells(chunk, place * kept * patches, out[row].size)
            out[row] = np.frombuffer(found, np.uint8).reshape(out.shape[1:])
    return out


def gather(index: Index, path: str, units: NDArray[np.int64], image_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Values of an array [image, neuron] at each unit's own images [unit, k]: each part is read once."""
    out = np.empty(image_ids.shape, np.float32)
    for part, (rows, ranks) in by_part(image_ids, index.spec.part_images):
        start = part * index.spec.part_images
        values = np.asarray(index.arrays[path][start : start + index.spec.part_images])
        out[rows, ranks] = values[image_ids[rows, ranks] - start, units[rows]]
    return out


def by_part(
    image_ids: NDArray[np.int64], part_images: int
) -> Iterator[tuple[int, tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Part by part, the places in image_ids [unit, k] of its images, ascending by image."""
    order = np.argsort(image_ids, axis=None, kind="stable")
    parts = image_ids.ravel()[order] // part_images
    for places in np.split(order, np.flatnonzero(np.diff(parts)) + 1):
        rows, ranks = np.unravel_index(places, image_ids.shape)
        yield int(image_ids[rows[0], ranks[0]]) // part_images, (rows, ranks)
