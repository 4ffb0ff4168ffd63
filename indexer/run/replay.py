"""Batches on a CUDA device without their launches: recorded once as a graph, repeated as a whole.

The kernels of a batch take Python 25 ms to launch and an H200 32 ms to run (ViT-B/16, 256 images; benchmarks/NOTES.md),
and beside threads that write, Python is slower. A graph is launched in one call. It runs the same kernels on the same
numbers: results are the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...schemas.errors import VitdexWarning
from .capture import Capture, Captured

LAUNCHED = 2  # batches before: meanwhile libraries choose their kernels, and ours are compiled


def repeating(capture: Capture) -> Callable[[Tensor, Sequence[int]], Captured]:
    """The capture, recorded where the device can."""
    if not capture.fused:
        return capture
    return Replay(capture, min(capture.spec.batch_size, capture.spec.part_images), record_on_cuda)


class Recorded(NamedTuple):
    """A batch that can be repeated."""

    repeat: Callable[[], None]
    captured: Captured  # what it fills, each time anew


class Replay:
    """Calls a capture, and once it is recorded repeats that. Batches of another size are launched as before."""

    def __init__(
        self, capture: Capture, images: int, record: Callable[[Capture, Callable[[], Captured]], Recorded]
    ) -> None:
        """images: of a batch that is recorded."""
        self._capture, self._images, self._record = capture, images, record
        self._inputs: list[Tensor] = []  # what the recording reads
        self._recorded: Recorded | None = None
        self._calls = 0  # with so many images
        self._refused = False

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, ids: Sequence[int]) -> Captured:
        self._calls += len(ids) == self._images
        if len(ids) != self._images or self._calls <= LAUNCHED or self._refused:
            return self._capture(pixels, ids)
        self._lay_inputs(pixels, ids)
        if self._recorded is not None:
            return self._repeated(self._recorded)
        try:
            self._recorded = self._record(self._capture, self._launch)
        except RuntimeError as error:  # a model that asks the host, or too little memory
            self._refuse(str(error).strip().split("\n")[0])
            return self._capture(pixels, ids)
        captured, launched = self._repeated(self._recorded), self._uncounted()
        if not _same_bits(captured, launched):
            self._refuse("the first one came out otherwise than launched")
            return launched
        return captured

    def _repeated(self, recorded: Recorded) -> Captured:
        """The next batch writes over all that the recording knows, and this one's copies take their time: clones."""
        recorded.repeat()
        arrays = {path: values.clone() for path, values in recorded.captured.arrays.items()}
        return Captured(arrays, recorded.captured.sizes.clone())

    def _uncounted(self) -> Captured:
        """The same batch launched, once more, when its patches are counted already."""
        statistics, self._capture.statistics = self._capture.statistics, None
        try:
            return self._launch()
        finally:
            self._capture.statistics = statistics

    def _refuse(self, why: str) -> None:
        warnings.warn(
            f"batches cannot be recorded, and launching them takes longer ({why})", VitdexWarning, stacklevel=3
        )
        self._refused, self._recorded, self._inputs = True, None, []

    def _lay_inputs(self, pixels: Tensor, ids: Sequence[int]) -> None:
        """Where the recording looks for them."""
        there = self._capture.inputs(pixels, ids)
        if not self._inputs:
            self._inputs = [one.clone() for one in there]
        for place, one in zip(self._inputs, there, strict=True):
            place.copy_(one)

    def _launch(self) -> Captured:
        return self._capture.launch(*self._inputs)


def _same_bits(one: Captured, other: Captured) -> bool:
    """Whether all arrays are equal, NaN to NaN."""

    def bits(values: Tensor) -> Tensor:
        return values.contiguous().view(-1).view(torch.uint8)

    return all(torch.equal(bits(values), bits(other.arrays[path])) for path, values in one.arrays.items())


def record_on_cuda(capture: Capture, launch: Callable[[], Captured]) -> Recorded:
    """Raises RuntimeError where something waits for the device, or memory is short."""
    graph = torch.cuda.CUDAGraph()
    # thread_local: other threads may wait for their copies meanwhile
    with torch.cuda.device(capture.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        captured = launch()
    return Recorded(graph.replay, captured)
