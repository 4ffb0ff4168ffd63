"""How a batch's arrays get from the device into the part while the next batch is computed.

On CUDA a launch returns before anything is computed. Copies go in a stream of their own, into memory that the device
reaches by itself (page-locked), and a batch is settled once they have ended: two batches are in flight. Other devices
have computed when they return, and settle at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .part_writer import Mark, PartBuffer, runs_of


@dataclass(frozen=True)
class Brought:
    """A tensor on its way to the host. It holds the one on the device: its memory is not used again before."""

    on_device: Tensor
    on_host: Tensor
    arrived: Mark | None

    def wait(self) -> Tensor:
        """The tensor on the host, once it is there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.on_host


@dataclass(frozen=True)
class Fetched:
    """A batch on its way. It holds the arrays on the device: their memory is not used again before the copies ended."""

    arrays: dict[str, Tensor]
    sizes: Brought
    copied: Mark | None

    def settle(self, check: Callable[[Tensor], None]) -> None:
        """Wait for what was computed, check it, and wait for the copies too (a part's writing waits for its own)."""
        check(self.sizes.wait())
        if self.copied is not None:
            self.copied.synchronize()


class Lane(Protocol):
    """Brings arrays to the host.

    `in_flight`: batches that may be unsettled while the next one is launched, and parts that may be unwritten while the
    next one is filled.
    """

    in_flight: int

    def bring(self, values: Tensor) -> Brought:
        """Begin to copy a small tensor to the host."""
        ...

    def fetch(self, arrays: dict[str, Tensor], buffer: PartBuffer, rows: NDArray[np.int64], sizes: Tensor) -> Fetched:
        """Begin to copy arrays into their rows of the part, and sizes to the host."""
        ...


class HostLane:
    """For devices that have computed when they return."""

    in_flight = 0

    def bring(self, values: Tensor) -> Brought:
        return Brought(values, values.cpu(), None)

    def fetch(self, arrays: dict[str, Tensor], buffer: PartBuffer, rows: NDArray[np.int64], sizes: Tensor) -> Fetched:
        for path, values in arrays.items():
            buffer.put(path, rows, values.cpu().numpy())
        return Fetched({}, self.bring(sizes), None)


class Stream(Protocol):
    """Copies from the device, in order, while it computes."""

    def follow(self) -> None:
        """Let what comes now wait for all that the device was asked for so far."""

    def copy(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Mark:
        """Copy pieces on the device to their places on the host, some time: (place, piece). The end of the copies."""
        ...


class CopyLane:
    """Copies in a stream of their own."""

    in_flight = 1

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def bring(self, values: Tensor) -> Brought:
        on_host = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
        self._stream.follow()
        return Brought(values, on_host, self._stream.copy([(on_host, values)]))

    def fetch(self, arrays: dict[str, Tensor], buffer: PartBuffer, rows: NDArray[np.int64], sizes: Tensor) -> Fetched:
        laid_out = {path: buffer.as_stored(path, values) for path, values in arrays.items()}
        brought, copied, runs = self.bring(sizes), None, runs_of(rows)
        for path, values in laid_out.items():
            copied = self._stream.copy(buffer.places(path, runs, values))
            buffer.arriving(path, copied)
        return Fetched(laid_out, brought, copied)


class CudaStream:
    """Where copies go, the memory must be page-locked, or each waits for all that the device does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def follow(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def copy(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Mark:
        with torch.cuda.stream(self._stream):
            for place, piece in pairs:
                place.copy_(piece, non_blocking=True)
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
