"""How a batch's arrays get from the device into the part while the next ones are computed.

On CUDA a launch returns before anything is computed. A thread waits until a batch is, and sends copies in a stream of
their own into memory that the device reaches by itself (page-locked): asked for any earlier, they would keep the thread
that launches waiting. Other devices have computed when they return, and settle at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...schemas.run_spec import RunSpec
from .chunk_sums import sums_on
from .part_writer import Mark, PartBuffer, Run, runs_of

Tensors = dict[str, Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Fetched:
    """A batch on its way. It holds the arrays on the device: their memory is not used again before the copies ended."""

    arrays: Tensors
    sizes: Future[Tensor]  # on the host, when the batch is computed and its copies are asked for
    copied: Future[Mark]

    def settle(self, check: Callable[[Tensor], None]) -> None:
        """Wait for what was computed, check it, and wait for the copies too (a part's writing waits for its own)."""
        check(self.sizes.result())
        self.copied.result().synchronize()


class Lane(Protocol):
    """Brings arrays to the host.

    `in_flight`: batches that may be unsettled while the next one is launched, and parts that may be unwritten while the
    next one is filled.
    """

    in_flight: int

    def bring(self, values: Tensors) -> Future[Tensors]:
        """Small tensors on the host, when they are computed."""
        ...

    def fetch(self, arrays: Tensors, buffer: PartBuffer, rows: NDArray[np.int64], sizes: Tensor) -> Fetched:
        """Begin to copy arrays into their rows of the part, and sizes to the host."""
        ...

    def close(self) -> None:
        """Wait until all copies were asked for."""


def _done(result: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(result)
    return future


class Reached:
    """A mark that is behind us."""

    def synchronize(self) -> None: ...


class HostLane:
    """For devices that have computed when they return."""

    in_flight = 0

    def bring(self, values: Tensors) -> Future[Tensors]:
        return _done({name: tensor.cpu() for name, tensor in values.items()})

    def fetch(self, arrays: Tensors, buffer: PartBuffer, rows: NDArray[np.int64], sizes: Tensor) -> Fetched:
        for path, values in arrays.items():
            buffer.put(path, rows, values.cpu().numpy())
        return Fetched({}, _done(sizes.cpu()), _done(Reached()))

    def close(self) -> None: ...


class Stream(Protocol):
    """Copies from the device, in order, while it computes."""

    def enter(self) -> None:
        """The calling thread sends its copies here from now on."""

    def computed(self) -> Mark:
        """The end of all that the calling thread asked the device for so far."""
        ...

    def copy(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Mark:
        """Copy pieces on the device to their places on the host, some time: (place, piece). The end of the copies."""
        ...


class CopyLane:
    """Copies in a stream of their own, asked for by a thread of their own."""

    in_flight = 1

    def __init__(self, stream: Stream, sum_chunks: Callable[[Tensor], bool] | None = None) -> None:
        """sum_chunks: fills in the checksums of chunks [chunk, bytes + 4], on the device, if it can (chunk_sums.py)."""
        self._stream, self._sum_chunks = stream, sum_chunks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="copies", initializer=stream.enter)

    def bring(self, values: Tensors) -> Future[Tensors]:
        return self._thread.submit(self._to_host, self._stream.computed(), values)

    def fetch(self, arrays: Tensors, buffer: PartBuffer, rows: NDArray[np.int64], sizes: Tensor) -> Fetched:
        laid_out = {path: buffer.as_stored(path, values) for path, values in arrays.items()}
        summed = {path for path, values in laid_out.items() if buffer.with_room(path, values) and self._sums(values)}
        buffer.wait()  # here, for soon the part that is filled now is held as well
        computed = self._stream.computed()
        on_host = self._thread.submit(lambda: self._to_host(computed, {"": sizes})[""])
        copied = self._thread.submit(self._copy, laid_out, summed, buffer, runs_of(rows))
        return Fetched(laid_out | {"": sizes}, on_host, copied)

    def close(self) -> None:
        self._thread.shutdown()

    def _to_host(self, computed: Mark, values: Tensors) -> Tensors:
        computed.synchronize()
        on_host = {name: torch.empty_like(tensor, device="cpu") for name, tensor in values.items()}
        self._stream.copy((on_host[name], tensor) for name, tensor in values.items()).synchronize()
        return on_host

    def _sums(self, chunks: Tensor) -> bool:
        return self._sum_chunks is not None and self._sum_chunks(chunks)

    def _copy(self, laid_out: Tensors, summed: set[str], buffer: PartBuffer, runs: list[Run]) -> Mark:
        copied: Mark = Reached()
        for path, values in laid_out.items():
            copied = self._stream.copy(buffer.places(path, runs, values))
            buffer.arriving(path, copied, path in summed)
        return copied


class CudaStream:
    """Where copies go, the memory must be page-locked, or each waits until it is done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def enter(self) -> None:
        torch.cuda.set_stream(self._stream)

    def computed(self) -> Mark:
        return self._mark(torch.cuda.current_stream(self._device))

    def copy(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Mark:
        for place, piece in pairs:
            place.copy_(piece, non_blocking=True)
        return self._mark(self._stream)

    def _mark(self, stream: torch.cuda.Stream) -> Mark:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(stream)
        return event


def lane_for(spec: RunSpec) -> Lane:
    """How batches leave a run's device."""
    device = torch.device(spec.device)
    if device.type != "cuda":
        return HostLane()
    return CopyLane(CudaStream(device), sums_on(device) if spec.compiled and spec.maps == "uint8" else None)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on the device, without waiting for it."""
    if device.type != "cuda":
        return values.to(device)
    return (values if values.is_pinned() else values.pin_memory()).to(device, non_blocking=True)


@contextmanager
def page_locked(memory: list[NDArray[np.uint8]], device: torch.device) -> Iterator[None]:
    """Memory that a CUDA device reaches by itself for as long as the `with` lasts; for others, as it is."""
    if device.type != "cuda":
        yield
        return
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    locked: list[int] = []
    try:
        for block in memory:
            torch.cuda.check_error(int(runtime.cudaHostRegister(block.ctypes.data, block.nbytes, 0)))
            locked.append(block.ctypes.data)
        yield
    finally:
        torch.cuda.synchronize(device)  # after an error too, copies may still be under way
        for address in locked:
            runtime.cudaHostUnregister(address)
