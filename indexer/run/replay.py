"""Batches on a CUDA device without their launches: recorded once as a graph, repeated as a whole.

The kernels of a batch take Python 25 ms to launch and an H200 32 ms to run (ViT-B/16, 256 images; benchmarks/NOTES.md),
and beside threads that write, Python is slower. A graph is launched in one call. It runs the same kernels over the same
memory: results are the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from .capture import Capture, Captured
from .lanes import to_device

LAUNCHED = 2  # batches before: meanwhile libraries choose their kernels, and ours are compiled


def repeating(capture: Capture, turns: int) -> Callable[[Tensor, Sequence[int]], Captured]:
    """The capture, recorded where the device can: what it leaves holds until so many calls later."""
    if not capture.fused:
        return capture
    return Replay(capture, min(capture.spec.batch_size, capture.spec.part_images), turns, CudaGraphs(capture.device))


class Recorded(NamedTuple):
    """A batch that can be repeated."""

    repeat: Callable[[], None]
    captured: Captured  # what it fills, each time anew


class Replay:
    """Calls a capture, and once it is recorded repeats that. Batches of another size are launched as before."""

    def __init__(
        self, capture: Capture, images: int, turns: int, record: Callable[[Callable[[], Captured]], Recorded]
    ) -> None:
        """images: of a batch that is recorded. turns: recordings, so that results hold until so many calls later."""
        self._capture, self._images, self._record = capture, images, record
        self._turns: list[Recorded | None] = [None] * turns
        self._inputs: tuple[Tensor, Tensor | None] | None = None  # what the recordings read
        self._calls = 0

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, ids: Sequence[int]) -> Captured:
        if len(ids) != self._images or not self._turns:
            return self._capture(pixels, ids)
        self._calls += 1
        if self._calls <= LAUNCHED:
            return self._capture(pixels, ids)
        self._lay_inputs(pixels, ids)
        turn = self._calls % len(self._turns)
        recorded = self._turns[turn]
        if recorded is None:
            try:
                recorded = self._turns[turn] = self._record(self._launch)
            except RuntimeError as error:  # a model that asks the host, or too little memory
                why = str(error).strip().split("\n")[0]
                warnings.warn(f"batches cannot be recorded, and launching them takes longer: {why}", stacklevel=2)
                self._turns = []
                return self._capture(pixels, ids)
        recorded.repeat()
        return replace(recorded.captured, arrays=dict(recorded.captured.arrays))

    def _lay_inputs(self, pixels: Tensor, ids: Sequence[int]) -> None:
        """Where the recordings look for them."""
        device, picked = self._capture.device, self._capture.picked(ids)
        there = to_device(pixels, device), picked if picked is None else to_device(picked, device)
        if self._inputs is None:
            self._inputs = there[0].clone(), there[1] if there[1] is None else there[1].clone()
            return
        self._inputs[0].copy_(there[0])
        if self._inputs[1] is not None and there[1] is not None:
            self._inputs[1].copy_(there[1])

    def _launch(self) -> Captured:
        assert self._inputs is not None
        return self._capture.launch(*self._inputs)


class CudaGraphs:
    """Records on a CUDA device. The recordings share memory but for what they leave: they run one after another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, launch: Callable[[], Captured]) -> Recorded:
        """Raises RuntimeError where something waits for the device, or memory is short."""
        graph = torch.cuda.CUDAGraph()
        # other threads may wait for their copies meanwhile
        with torch.cuda.device(self._device), torch.cuda.graph(graph, self._memory, capture_error_mode="thread_local"):
            captured = launch()
        return Recorded(graph.replay, captured)
