"""Files of a part: assembled in their final byte order while batches arrive, then written whole, once.

A file is a Zarr v3 chunk (values + crc32c) or a shard (such chunks one behind another + the index of their places).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ..schemas.disk import page_aligned
from ..schemas.layout import ArraySpec
from ..schemas.records import Part

FILES_AT_ONCE = 4

T = TypeVar("T")


class PartBuffer:
    """All by-part arrays of one part, in memory as they will lie on disk."""

    def __init__(self, specs: list[ArraySpec]) -> None:
        self.specs = {a.path: a for a in specs}
        self._raw = {a.path: page_aligned(a.file_bytes) for a in specs}
        self._views = {path: _chunks(self._raw[path], a) for path, a in self.specs.items()}
        self.blank(np.arange(specs[0].file_shape[0]), [a.path for a in specs if not a.path.endswith("/map")])

    def blank(self, rows: NDArray[np.int64], paths: Sequence[str] | None = None) -> None:
        """Some rows as if their images could not be read: NaN, 0, false."""
        for path in paths if paths is not None else self.specs:
            self._fill(path, rows, np.nan if self.specs[path].dtype.startswith("float") else 0)

    def put(self, path: str, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Values of some rows (positions within the part)."""
        view, spec = self._views[path], self.specs[path]
        if spec.chunks_per_file > 1 and spec.chunks[0] > 1:  # [image, chunk, neuron, patch]
            values = values.reshape(len(rows), view.shape[0], *view.shape[2:])
        self._fill(path, rows, values)

    def _fill(self, path: str, rows: NDArray[np.int64], values: NDArray[Any] | float) -> None:
        view, spec = self._views[path], self.specs[path]
        if spec.chunks_per_file == 1:
            view[0, rows] = values
        elif spec.chunks[0] == 1:
            view[rows, 0] = values
        else:  # chunks split the neurons: [chunk, image, neuron, patch]
            view.swapaxes(0, 1)[rows] = values

    def files(self, part: int) -> dict[str, memoryview]:
        """Path and content of each file, with checksums and shard indices filled in."""
        return self.store(part, lambda path, content: content)

    def store(self, part: int, keep: Callable[[str, memoryview], T]) -> dict[str, T]:
        """What `keep` makes of each file's path and content, some at once: one is written while another is summed."""
        names = {a.file(part, *[0] * (len(a.shape) - 1)): a for a in self.specs.values()}
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            kept = pool.map(lambda name: keep(name, seal(self._raw[names[name].path], names[name])), names)
            return dict(zip(names, kept, strict=True))


def _chunks(raw: NDArray[np.uint8], spec: ArraySpec) -> NDArray[Any]:
    """The values of a file's chunks, checksums left out: [chunk, *chunk shape]."""
    dtype = np.dtype(spec.dtype)
    inner = np.cumprod([dtype.itemsize, *spec.chunks[:0:-1]])[::-1]
    return np.ndarray((spec.chunks_per_file, *spec.chunks), dtype, raw.data, strides=(spec.chunk_bytes, *inner))


def seal(raw: NDArray[np.uint8], spec: ArraySpec) -> memoryview:
    """Fill in every chunk's crc32c and, for a shard, the index of offsets and lengths with its own crc32c."""
    size, count = spec.chunk_bytes, spec.chunks_per_file
    for start in range(0, count * size, size):
        end = start + size - 4
        raw[end : end + 4] = _crc(raw[start:end])
    if spec.shards:
        index = np.empty((count, 2), "<u8")
        index[:, 0], index[:, 1] = np.arange(count) * size, size
        raw[count * size : -4] = index.reshape(-1).view(np.uint8)
        raw[-4:] = _crc(raw[count * size : -4])
    return raw.data


def _crc(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(google_crc32c.value(data).to_bytes(4, "little"), np.uint8)


def encode_file(values: NDArray[Any], spec: ArraySpec) -> memoryview:
    """One file's bytes from its values [file shape]: for arrays that are written whole."""
    raw = page_aligned(spec.file_bytes)
    per_axis = [s // c for s, c in zip(spec.file_shape, spec.chunks, strict=True)]
    assert all(n == 1 for n in per_axis[1:]), "files are split along their first axis alone"
    _chunks(raw, spec)[...] = values.reshape(spec.chunks_per_file, *spec.chunks)
    return seal(raw, spec)


class PartWriter:
    """Writes parts in a thread while the next one is computed. Two buffers: one is filled, one is written."""

    def __init__(self, specs: list[ArraySpec], write: Callable[[Part, PartBuffer, Any], None]) -> None:
        self._free: queue.Queue[PartBuffer] = queue.Queue()
        for _ in range(2):
            self._free.put(PartBuffer(specs))
        self._todo: queue.Queue[tuple[Part, PartBuffer, Any] | None] = queue.Queue(1)
        self._write = write
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def buffer(self) -> PartBuffer:
        """A buffer, with what it held before; waits until one is written."""
        buffer = self._free.get()
        self._raise()
        return buffer

    def submit(self, part: Part, buffer: PartBuffer, extra: Any) -> None:
        self._raise()
        self._todo.put((part, buffer, extra))

    def close(self) -> None:
        """Wait for the last part; raises what the writing raised."""
        if self._thread.is_alive():
            self._todo.put(None)
            self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error:
            raise self._error

    def _run(self) -> None:
        while item := self._todo.get():
            if self._error is None:
                try:
                    self._write(*item)
                except BaseException as error:
                    self._error = error
            self._free.put(item[1])
