"""Images through the model, part by part: what a run, a resumed run and a repair have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, pairwise, tee
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...data.models.device import current
from ...schemas.array_specs import arrays, part_bytes
from ...schemas.facts import ImageFacts
from ...schemas.run_spec import EXEMPLARS, Part, RunSpec
from ..memory import keep_freed_memory
from ..plan import Plan
from ..statistics.exemplar_maps import RunningMaps
from ..statistics.saved_state import pack_state
from ..statistics.threshold_counts import Bins, Statistics, tail_length
from .calibrate import calibrate
from .capture import Capture
from .feed import Batch, feed
from .lanes import Fetched, Lane, lane_for, page_locked, to_device
from .part_writer import PartBuffer, PartWriter
from .prepared import prepared
from .replay import repeating

# Between two states: hundreds of MB, dear beside a part that takes seconds; a killed run redoes them.
STATE_SECONDS = 60


@dataclass(frozen=True)
class Filled:
    """What a part leaves beside its arrays."""

    images: list[ImageFacts]
    seconds: float
    sums: Future[dict[str, Tensor]] | None  # by layer: of the part's values and of their squares
    state: bytes | None  # the counts of all parts so far, this one included (saved_state.py); now and then
    candidates: dict[str, Callable[[], bytes]]  # by layer: maps of a running top (`--maps exemplars` only)


class Recorder(NamedTuple):
    """Who keeps what a run leaves."""

    write: Callable[[Part, PartBuffer, Filled], None]  # a part, in a thread of its own
    settle_bins: Callable[[Bins], Bins] = lambda bins: bins  # what a run has found, as what all workers use


def fresh_statistics(spec: RunSpec) -> Statistics:
    """Statistics that have seen no part."""
    return Statistics(spec.layers, tail_length(spec.images, spec.patches), spec.device)


def run_parts(
    plan: Plan,
    parts: Iterable[Part],
    statistics: Statistics | None,
    advance: Callable[[int, int], None],
    recorder: Recorder,
) -> None:
    """Run the images of some parts, in order, and hand each part to the recorder, in a thread of its own.

    Parts are asked for when their images are about to be decoded. What is counted is added to the statistics; None:
    nobody wants any, as where single parts are made again.
    """
    parts = iter(parts)
    if (first := next(parts, None)) is None:
        return
    keep_freed_memory()
    spec, running = plan.spec, _running_maps(plan.spec)
    ahead, parts = tee(chain([first], parts))
    batches = feed(plan.source, spec.preprocessing, ahead, spec.batch_size, plan.decoders)
    stated = time.monotonic()
    with current(spec.device):
        lane = lane_for(spec)
        writer = PartWriter([a for a in arrays(spec).values() if a.by_part], recorder.write, 1 + lane.in_flight)
        capture = Capture(plan.anatomy, spec, plan.head, statistics)
        memory = page_locked(writer.memory, torch.device(spec.device))
        with memory, closing(lane), closing(writer), prepared(plan.anatomy.model, spec), capture:
            flights = Flights(capture, lane, running)
            if statistics is not None and not statistics.bins:
                statistics.lay_bins(recorder.settle_bins(calibrate(capture, plan.source, spec)))
            for part, after in pairwise(chain(parts, [None])):
                assert part is not None
                started = time.monotonic()
                images = _one_part(flights, batches, part, writer.buffer, advance)
                sums = state = None
                if statistics is not None:  # they have counted this part and none after it
                    sums = lane.bring(statistics.take_sums())
                    if after is None or time.monotonic() - stated >= STATE_SECONDS:
                        state, stated = pack_state(statistics), time.monotonic()
                candidates = {name: maps.of_images(part.start, part.stop) for name, maps in running.items()}
                seconds = round(time.monotonic() - started, 3)
                writer.submit(part, Filled(images, seconds, sums, state, candidates), flights.landing())


def _one_part(
    flights: Flights,
    batches: Iterator[Batch],
    part: Part,
    buffer: PartBuffer,
    advance: Callable[[int, int], None],
) -> list[ImageFacts]:
    """Launch the batches of a part; what is known of its images."""
    images: list[ImageFacts] = []
    bytes_of_part = part_bytes(flights.spec)
    while len(images) < part.images:
        batch = next(batches)
        flights.launch(batch, part, buffer)
        images += batch.facts
        advance(len(batch.facts), bytes_of_part * len(batch.facts) // part.images)
    buffer.blank(np.arange(part.images, flights.spec.part_images))
    return images


class Flights:
    """Batches that were launched, in order; as many as the lane allows are not settled yet."""

    def __init__(self, capture: Capture, lane: Lane, running: dict[str, RunningMaps]) -> None:
        self.capture, self.spec, self.lane, self.running = capture, capture.spec, lane, running
        self._run = repeating(capture)
        self._flying: list[Fetched] = []

    def launch(self, batch: Batch, part: Part, buffer: PartBuffer) -> None:
        """Capture a batch and send its rows into the part."""
        rows = np.array(batch.ids, np.int64) - part.start
        buffer.blank(np.setdiff1d(batch.first - part.start + np.arange(len(batch.facts)), rows))
        if not batch.ids:
            return
        captured = self._run(batch.pixels, batch.ids)
        if self.running:
            self._keep_maps(captured.arrays, batch.ids)
        self._flying.append(self.lane.fetch(captured.arrays, buffer, rows, captured.sizes))
        buffer.put("valid", rows, np.ones(len(rows), bool))
        if "inputs" in buffer.specs:
            buffer.put("inputs", rows, batch.pixels.numpy())
        while len(self._flying) > self.lane.in_flight:
            self._flying.pop(0).settle(self.capture.check)

    def _keep_maps(self, arrays: dict[str, Tensor], image_ids: list[int]) -> None:
        """Of the maps of a batch only those of top exemplars stay, and on the device."""
        ids = to_device(torch.tensor(image_ids), self.capture.device)
        for name, maps in self.running.items():
            maps.add(arrays[f"{name}/max"], ids, arrays.pop(f"{name}/map"))

    def landing(self) -> Callable[[], None]:
        """What checks the batches that are in flight now, once they are computed."""
        flying = list(self._flying)

        def check() -> None:
            for fetched in flying:
                fetched.copied.result()  # asked for: a file is written when its own have ended
                self.capture.check(fetched.sizes.result())

        return check


def _running_maps(spec: RunSpec) -> dict[str, RunningMaps]:
    if spec.maps != "exemplars":
        return {}
    k, device = min(EXEMPLARS, spec.images), torch.device(spec.device)
    return {layer.name: RunningMaps(layer.units, k, spec.patches, device) for layer in spec.layers}
