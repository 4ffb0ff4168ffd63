"""Images through the model, part by part: what a run, a resumed run and a repair have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...schemas.array_specs import arrays, part_bytes
from ...schemas.facts import ImageFacts
from ...schemas.run_spec import EXEMPLARS, Part, RunSpec
from ..memory import keep_freed_memory
from ..plan import Plan
from ..statistics.exemplar_maps import RunningMaps
from ..statistics.saved_state import pack_state
from ..statistics.threshold_counts import Statistics, tail_length
from .calibrate import calibrate
from .capture import Capture
from .feed import Batch, feed
from .part_writer import PartBuffer, PartWriter

# Between two states: hundreds of MB, dear beside a part that takes seconds; a killed run redoes them.
STATE_SECONDS = 60


@dataclass(frozen=True)
class Filled:
    """What a part leaves beside its arrays."""

    images: list[ImageFacts]
    seconds: float
    state: bytes | None  # the statistics up to and including this part (saved_state.py); now and then
    candidates: dict[str, bytes]  # by layer: maps of a running top (`--maps exemplars` only)


def fresh_statistics(spec: RunSpec) -> Statistics:
    """Statistics that have seen no part."""
    return Statistics(spec.layers, tail_length(spec.images, spec.patches), spec.device)


def run_parts(
    plan: Plan,
    parts: Sequence[Part],
    statistics: Statistics | None,
    advance: Callable[[int, int], None],
    write: Callable[[Part, PartBuffer, Filled], None],
) -> None:
    """Run the images of some parts, in order, and hand each part to `write`, in a thread of its own.

    They are added to the statistics; None: nobody wants any, as where single parts are made again.
    """
    if not parts:
        return
    keep_freed_memory()
    spec, running = plan.spec, _running_maps(plan.spec)
    batches = feed(plan.source, spec.preprocessing, parts, spec.batch_size, plan.decoders)
    writer = PartWriter([a for a in arrays(spec).values() if a.by_part], write)
    stated = time.monotonic()
    counts = fresh_statistics(spec) if statistics is None else statistics
    try:
        with Capture(plan.anatomy, spec, plan.head, counts) as capture:
            if statistics is not None and not statistics.centred:
                calibrate(capture, plan.source, spec)
            for part in parts:
                started, buffer = time.monotonic(), writer.buffer
                images: list[ImageFacts] = []
                while len(images) < part.images:
                    batch = next(batches)
                    _one_batch(capture, batch, part, buffer, running)
                    images += batch.facts
                    advance(len(batch.facts), part_bytes(spec) * len(batch.facts) // part.images)
                buffer.blank(np.arange(part.images, spec.part_images))
                candidates = {name: maps.of_images(part.start) for name, maps in running.items()}
                state = None
                due = part is parts[-1] or time.monotonic() - stated >= STATE_SECONDS
                if statistics is not None and due:
                    state, stated = pack_state(statistics), time.monotonic()
                seconds = round(time.monotonic() - started, 3)
                writer.submit(part, Filled(images, seconds, state, candidates))
    finally:
        writer.close()


def _running_maps(spec: RunSpec) -> dict[str, RunningMaps]:
    if spec.maps != "exemplars":
        return {}
    k, device = min(EXEMPLARS, spec.images), torch.device(spec.device)
    return {layer.name: RunningMaps(layer.units, k, spec.patches, device) for layer in spec.layers}


def _one_batch(capture: Capture, batch: Batch, part: Part, buffer: PartBuffer, running: dict[str, RunningMaps]) -> None:
    """Capture a batch and put its rows into the part."""
    rows = np.array(batch.ids, np.int64) - part.start
    buffer.blank(np.setdiff1d(batch.first - part.start + np.arange(len(batch.facts)), rows))
    if not batch.ids:
        return
    captured = capture(batch.pixels, batch.ids)
    for name, maps in running.items():
        maps.add(captured[f"{name}/max"], batch.ids, captured.pop(f"{name}/map"))
    for path, values in captured.items():
        buffer.put(path, rows, values.cpu().numpy())
    buffer.put("valid", rows, np.ones(len(rows), bool))
    if "inputs" in buffer.specs:
        buffer.put("inputs", rows, batch.pixels.numpy())
