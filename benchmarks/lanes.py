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

import vitdex.indexer  # noqa: F401 - before torch, for how its idle threads wait

# isort: split
import click
import numpy as np
import torch
from record import Figure, record
from throughput import prepared
from vitdex.data.images.preprocess import mean_and_std, normalise
from vitdex.data.models.device import DTYPES
from vitdex.indexer.memory import keep_freed_memory
from vitdex.indexer.plan import Plan, default_workers, make_plan
from vitdex.indexer.run.calibrate import calibrate
from vitdex.indexer.run.capture import Capture
from vitdex.indexer.run.feed import feed
from vitdex.indexer.run.part_runner import fresh_statistics
from vitdex.indexer.run.part_writer import PartBuffer
from vitdex.schemas.array_specs import arrays
from vitdex.schemas.run_spec import Precision
from vitdex.schemas.storage.atomic_files import write_file

TIMES = 7
COUNT = 384  # images; of fewer, the largest values themselves would be kept, which a large run does not


def medians(runs: Sequence[Callable[[], object]], images: int, device: str) -> list[float]:
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
    cost = {"decode": 1000 * (time.perf_counter() - start) / spec.images}
    batch = batches[0]
    count, rows = len(batch.ids), np.arange(len(batch.ids))
    mean, std = mean_and_std(spec.preprocessing, device)

    def forward() -> None:
        precision = DTYPES[spec.precision]
        with torch.inference_mode(), torch.autocast(device, precision, enabled=spec.precision != "float32"):
            plan.anatomy.model(normalise(batch.pixels.to(device), mean, std))

    counts = fresh_statistics(spec)
    capture = Capture(plan.anatomy, spec, plan.head, counts)
    with capture:
        counts.lay_bins(calibrate(capture, plan.source, spec))

    def captured() -> dict[str, torch.Tensor]:
        with capture:  # its hooks are there for this one alone
            return capture(batch.pixels, batch.ids).arrays

    cost["forward"], both = medians((forward, captured), count, device)
    cost["reduce"] = both - cost["forward"]
    arrays_of_batch = captured()
    buffer = PartBuffer([a for a in arrays(spec).values() if a.by_part])

    def copy() -> None:
        for path, values in arrays_of_batch.items():
            buffer.put(path, rows, values.cpu().numpy())

    def write() -> None:
        buffer.store(0, lambda path, content: write_file(place / path, content))

    (cost["copy"],) = medians((copy,), count, device)
    (cost["write"],) = medians((write,), spec.part_images, device)
    return cost


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
        precisions: tuple[Precision, ...] = ("float32", "bfloat16")
        for precision in precisions:
            plan = make_plan(replace(request, precision=precision))
            plan = replace(plan, spec=replace(plan.spec, counted_patches=16))  # as in a run over 50,000 images
            cost = lanes(plan, workers, root)
            figures += [Figure(f"{lane}, {precision}", value, "ms an image") for lane, value in cost.items()]
            shown = ", ".join(f"{lane} {value:.2f}" for lane, value in cost.items())
            click.echo(f"{model}, {precision}, {workers} workers, ms an image: {shown}")
    record(out, "lanes", figures)


if __name__ == "__main__":
    main()
