"""Indexing beside the plain loop that any such tool must run: the same images, decoder, workers, batches and precision
into the bare forward pass, nothing kept. Turn by turn in one run: the plain loop, the same with the forward pass that
indexing has (prepared weights), then each way to index.

python benchmarks/throughput.py --images DIR --turns 5              # 2 cores: vit_small_patch16_224
python benchmarks/throughput.py --device cuda --model vit_base_patch16_224 --batch-size 256 --count 4096

Without --images, JPEGs are made (500 x 375, random blobs); weights are random. Indexing is timed from the first image
to the last part's ledger entry, checksums and flushing included; the end of a run is in scale.py.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import vitdex.indexer  # noqa: F401 - before torch, for how its idle threads wait

# isort: split
import click
import numpy as np
import timm
import torch
from PIL import Image, ImageFilter
from record import Figure, record
from safetensors.torch import save_file
from vitdex.data.images.preprocess import mean_and_std, normalise
from vitdex.data.models.device import DTYPES
from vitdex.indexer.build import recorder
from vitdex.indexer.ledger import Ledger
from vitdex.indexer.plan import Plan, Request, default_workers, make_plan
from vitdex.indexer.run.feed import feed
from vitdex.indexer.run.part_runner import fresh_statistics, run_parts
from vitdex.indexer.run.prepared import prepared as from_prepared_weights
from vitdex.schemas.layout import Layout
from vitdex.schemas.run_spec import Maps, Precision

ASKED: dict[Maps, dict[str, float]] = {  # of a plain loop in a precision; of one with the same forward pass
    "none": {"float32": 1.03, "bfloat16": 1.10, "same": 0.94},
    "uint8": {"float32": 0.98, "bfloat16": 1.00, "same": 0.89},
}


def jpegs(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        noise = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8)).resize((500, 375))
        noise.filter(ImageFilter.GaussianBlur(2)).save(folder / f"{i:06d}.jpg", quality=90)


def prepared(root: Path, model: str, images: str | None, count: int) -> Request:
    """A request for so many images, made where there are none, through a model of random weights."""
    if images is None:
        images = str(root / "images")
        jpegs(Path(images), count)
    torch.manual_seed(0)
    save_file(timm.create_model(model).state_dict(), root / "weights.safetensors")
    return Request(root / "out", model, images, root / "weights.safetensors", limit=count)


@dataclass
class Lanes:
    """Seconds of one plain loop, in all and by lane."""

    total: float = 0.0
    forward: float = 0.0


@torch.inference_mode()
def plain_loop(plan: Plan, workers: int) -> Lanes:
    """Decode and forward, nothing kept."""
    spec, model, lanes = plan.spec, plan.anatomy.model, Lanes()
    device = torch.device(spec.device)
    mean, std = mean_and_std(spec.preprocessing, device)
    start = time.perf_counter()
    for batch in feed(plan.source, spec.preprocessing, spec.parts, spec.batch_size, workers):
        before = time.perf_counter()
        with torch.autocast(device.type, DTYPES[spec.precision], enabled=spec.precision != "float32"):
            model(normalise(batch.pixels.to(device), mean, std))
        if device.type == "cuda":
            torch.cuda.synchronize()
        lanes.forward += time.perf_counter() - before
    lanes.total = time.perf_counter() - start
    return lanes


def indexing(plan: Plan, root: Path) -> float:
    """Seconds from the first image to the last part's ledger entry."""
    layout = Layout(root)
    layout.parts.mkdir(parents=True)
    ledger = Ledger(layout)
    ledger.begin(plan.spec)
    start = time.perf_counter()
    counts = fresh_statistics(plan.spec)
    run_parts(plan, plan.spec.parts, counts, lambda images, written: None, recorder(ledger))
    seconds = time.perf_counter() - start
    shutil.rmtree(root)
    return seconds


@dataclass
class Row:
    """One way to index beside the plain loop."""

    precision: Precision
    maps: Maps
    plain: list[float] = field(default_factory=list)
    same: list[float] = field(default_factory=list)  # the loop with the forward pass that indexing has
    index: list[float] = field(default_factory=list)

    def ratio(self, loop: list[float]) -> float:
        """A loop's time as a share of indexing's: the median turn."""
        return statistics.median(p / i for p, i in zip(loop, self.index, strict=True))

    def figures(self, device: str) -> list[Figure]:
        asked = ASKED[self.maps] if device == "cpu" else {}
        what = f"{self.precision}, maps {self.maps}"
        plain, same = self.ratio(self.plain), self.ratio(self.same)
        return [
            Figure(f"indexing / plain loop, {what}", plain, "", asked.get(self.precision), more=True),
            Figure(f"indexing / loop with its forward pass, {what}", same, "", asked.get("same"), more=True),
        ]

    def line(self, count: int) -> str:
        rates = [f"{count / statistics.median(seconds):.2f}" for seconds in (self.plain, self.same, self.index)]
        ratios = [f"{self.ratio(loop):.3f}" for loop in (self.plain, self.same)]
        return f"| {' | '.join([self.precision, self.maps, *rates, *ratios])} |"


@click.command()
@click.option("--images", help="Images to measure with; made where there are none.")
@click.option("--model", default="vit_small_patch16_224", show_default=True)
@click.option("--count", default=256, show_default=True, help="Images.")
@click.option("--turns", default=5, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--workers", default=default_workers(), show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(get_args(Precision)),
    multiple=True,
    default=["float32", "bfloat16"],
    show_default=True,
)
@click.option(
    "--maps", "kinds", type=click.Choice(get_args(Maps)), multiple=True, default=["none", "uint8"], show_default=True
)
@click.option("--counted", type=int, help="Patches of an image that are counted; 16 in a run over 50,000 images.")
@click.option("--folder", type=click.Path(path_type=Path), help="On the disk to be measured.")
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
    kinds: tuple[Maps, ...],
    counted: int | None,
    folder: Path | None,
    out: Path | None,
) -> None:
    """Indexing against the plain loop."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        root = Path(place)
        request = prepared(root, model, images, count)
        request = replace(request, device=device, batch_size=batch_size, workers=workers)
        rows: list[Row] = []
        lanes = Lanes()
        for precision in precisions:
            plans = {maps: make_plan(replace(request, precision=precision, maps=maps)) for maps in kinds}
            if counted:
                plans = {m: replace(p, spec=replace(p.spec, counted_patches=counted)) for m, p in plans.items()}
            of_maps = {maps: Row(precision, maps) for maps in kinds}
            rows += of_maps.values()
            for plan in plans.values():  # compiles, warms up
                little = replace(plan.spec, images=batch_size, part_images=batch_size)
                indexing(replace(plan, spec=little), root / "out")
            plan = plans[kinds[-1]]
            for _ in range(turns):
                plain = plain_loop(plan, workers)
                lanes.total, lanes.forward = lanes.total + plain.total, lanes.forward + plain.forward
                with from_prepared_weights(plan.anatomy.model, plan.spec):
                    same = plain_loop(plan, workers)
                for maps, row in of_maps.items():
                    row.plain.append(plain.total)
                    row.same.append(same.total)
                    row.index.append(indexing(plans[maps], root / "out"))
        threads = torch.get_num_threads()
        click.echo(f"{model} on {device}, {threads} threads, {workers} workers, {count} images, batch {batch_size}, "
                   f"{plan.spec.counted_patches} patches counted, {turns} turns")  # fmt: skip
        click.echo(
            "| precision | maps | plain loop img/s | its forward pass | indexing img/s | ratios (median turn) | |\n"
            "|---|---|---|---|---|---|---|"
        )
        for row in rows:
            click.echo(row.line(count))
        click.echo(f"forward {lanes.forward / lanes.total:.0%} of the plain loop")
        record(out, f"throughput-{'-'.join(precisions)}", [figure for row in rows for figure in row.figures(device)])


if __name__ == "__main__":
    main()
