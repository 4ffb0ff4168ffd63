"""How a batch's arrays get from the device into the part while the next batch is computed.

On CUDA a launch returns before anything is computed. Copies go in a stream of their own, into memory that the device
reaches by itself (page-locked), and a batch is settled once they have ended: two batches are in flight. Other devices
have computed when they return, and settle at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .part_writer import Mark, PartBuffer


class Lane(Protocol):
    """Brings arrays to the host. `in_flight`: batches that may be unsettled while the next one is launched."""

    in_flight: int

    def fetch(self, arrays: dict[str, Tensor], buffer: PartBuffer, rows: NDArray[np.int64], sizes: Tensor) -> Fetched:
        """Begin to copy arrays into their rows of the part, and sizes to the host."""
        ...


@dataclass(frozen=True)
class Fetched:
    """A batch on its way. It holds the arrays on the device: their memory is not used again before the copies ended."""

    arrays: dict[str, Tensor]
    sizes: Tensor  # on the host, once computed
    computed: Mark | None
    copied: Mark | None

    def check(self, check: Callable[[Tensor], None]) -> None:
        """Wait for what was computed, and check it. The arrays may still be on their way (PartBuffer.arriving)."""
        if self.computed is not None:
            self.computed.synchronize()
        check(self.sizes)

    def settle(self, check: Callable[[Tensor], None]) -> None:
        """Wait for the copies too."""
        self.check(check)
        if self.copied is not None:
            self.copied.synchronize()


class HostLane:
    """For devices that have computed when they return."""

    in_flight = 0

    def fetch(self, arrays: dict[str, Tensor], buffer: PartBuffer, rows: NDArray[np.int64], sizes: Tensor) -> Fetched:
        for path, values in arrays.items():
            buffer.put(path, rows, values.cpu().numpy())
        return Fetched({}, sizes.cpu(), None, None)


class Stream(Protocol):
    """Copies from the device, in order, while it computes."""

    def follow(self) -> None:
        """Let what comes now wait for all that the device was asked for so far."""

    def copy(self, place: Tensor, piece: Tensor) -> None:
        """Copy a piece on the device to its place on the host, some time."""

    def mark(self) -> Mark:
        """The end of the copies so far."""
        ...


class CopyLane:
    """Copies in a stream of their own."""

    in_flight = 1

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def fetch(self, arrays: dict[str, Tensor], buffer: PartBuffer, rows: NDArray[np.int64], sizes: Tensor) -> Fetched:
        stream = self._stream
        on_host = torch.empty(sizes.shape, dtype=sizes.dtype, pin_memory=sizes.is_cuda)
        laid_out = {path: buffer.as_stored(path, values) for path, values in arrays.items()}
        stream.follow()
        stream.copy(on_host, sizes)
        computed = copied = stream.mark()
        for path, values in laid_out.items():
            for place, piece in buffer.places(path, rows, values):
                stream.copy(place, piece)
            copied = stream.mark()
            buffer.arriving(path, copied)
        return Fetched(laid_out | {"": sizes}, on_host, computed, copied)


class CudaStream:
    """Where copies go, the memory must be page-locked, or each waits for all that the device does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def follow(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def copy(self, place: Tensor, piece: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            place.copy_(piece, non_blocking=True)

    def mark(self) -> Mark:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event


def lane_for(device: torch.device) -> Lane:
    """How batches leave a device."""
    return CopyLane(CudaStream(device)) if device.type == "cuda" else HostLane()


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
