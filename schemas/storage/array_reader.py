"""Values straight from the files of an index, checked against the checksum of every chunk when it is first read.

zarr-python reads the same values, in a millisecond a read; what reads thousands of maps or whole arrays comes here.

    reader = ArrayReader(LocalStore(root), arrays(spec))
    reader.cell("blocks.4.mlp.fc1/map", 17, 473)             # [patch], a view into the file
    reader.rows("inputs", [3, 1, 17])                        # [3, y, x, channel]
    reader.rows("blocks.4.mlp.fc1/max", [3, 1], [473, 16])   # [image, neuron]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import crc32c
import numpy as np
from numpy.typing import NDArray

from ..array_specs import CHECKSUM_BYTES, ArraySpec
from ..errors import REPAIR, STRANGE, DamagedIndex
from .store import Bytes, Piece, Store

Ints = NDArray[np.int64]
AHEAD = 16  # chunks of a whole array that are fetched together


class ArrayReader:
    """All arrays of an index, or of an extension of one.

    Chunks and cells are views where the store can give them: they cannot be written to.
    Raises DamagedIndex, naming the file, where one is missing, of another size, or damaged.
    """

    def __init__(self, store: Store, specs: Mapping[str, ArraySpec], remedy: str = REPAIR) -> None:
        self.specs = specs
        self.store = store
        self.remedy = remedy  # of damage
        self._sized: set[str] = set()
        self._verified: set[tuple[str, int]] = set()

    def __contains__(self, path: str) -> bool:
        return path in self.specs

    def chunk(self, path: str, *place: int) -> NDArray[Any]:
        """A whole chunk by its place in the grid of chunks; places not given are 0."""
        spec = self.specs[path]
        key, start, length = _piece(spec, place)
        raw = self._bytes(spec, key, start, length)
        values = raw[:-CHECKSUM_BYTES]
        if (key, start) not in self._verified:
            if crc32c.crc32c(values.data) != int.from_bytes(raw[-CHECKSUM_BYTES:].tobytes(), "little"):
                raise DamagedIndex(f"{self._shown(key)} has a wrong checksum", self.remedy)
            self._verified.add((key, start))
        return values.view(spec.dtype).reshape(spec.chunks)

    def cell(self, path: str, *position: int) -> NDArray[Any]:
        """Values at a position on an array's first axes, such as a map at (image, neuron): the axes that remain.

        These must not be split into chunks, which they are in no array of ours.
        """
        self._must_hold(path, position)
        chunks = self.specs[path].chunks
        place = [p // c for p, c in zip(position, chunks, strict=False)]
        inside = tuple(p % c for p, c in zip(position, chunks, strict=False))
        values: NDArray[Any] = self.chunk(path, *place)[inside]
        return values

    def cells(self, path: str, *positions: Ints, checked: bool = True) -> NDArray[Any]:
        """Cells at many positions, an array [...] for each of the first axes: [..., axes that remain].

        checked=False reads each cell alone, without the checksum of the chunk around it: 40,000 cells of chunks of 1 MB
        are 8 MB instead of 40 GB. The caller must have another way to see damage (the codes of a map: FORMAT.md).
        """
        spec = self.specs[path]
        axes = np.broadcast_arrays(*positions)
        flat = [axis.ravel().astype(np.int64) for axis in axes]
        self._must_hold_all(path, flat)
        out = self._empty(spec, flat[0].size, *spec.shape[len(flat) :])
        self.store.ahead(_pieces_of(spec, flat, checked))
        fill = self._fill_checked if checked else self._fill_alone
        fill(spec, flat, out)
        return out.reshape(*axes[0].shape, *out.shape[1:])

    def rows(self, path: str, rows: Sequence[int] | Ints, units: Sequence[int] | Ints | None = None) -> NDArray[Any]:
        """Rows of an array in any order, of its second axis all or some places: a copy [row, unit, ...]."""
        spec = self.specs[path]
        at = np.asarray(rows, np.int64)
        self._must_hold_all(path, [at] if units is None else [at, np.asarray(units, np.int64)])
        self.store.ahead(_pieces_of_rows(spec, at, units))
        if units is None and spec.chunks[1:] != spec.shape[1:]:  # chunks split the second axis
            units = range(spec.shape[1])
        if units is None:
            out = self._empty(spec, len(at), *spec.shape[1:])
            for place, there in _by_chunk(at, spec.chunks[0]):
                out[there] = self.chunk(path, place)[at[there] - place * spec.chunks[0]]
            return out
        across = np.asarray(units, np.int64)
        out = self._empty(spec, len(at), len(across), *spec.shape[2:])
        for i, there in _by_chunk(at, spec.chunks[0]):
            for j, beside in _by_chunk(across, spec.chunks[1]):
                inside = np.ix_(at[there] - i * spec.chunks[0], across[beside] - j * spec.chunks[1])
                out[np.ix_(there, beside)] = self.chunk(path, i, j)[inside]
        return out

    def parts(self, path: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """(first row, rows) of every chunk of an array that is split along its first axis alone. Rows are views."""
        spec = self.specs[path]
        chunks = -(-spec.shape[0] // spec.chunks[0])
        for place, first in enumerate(range(0, spec.shape[0], spec.chunks[0])):
            if place % AHEAD == 0:
                self.store.ahead(_piece(spec, (i,)) for i in range(place, min(place + AHEAD, chunks)))
            yield first, self.chunk(path, place)[: spec.shape[0] - first]

    def whole(self, path: str) -> NDArray[Any]:
        """A whole array that is split along its first axis alone, in memory."""
        spec = self.specs[path]
        out = self._empty(spec, *spec.shape)
        for first, rows in self.parts(path):
            out[first : first + len(rows)] = rows
        return out

    def column(self, path: str, place: int) -> NDArray[Any]:
        """One place of the second axis over all rows, such as a class's logits: [row]."""
        return np.concatenate([rows[:, place] for _, rows in self.parts(path)])

    def ahead(self, *wanted: tuple[str, int, int]) -> None:
        """Say which cells will be asked for next, each as (path, position, position): together they are one journey."""
        self.store.ahead(
            _piece(spec, tuple(p // c for p, c in zip(position, spec.chunks, strict=False)))
            for spec, position in ((self.specs[path], position) for path, *position in wanted)
        )

    def _must_hold_all(self, path: str, axes: Sequence[Ints]) -> None:
        """As _must_hold, for positions on an array's first axes."""
        if all(axis.size for axis in axes):
            self._must_hold(path, [int(axis.min()) for axis in axes])
            self._must_hold(path, [int(axis.max()) for axis in axes])

    def _must_hold(self, path: str, position: Sequence[int]) -> None:
        """Raise DamagedIndex where an array has no such position: what people ask for is checked before, so that the
        tables named it."""
        spec = self.specs[path]
        for axis, at, size in zip(spec.axes, position, spec.shape, strict=False):
            if not 0 <= at < size:
                raise DamagedIndex(f"the tables name {axis} {at}, and {path} counts from 0 to {size - 1}", STRANGE)

    def _fill_checked(self, spec: ArraySpec, flat: list[Ints], out: NDArray[Any]) -> None:
        """Cells chunk by chunk, each of which is read and checked once."""
        places = [axis // chunk for axis, chunk in zip(flat, spec.chunks, strict=False)]
        inside = [axis % chunk for axis, chunk in zip(flat, spec.chunks, strict=False)]
        grid = [-(-n // c) for n, c in zip(spec.shape, spec.chunks, strict=True)][: len(flat)]
        number = np.ravel_multi_index(tuple(places), tuple(grid))
        for _, here in _by_chunk(number, 1):
            chunk = self.chunk(spec.path, *(int(place[here[0]]) for place in places))
            out[here] = chunk[tuple(axis[here] for axis in inside)]

    def _fill_alone(self, spec: ArraySpec, flat: list[Ints], out: NDArray[Any]) -> None:
        """Each cell by itself."""
        raw = out.view(np.uint8).reshape(len(out), -1) if len(out) else out
        for i, piece in _alone(spec, flat):
            raw[i] = self._bytes(spec, *piece)

    def _empty(self, spec: ArraySpec, *shape: int) -> NDArray[Any]:
        """Room for values, once the array's first file is as large as the run says: an absurd size is not allocated."""
        self._check_size(spec, spec.file(*[0] * len(spec.shape)))
        return np.empty(shape, spec.dtype)

    def _bytes(self, spec: ArraySpec, key: str, start: int, length: int) -> Bytes:
        self._check_size(spec, key)
        return self.store.read(key, start, length)

    def _check_size(self, spec: ArraySpec, key: str) -> None:
        if key not in self._sized:
            if (size := self.store.size(key)) != spec.file_bytes:
                raise DamagedIndex(f"{self._shown(key)} has {size} bytes instead of {spec.file_bytes}", self.remedy)
            self._sized.add(key)

    def _shown(self, key: str) -> str:
        return str(self.store.local_path(key) or key)


def _alone(spec: ArraySpec, flat: list[Ints]) -> Iterator[tuple[int, Piece]]:
    """Which of the cells at positions, and what it alone takes, in the order in which they lie on the disk."""
    if not flat[0].size:
        return
    per_file = [w // c for w, c in zip(spec.file_shape, spec.chunks, strict=True)][: len(flat)]
    files = [axis // whole for axis, whole in zip(flat, spec.file_shape, strict=False)]
    number, cell = np.zeros_like(flat[0]), np.zeros_like(flat[0])
    for axis, chunk, count in zip(flat, spec.chunks, per_file, strict=False):
        number, cell = number * count + axis // chunk % count, cell * chunk + axis % chunk
    row_bytes = prod(spec.shape[len(flat) :]) * np.dtype(spec.dtype).itemsize
    starts = number * spec.chunk_bytes + cell * row_bytes
    for i in np.lexsort((starts, *files[::-1])).tolist():
        key = spec.file(*(int(axis[i]) for axis in files), *[0] * (len(spec.shape) - len(files)))
        yield i, (key, int(starts[i]), row_bytes)


def _pieces_of(spec: ArraySpec, flat: list[Ints], checked: bool) -> Iterator[Piece]:
    """What the cells at positions take: the chunks around them, or each alone."""
    if not checked:
        yield from (piece for _, piece in _alone(spec, flat))
        return
    places = np.stack([axis // chunk for axis, chunk in zip(flat, spec.chunks, strict=False)], 1)
    yield from (_piece(spec, tuple(place)) for place in np.unique(places, axis=0).tolist())


def _pieces_of_rows(spec: ArraySpec, at: Ints, units: Sequence[int] | Ints | None) -> Iterator[Piece]:
    """The chunks that rows take, of all or some places of the second axis."""
    split = spec.chunks[1:] != spec.shape[1:]
    across = range(spec.shape[1]) if units is None and split else units
    beside = [0] if across is None else np.unique(np.asarray(across, np.int64) // spec.chunks[1]).tolist()
    for i in np.unique(at // spec.chunks[0]).tolist():
        yield from (_piece(spec, (i, j)) for j in beside)


def _piece(spec: ArraySpec, place: tuple[int, ...]) -> Piece:
    """What a chunk takes."""
    key, number = _whereabouts(spec, place)
    return key, number * spec.chunk_bytes, spec.chunk_bytes


def _by_chunk(positions: Ints, size: int) -> Iterator[tuple[int, Ints]]:
    """The chunks in which positions lie, and which positions those are, in the order of the chunks."""
    places = positions // size
    order = np.argsort(places, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(places[order])) + 1) if len(order) else ():
        yield int(places[here[0]]), here


def _whereabouts(spec: ArraySpec, place: tuple[int, ...]) -> tuple[str, int]:
    """The file that holds a chunk, and which of its chunks that is."""
    files, number = [], 0
    for axis, (whole, chunk) in enumerate(zip(spec.file_shape, spec.chunks, strict=True)):
        there, inside = divmod(place[axis] if axis < len(place) else 0, whole // chunk)
        files.append(there)
        number = number * (whole // chunk) + inside
    return spec.file(*files), number
