"""A GPU's share of an indexing run: beside the bare forward pass, without a disk and without decoding.

python benchmarks/gpu.py                                  # one command, no downloads: made images, random weights
python benchmarks/gpu.py --images DIR --profile           # DIR's images for the decoding; where the device's time goes

The bare forward pass takes the same pixels from page-locked memory. Summaries and maps go into a part's files with
their checksums, which then are thrown away. Images a second, medians of turns in which all three take their turn: of
a run under way (what it costs once, as to lock memory and to keep the last statistics, stands apart).
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import vitdex.indexer  # noqa: F401 - before torch, for how its idle threads wait

# isort: split
import click
import timm
import torch
from record import Figure, record
from safetensors.torch import save_file
from throughput import jpegs
from torch import Tensor
from vitdex.data.images.preprocess import mean_and_std, normalise
from vitdex.data.models.device import DTYPES
from vitdex.indexer.plan import Plan, Request, default_workers, make_plan
from vitdex.indexer.run import part_runner
from vitdex.indexer.run.feed import Batch, feed
from vitdex.indexer.run.part_runner import Filled, Recorder, fresh_statistics, run_parts
from vitdex.indexer.run.part_writer import PartBuffer
from vitdex.schemas.facts import ImageFacts
from vitdex.schemas.run_spec import Maps, Part, Precision, RunSpec

ASKED: dict[Maps, float] = {"none": 0.90, "uint8": 0.75}
DIFFERENT = 64  # images that are made; the others are links to them


def many_images(folder: Path, source: str | None, count: int) -> str:
    """A folder of so many JPEGs, few of them different."""
    if source is None:
        source = str(folder / "different")
        jpegs(Path(source), DIFFERENT)
    files = sorted(p for p in Path(source).rglob("*") if p.is_file())
    (folder / "many").mkdir()
    for i, file in zip(range(count), itertools.cycle(files)):
        (folder / "many" / f"{i:06d}{file.suffix}").symlink_to(file.absolute())
    return str(folder / "many")


class Held:
    """Batches whose pixels are in memory already, in place of those that are decoded."""

    def __init__(self, spec: RunSpec) -> None:
        _, height, width = spec.preprocessing["input_size"]
        random = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (spec.batch_size, height, width, 3), dtype=torch.uint8, generator=random)
        self.pixels = pixels.pin_memory() if spec.device.startswith("cuda") else pixels

    def __call__(
        self, source: Any, config: Any, parts: Sequence[Part], batch_size: int, workers: int
    ) -> Iterator[Batch]:
        for part in parts:
            for first in range(part.start, part.stop, batch_size):
                ids = list(range(first, min(first + batch_size, part.stop)))
                facts = [ImageFacts(str(i), None, 224, 224, (0, 0, 224, 224)) for i in ids]
                yield Batch(first, ids, self.pixels[: len(ids)], facts)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def bare(plan: Plan, pixels: Tensor) -> float:
    """Seconds of the forward pass alone, all images."""
    spec, device = plan.spec, torch.device(plan.spec.device)
    mean, std = mean_and_std(spec.preprocessing, device)
    wait(device)
    start = time.perf_counter()
    for _ in range(spec.images // len(pixels)):
        with torch.autocast(device.type, DTYPES[spec.precision], enabled=spec.precision != "float32"):
            plan.anatomy.model(normalise(pixels.to(device, non_blocking=True), mean, std))
    wait(device)
    return time.perf_counter() - start


@dataclass
class Run:
    """Seconds of one run that writes nowhere, and its images a second once it is under way."""

    seconds: float
    pace: float


def indexing(plan: Plan) -> Run:
    """The same images through an indexing run whose files are thrown away."""
    written: list[tuple[float, int]] = []

    def thrown_away(part: Part, buffer: PartBuffer, filled: Filled) -> None:
        buffer.store(part.index, lambda path, content: None)
        assert filled.sums is not None
        filled.sums.result()
        written.append((time.perf_counter(), part.stop))

    counts = fresh_statistics(plan.spec)
    start = time.perf_counter()
    run_parts(plan, plan.spec.parts, counts, lambda images, written: None, Recorder(thrown_away))
    wait(torch.device(plan.spec.device))
    seconds = time.perf_counter() - start
    (first, done), (last, all_of_them) = written[len(written) // 4], written[-2 if len(written) > 4 else -1]
    return Run(seconds, (all_of_them - done) / (last - first) if last > first else plan.spec.images / seconds)


def decoding(plan: Plan) -> float:
    """Seconds in which the workers decode all images."""
    start = time.perf_counter()
    for _ in feed(plan.source, plan.spec.preprocessing, plan.spec.parts, plan.spec.batch_size, plan.decoders):
        pass
    return time.perf_counter() - start


def profile(plan: Plan) -> str:
    """Where the device's time goes."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as found:
        indexing(plan)
    return str(found.key_averages().table(sort_by="self_cuda_time_total", row_limit=28, max_name_column_width=60))


@click.command()
@click.option("--images", help="A folder of images for the decoding; made where there is none.")
@click.option("--model", default="vit_base_patch16_224", show_default=True)
@click.option("--count", default=8192, show_default=True, help="Images, whole batches.")
@click.option("--turns", default=3, show_default=True)
@click.option("--batch-size", default=256, show_default=True)
@click.option("--workers", default=default_workers("cuda"), show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--precision", "precisions", multiple=True, default=["bfloat16", "float32"], show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="Also tell where the device's time goes.")
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
def main(
    images: str | None,
    model: str,
    count: int,
    turns: int,
    batch_size: int,
    workers: int,
    device: str,
    precisions: tuple[Precision, ...],
    profiled: bool,
    out: Path | None,
) -> None:
    """Indexing on a GPU against the bare forward pass."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    figures = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        torch.manual_seed(0)
        save_file(timm.create_model(model).state_dict(), root / "weights.safetensors")
        many = many_images(root, images, count)
        request = Request(
            root / "out",
            model,
            many,
            root / "weights.safetensors",
            device=device,
            batch_size=batch_size,
            workers=workers,
        )
        for precision in precisions:
            plans = {maps: make_plan(replace(request, precision=precision, maps=maps)) for maps in ASKED}
            counted = {m: replace(p, spec=replace(p.spec, counted_patches=16)) for m, p in plans.items()}
            figures += compared(counted, turns, profiled)
        rate = count / decoding(plans["none"])
        figures.append(Figure(f"decoding by {workers} workers", rate, "images a second", more=True))
        if device.startswith("cuda"):
            figures.append(Figure("largest memory of the device", torch.cuda.max_memory_allocated() / 1e9, "GB"))
    click.echo(
        f"{model} on {name}, torch {torch.__version__}, {count} images, batches of {batch_size}, {workers} workers"
    )
    for figure in figures:
        click.echo(figure.line)
    record(out, "gpu", figures)


def compared(plans: dict[Maps, Plan], turns: int, profiled: bool) -> list[Figure]:
    """Figures of one precision."""
    spec = plans["none"].spec
    precision, of_maps = spec.precision, {maps: Held(plan.spec) for maps, plan in plans.items()}
    plain: list[float] = []
    runs: dict[Maps, list[Run]] = {maps: [] for maps in plans}
    for turn in range(turns + 1):  # the first one warms up
        rate = spec.images / bare(plans["none"], of_maps["none"].pixels)
        plain += [rate] if turn else []
        for maps, plan in plans.items():
            setattr(part_runner, "feed", of_maps[maps])  # noqa: B010 - mypy knows nothing of it there
            run = indexing(plan)
            runs[maps] += [run] if turn else []
    figures = [Figure(f"bare forward, {precision}", statistics.median(plain), "images a second", more=True)]
    for maps, plan in plans.items():
        pace = statistics.median(run.pace for run in runs[maps])
        ratio = statistics.median(run.pace / rate for run, rate in zip(runs[maps], plain, strict=True))
        once = statistics.median(run.seconds - spec.images / run.pace for run in runs[maps])
        figures.append(Figure(f"indexing, {precision}, maps {maps}", pace, "images a second", more=True))
        figures.append(Figure(f"indexing / bare, {precision}, maps {maps}", ratio, "", ASKED[maps], more=True))
        figures.append(Figure(f"once, {precision}, maps {maps}", once, "s"))
        if profiled:
            few = replace(plan, spec=replace(plan.spec, images=min(1024, spec.images)))
            click.echo(f"{precision}, maps {maps}, {few.spec.images} images\n{profile(few)}")
    return figures


if __name__ == "__main__":
    main()
