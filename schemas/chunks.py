"""Values straight from the files of an index: memory-mapped chunks whose checksum is verified when they are first read.

zarr-python reads the same values, in a millisecond a read; what reads thousands of maps or whole arrays comes here.
"""

from __future__ import annotations

import mmap
from functools import lru_cache

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from .errors import DamagedIndex
from .layout import CHECKSUM_BYTES, ArraySpec, Layout, arrays
from .manifest import REPAIR
from .records import RunSpec

OPEN_FILES = 256


class Chunks:
    """All arrays of an index, by chunk or by cell. What is returned is a view into a file: it cannot be written to.

    Raises DamagedIndex where a file is missing, of another size, or damaged.
    """

    def __init__(self, layout: Layout, spec: RunSpec) -> None:
        self.specs = arrays(spec)
        self._layout = layout
        self._verified: set[tuple[str, int]] = set()
        self._file = lru_cache(OPEN_FILES)(self._open)

    def cell(self, path: str, *position: int) -> NDArray[np.generic]:
        """Values at a position on an array's first axes, such as a map at (image, neuron): the axes that remain.

        These must not be split into chunks, which they are in no array of ours.
        """
        chunks = self.specs[path].chunks
        place = [p // c for p, c in zip(position, chunks, strict=False)]
        within = tuple(p % c for p, c in zip(position, chunks, strict=False))
        found: NDArray[np.generic] = self.chunk(path, *place)[within]
        return found

    def chunk(self, path: str, *place: int) -> NDArray[np.generic]:
        """A whole chunk by its place in the grid of chunks; places not given are 0."""
        spec = self.specs[path]
        file, number = _whereabouts(spec, place)
        raw = self._file(file, spec.file_bytes)
        start = number * spec.chunk_bytes
        end = start + spec.chunk_bytes - CHECKSUM_BYTES
        values, checksum = raw[start:end], raw[end : end + CHECKSUM_BYTES].tobytes()
        if (file, number) not in self._verified:
            if google_crc32c.value(values).to_bytes(CHECKSUM_BYTES, "little") != checksum:
                raise DamagedIndex(f"{self._layout.root / file} has a wrong checksum", REPAIR)
            self._verified.add((file, number))
        return values.view(spec.dtype).reshape(spec.chunks)

    def _open(self, file: str, size: int) -> NDArray[np.uint8]:
        path = self._layout.root / file
        try:
            with path.open("rb") as opened:
                content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DamagedIndex(f"{path} is missing or cannot be read", REPAIR) from error
        if len(content) != size:
            raise DamagedIndex(f"{path} has {len(content)} bytes instead of {size}", REPAIR)
        return np.frombuffer(content, np.uint8)


def _whereabouts(spec: ArraySpec, place: tuple[int, ...]) -> tuple[str, int]:
    """The file that holds a chunk, and which of its chunks that is."""
    files, number = [], 0
    for axis, (whole, chunk) in enumerate(zip(spec.file_shape, spec.chunks, strict=True)):
        there, inside = divmod(place[axis] if axis < len(place) else 0, whole // chunk)
        files.append(there)
        number = number * (whole // chunk) + inside
    return spec.file(*files), number
