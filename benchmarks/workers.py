"""Two workers of one thread beside one, over one index: images a second from the first image to the last part's entry.

python benchmarks/workers.py --count 768 --turns 3

Also two that have nothing in common, each half of the images in an index of its own: what the machine itself gives to
two at once. JPEGs are made (500 x 375) and go through vit_small_patch16_224 with random weights, in parts of 16 images.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from record import Figure, record
from throughput import jpegs

WORKER = """
import sys, time
from pathlib import Path
from vitdex.indexer.build import Quiet
from vitdex.indexer.plan import Request
from vitdex.indexer.workers.join import join

class Told(Quiet):
    def planned(self, run, done):
        print("ready", flush=True)
        sys.stdin.readline()

out, weights, images, limit = sys.argv[1:]
settings = dict(device="cpu", workers=0, batch_size=16, part_images=16, limit=int(limit))
join(Request(Path(out), "vit_small_patch16_224", images, weights, **settings), Told(), finish_it=False)
"""


def filling(root: Path, workers: int, images: int, apart: bool = False) -> float:
    """Seconds in which so many workers, all of them ready, fill an index of so many images, or each one of its own."""
    outs = [root / (f"out-{worker}" if apart else "out") for worker in range(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, out, root / "weights.safetensors", root / "images", str(images)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for out in outs
    ]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    start = time.time()
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.close()
    assert [run.wait() for run in runs] == [0] * workers
    seconds = max(entry.stat().st_mtime for out in outs for entry in (out / "parts").glob("0*.json")) - start
    for out in set(outs):
        shutil.rmtree(out)
    return seconds


@click.command()
@click.option("--count", default=768, show_default=True, help="Images.")
@click.option("--turns", default=3, show_default=True)
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
def main(count: int, turns: int, out: Path | None) -> None:
    """One worker, then two, turn by turn."""
    import timm
    import torch
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        jpegs(root / "images", count)
        torch.manual_seed(0)
        save_file(timm.create_model("vit_small_patch16_224").state_dict(), root / "weights.safetensors")
        ratios, limits = [], []
        for turn in range(turns):
            one, two = filling(root, 1, count), filling(root, 2, count)
            apart = filling(root, 2, count // 2, apart=True)
            ratios.append(one / two)
            limits.append(one / apart)
            shown = f"one {count / one:.2f} images/s, two {count / two:.2f}, apart {count / apart:.2f}"
            click.echo(f"turn {turn}: {shown}; {one / two:.2f} and {one / apart:.2f} times")
        figures = [
            Figure("two workers of one thread beside one", statistics.median(ratios), "times", 1.85, more=True),
            Figure("two runs of one thread apart beside one", statistics.median(limits), "times", more=True),
        ]
        for figure in figures:
            click.echo(figure.line)
        record(out, "workers", figures)


if __name__ == "__main__":
    main()
