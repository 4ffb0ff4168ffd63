"""The memory of an indexing run over time: what it takes beyond the libraries and the model, and whether it grows.

python benchmarks/memory.py --images DIR --count 2000

Asked: at most 2.5 parts, and no growth. After a minute a state is packed for the first time, which takes its memory; so
growth is the second half of a run against the first, both after the first minute.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import vitdex.indexer  # noqa: F401 - before torch, for how its idle threads wait

# isort: split
import click
from record import Figure, own_bytes, record
from throughput import indexing, prepared
from vitdex.indexer.plan import default_workers, make_plan
from vitdex.indexer.run.part_runner import STATE_SECONDS
from vitdex.schemas.array_specs import part_bytes

SECONDS = 0.05  # between two looks
PARTS_ASKED = 2.5
GROWTH_ASKED = 1.02


class Watch(threading.Thread):
    """Looks at the memory until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_bytes, self.seen, self.stopped = own_bytes(), list[int](), threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(SECONDS):
            self.seen.append(own_bytes() - self.start_bytes)

    def stop(self) -> list[int]:
        self.stopped.set()
        self.join()
        return self.seen


@click.command()
@click.option("--images", help="Images to measure with; made where there are none.")
@click.option("--model", default="vit_small_patch16_224", show_default=True)
@click.option("--count", default=2000, show_default=True, help="Images.")
@click.option("--workers", default=default_workers(), show_default=True)
@click.option("--counted", type=int, help="Patches of an image that are counted; 16 in a run over 50,000 images.")
@click.option("--folder", type=click.Path(path_type=Path), help="On the disk to be measured.")
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
def main(
    images: str | None,
    model: str,
    count: int,
    workers: int,
    counted: int | None,
    folder: Path | None,
    out: Path | None,
) -> None:
    """Memory of a run with uint8 maps, float32."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        root = Path(place)
        plan = make_plan(replace(prepared(root, model, images, count), workers=workers))
        if counted:
            plan = replace(plan, spec=replace(plan.spec, counted_patches=counted))
        watch = Watch()
        watch.start()
        start = time.perf_counter()
        indexing(plan, root / "out")
        seconds, seen = time.perf_counter() - start, watch.stop()
    if seconds < 1.5 * STATE_SECONDS:
        raise click.ClickException("the run is too short to show whether memory grows: give more images (--count)")
    later = seen[int(len(seen) * STATE_SECONDS / seconds) :]
    part, peak, half = part_bytes(plan.spec), max(seen), len(later) // 2
    growth = max(later[half:]) / max(later[:half])
    click.echo(f"{model}, {count} images in {len(plan.spec.parts)} parts of {part / 1e9:.2f} GB, {seconds:.0f} s: "
               f"peak {peak / 1e9:.2f} GB beyond libraries and model, {peak / part:.2f} parts; "
               f"growth {growth:.3f}")  # fmt: skip
    figures = [
        Figure("peak memory beyond libraries and model", peak / part, "parts", PARTS_ASKED),
        Figure("growth of the memory over time", growth, "", GROWTH_ASKED),
    ]
    record(out, "memory", figures)


if __name__ == "__main__":
    main()
