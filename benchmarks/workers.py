"""Two workers of one thread beside one, over one index: images a second from the first image to the last part's entry.

python benchmarks/workers.py --count 256 --turns 3

JPEGs are made (500 x 375) and go through vit_small_patch16_224 with random weights, in parts of 16 images.
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

out, weights, images = sys.argv[1:]
settings = dict(device="cpu", workers=0, batch_size=16, part_images=16)
join(Request(Path(out), "vit_small_patch16_224", images, weights, **settings), Told(), finish_it=False)
"""


def filling(root: Path, workers: int) -> float:
    """Seconds in which so many workers, all of them ready, fill an index."""
    out, images = root / "out", str(root / "images")
    command = [sys.executable, "-c", WORKER, str(out), str(root / "weights.safetensors"), images]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(workers)
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
    seconds = max(entry.stat().st_mtime for entry in (out / "parts").glob("0*.json")) - start
    shutil.rmtree(out)
    return seconds


@click.command()
@click.option("--count", default=256, show_default=True, help="Images.")
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
        ratios = []
        for turn in range(turns):
            one, two = filling(root, 1), filling(root, 2)
            ratios.append(one / two)
            click.echo(f"turn {turn}: one {count / one:.2f} images/s, two {count / two:.2f}, {one / two:.2f} times")
        ratio = statistics.median(ratios)
        click.echo(f"two workers of one thread make {ratio:.2f} times what one makes")
        record(out, "workers", [Figure("two workers of one thread beside one", ratio, "times", 1.85, more=True)])


if __name__ == "__main__":
    main()
