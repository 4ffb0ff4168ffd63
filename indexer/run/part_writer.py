"""Files of a part: assembled in their final byte order while batches arrive, then written whole, once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...schemas.array_specs import CHECKSUM_BYTES, ArraySpec
from ...schemas.run_spec import Part
from ...schemas.storage.atomic_files import page_aligned
from ...schemas.storage.chunk_files import chunk_values, seal
from ...schemas.storage.writable import LocalFolder


class Mark(Protocol):
    """A point in a device's work that one can wait for."""

    def synchronize(self) -> None: ...


T = TypeVar("T")


Run = tuple[int, int, int]  # of images whose rows follow each other: the first, the one after the last, its first row


def runs_of(rows: NDArray[np.int64]) -> list[Run]:
    """Rows of a part as runs: images that could not be read lie between."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    firsts, lasts = [0, *breaks.tolist()], [*breaks.tolist(), len(rows)]
    return [(first, last, int(rows[first])) for first, last in zip(firsts, lasts, strict=True)]


class PartBuffer:
    """All by-part arrays of one part, in memory as they will lie on disk.

    Between `hold` and the end of an array's writing, what would change its values waits. What the device copies into an
    array is there once its mark is reached: `arriving` notes it, and the array's writing waits for it.
    """

    def __init__(self, specs: list[ArraySpec]) -> None:
        self.specs = {a.path: a for a in specs}
        self._free = {a.path: threading.Event() for a in specs}
        self._arriving: dict[str, tuple[Mark, bool]] = {}  # and whether chunks come with their checksums
        self._pool: ThreadPoolExecutor | None = None  # for all parts: threads are slow to begin on some systems
        self.release()
        self._raw = {a.path: page_aligned(a.file_bytes) for a in specs}
        self._views = {path: chunk_values(self._raw[path], a) for path, a in self.specs.items()}
        self._tensors = {path: torch.from_numpy(view) for path, view in self._views.items()}
        self.blank(np.arange(specs[0].file_shape[0]), [a.path for a in specs if not a.path.endswith("/map")])

    def blank(self, rows: NDArray[np.int64], paths: Sequence[str] | None = None) -> None:
        """Some rows as if their images could not be read: NaN, 0, false."""
        if not len(rows):  # nothing to wait for
            return
        for path in paths if paths is not None else self.specs:
            self._fill(path, rows, np.nan if self.specs[path].dtype.startswith("float") else 0)

    def put(self, path: str, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Values of some rows (positions within the part)."""
        view, spec = self._views[path], self.specs[path]
        if self._by_chunk(spec):
            values = values.reshape(len(rows), view.shape[0], *view.shape[2:])
        self._fill(path, rows, values)

    def _fill(self, path: str, rows: NDArray[np.int64], values: NDArray[Any] | float) -> None:
        view, spec = self._views[path], self.specs[path]
        self._free[path].wait()
        if spec.chunks_per_file == 1:
            view[0, _as_slice(rows)] = values
        elif spec.chunks[0] == 1:
            view[_as_slice(rows), 0] = values
        else:  # chunks split the neurons: [chunk, image, neuron, patch]
            view.swapaxes(0, 1)[_as_slice(rows)] = values

    def as_stored(self, path: str, values: Tensor) -> Tensor:
        """A batch's values on their device, in the type and order of the file: [image, ...], or [chunk, image, ...].

        A whole part of chunked bytes comes as uint8 [chunk, bytes and room for the checksum]: one copy moves it.
        """
        view, spec = self._views[path], self.specs[path]
        if self._by_chunk(spec):
            values = values.reshape(len(values), view.shape[0], *view.shape[2:]).transpose(0, 1)
        if self._fills(spec, values):
            room = values.new_empty((view.shape[0], spec.chunk_bytes), dtype=torch.uint8)
            room[:, :-CHECKSUM_BYTES].view(self._tensors[path].dtype).view(values.shape).copy_(values)
            return room
        return values.to(self._tensors[path].dtype).contiguous()

    def with_room(self, path: str, stored: Tensor) -> bool:
        """Whether `as_stored` values have room for the checksums of their chunks."""
        return stored.ndim == 2 and self._by_chunk(self.specs[path])

    @staticmethod
    def _by_chunk(spec: ArraySpec) -> bool:
        """Whether chunks split the neurons: [chunk, image, neuron, patch]."""
        return spec.chunks_per_file > 1 and spec.chunks[0] > 1

    def _fills(self, spec: ArraySpec, values: Tensor) -> bool:
        """Whether one batch is a whole part of chunked bytes."""
        return self._by_chunk(spec) and values.dtype == torch.uint8 and values.shape[1] == spec.chunks[0]

    def places(self, path: str, runs: list[Run], values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Where pieces of `as_stored` values go: (in the part, on the device). `wait` first."""
        view, spec = self._tensors[path], self.specs[path]
        if self.with_room(path, values):
            yield torch.from_numpy(self._raw[path])[: values.numel()], values.view(-1)
            return
        for first, last, row in runs:
            to = slice(row, row + last - first)
            if spec.chunks_per_file == 1:
                yield view[0, to], values[first:last]
            elif self._by_chunk(spec):
                yield from zip(view[:, to].unbind(), values[:, first:last].unbind(), strict=True)
            else:  # every image is a chunk of its own
                yield from zip(view[to, 0].unbind(), values[first:last].unbind(), strict=True)

    def arriving(self, path: str, mark: Mark, summed: bool = False) -> None:
        """An array is whole only when the device has reached a mark; summed: with its chunks' checksums."""
        self._arriving[path] = mark, summed

    @property
    def memory(self) -> list[NDArray[np.uint8]]:
        """The arrays' files."""
        return list(self._raw.values())

    def hold(self) -> None:
        """Keep all values as they are until they are stored."""
        for free in self._free.values():
            free.clear()

    def wait(self) -> None:
        """Wait until what is held is stored."""
        for free in self._free.values():
            free.wait()

    def release(self) -> None:
        for free in self._free.values():
            free.set()

    def files(self, part: int) -> dict[str, memoryview]:
        """Path and content of each file, with checksums and shard indices filled in."""
        return {spec.part_file(part): self._sealed(spec) for spec in self.specs.values()}

    def store(
        self, part: int, keep: Callable[[str, memoryview], T], at_once: int = LocalFolder.at_once
    ) -> dict[str, T]:
        """What `keep` makes of each file's path and content, some at once: one is written while another is summed.

        An array whose file is kept may change again.
        """

        def one(spec: ArraySpec) -> tuple[str, T]:
            name = spec.part_file(part)
            kept = keep(name, self._sealed(spec))
            self._free[spec.path].set()
            return name, kept

        if self._pool is None:
            self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="files")
        return dict(self._pool.map(one, self.specs.values()))

    def _sealed(self, spec: ArraySpec) -> memoryview:
        mark, summed = self._arriving.pop(spec.path, (None, False))
        if mark is not None:
            mark.synchronize()
        return seal(self._raw[spec.path], spec, summed)


def _as_slice(rows: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Rows one after another as a slice, which NumPy fills several times as fast."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


class PartWriter(Generic[T]):
    """Writes a part in a thread while the next ones are computed, into the same memory as files leave it.

    `write` gets the part, the buffer and what was submitted with it. buffers: parts that are in memory at once; into
    the only one of a single buffer the next part comes as fast as files leave it.
    """

    def __init__(self, specs: list[ArraySpec], write: Callable[[Part, PartBuffer, T], None], buffers: int = 1) -> None:
        self._buffers = deque(PartBuffer(specs) for _ in range(buffers))
        self._write = write
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._written: deque[Future[None]] = deque()
        self._failed = False

    @property
    def buffer(self) -> PartBuffer:
        """Where the next part belongs."""
        return self._buffers[0]

    @property
    def memory(self) -> list[NDArray[np.uint8]]:
        """The arrays' files of all buffers."""
        return [block for buffer in self._buffers for block in buffer.memory]

    def submit(self, part: Part, extra: T, check: Callable[[], None]) -> None:
        """Have what the buffer holds written, if `check` lets it; raises what the writing of a part before raised."""
        self._wait(len(self._buffers) - 1)
        self.buffer.hold()
        self._written.append(self._thread.submit(self._run, part, self.buffer, extra, check))
        self._buffers.rotate(-1)

    def close(self) -> None:
        """Wait for the last parts; raises what their writing raised."""
        try:
            self._wait(0)
        finally:
            self._thread.shutdown()

    def _wait(self, unwritten: int) -> None:
        while len(self._written) > unwritten:
            self._written.popleft().result()

    def _run(self, part: Part, buffer: PartBuffer, extra: T, check: Callable[[], None]) -> None:
        """After a part that could not be written none is: what is submitted with it counts those before it too."""
        try:
            if not self._failed:
                check()
                self._write(part, buffer, extra)
        except BaseException:
            self._failed = True
            raise
        finally:
            buffer.release()
