"""What each lane of an indexing run costs by itself: decode, forward, reduce, copy, write; so that the narrowest shows.

python benchmarks/lanes.py --images DIR                       # 2 cores: vit_small_patch16_224
python benchmarks/lanes.py --device cuda --model vit_base_patch16_224 --batch-size 256

Lanes overlap in a run: the slowest sets its pace, unless they share the same cores. Milliseconds an image, medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import vitdex.indexer  # noqa: F401 - before torch, for how its idle threads wait

# isort: split
import click
import numpy as np
import torch
from record import Figure, record
from throughput import prepared
from vitdex.indexer.memory import keep_freed_memory
from vitdex.indexer.plan import Plan, default_workers, make_plan
from vitdex.indexer.run.capture import DTYPES, Capture, normalise
from vitdex.indexer.run.feed import feed
from vitdex.indexer.run.part_runner import fresh_statistics
from vitdex.indexer.run.part_writer import PartBuffer
from vitdex.schemas.array_specs import arrays
from vitdex.schemas.storage.atomic_files import write_file

TIMES = 7
COUNT = 384  # images; of fewer, the largest values themselves would be kept, which a large run does not


def medians(runs: Sequence[Callable[[], Any]], images: int, device: str) -> list[float]:
    """Milliseconds an image of each, turn by turn."""
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(TIMES + 1):  # the first one warms up
        for run, taken in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn:
                taken.append(time.perf_counter() - start)
    return [1000 * statistics.median(taken) / images for taken in seconds]


def lanes(plan: Plan, workers: int, place: Path) -> dict[str, float]:
    """Milliseconds an image of every lane."""
    spec, device = plan.spec, plan.spec.device
    start = time.perf_counter()
    batches = list(feed(plan.source, spec.preprocessing, spec.parts, spec.batch_size, workers))
    found = {"decode": 1000 * (time.perf_counter() - start) / spec.images}
    batch = batches[0]
    count, rows = len(batch.ids), np.arange(len(batch.ids))
    mean, std = (torch.tensor(spec.preprocessing[k], device=device).view(3, 1, 1) for k in ("mean", "std"))

    def forward() -> None:
        precision = DTYPES[spec.precision]
        with torch.inference_mode(), torch.autocast(device, precision, enabled=spec.precision != "float32"):
            plan.anatomy.model(normalise(batch.pixels.to(device), mean, std))

    capture = Capture(plan.anatomy, spec, plan.head, fresh_statistics(spec))

    def captured() -> dict[str, torch.Tensor]:
        with capture:  # its hooks are there for this one alone
            return capture(batch.pixels, batch.ids)

    found["forward"], both = medians((forward, captured), count, device)
    found["reduce"] = both - found["forward"]
    arrays_of_batch = captured()
    buffer = PartBuffer([a for a in arrays(spec).values() if a.by_part])

    def copy() -> None:
        for path, values in arrays_of_batch.items():
            buffer.put(path, rows, values.cpu().numpy())

    def write() -> None:
        buffer.store(0, lambda path, content: write_file(place / path, content))

    (found["copy"],) = medians((copy,), count, device)
    (found["write"],) = medians((write,), spec.part_images, device)
    return found


@click.command()
@click.option("--images", help="Images to measure with; made where there are none.")
@click.option("--model", default="vit_small_patch16_224", show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--workers", default=default_workers(), show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="On the disk to be measured.")
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
def main(
    images: str | None,
    model: str,
    batch_size: int,
    workers: int,
    device: str,
    folder: Path | None,
    out: Path | None,
) -> None:
    """The cost of every lane, in float32 and bfloat16, with uint8 maps."""
    keep_freed_memory()
    figures = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        root = Path(place)
        request = replace(prepared(root, model, images, COUNT), device=device, batch_size=batch_size)
        for precision in ("float32", "bfloat16"):
            plan = make_plan(replace(request, precision=precision))
            plan = replace(plan, spec=replace(plan.spec, counted_patches=16))  # as in a run over 50,000 images
            found = lanes(plan, workers, root)
            figures += [Figure(f"{lane}, {precision}", value, "ms an image") for lane, value in found.items()]
            shown = ", ".join(f"{lane} {value:.2f}" for lane, value in found.items())
            click.echo(f"{model}, {precision}, {workers} workers, ms an image: {shown}")
    record(out, "lanes", figures)


if __name__ == "__main__":
    main()
