"""How far many workers go: a simulation of one index by N workers from measured costs, with what holds it up.

python benchmarks/scaling.py                       # 1 to 256 GPUs, 50,000 to 100 million images, a folder and a bucket
python benchmarks/scaling.py --rate 25 --part 60   # other workers: images a second, MB of a part's files

A worker makes one part after another; while it makes the next, it writes the last, through its own link and through
the store that all share, which serves whole files in the order in which they come. Each minute it also writes its
counts. The end is one worker's: it reads every entry and all counts, and makes the tables. Costs are in Costs, with
where each was measured.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import click


@dataclass(frozen=True)
class Costs:
    """Seconds, bytes and rates. ViT-B/16; an H200 in bfloat16, this machine's two cores (benchmarks/NOTES.md)."""

    rate: float  # images a second of a worker
    part_images: int
    part_bytes: float
    link: float = 3e9  # bytes a second of a worker to the store
    store: float = 40e9  # bytes a second of the store, all workers together
    journey: float = 0.0005  # seconds of a request: 0.0005 on a shared folder, 0.03 in a bucket
    at_once: int = 16  # files that a worker writes at once
    files: int = 110  # of a part
    names: int = 1_000_000  # names that a listing gives in one journey: 1,000 in a bucket
    start: float = 20.0  # imports, model, list of images
    state: float = 70e6  # bytes of a worker's counts
    pack: float = 0.9  # seconds to pack them, and as many to merge
    end_of_image: float = 0.002  # seconds of the tables: 100 s for 50,000 (scale.py)
    ahead: float = 5.0  # seconds of work that is leased at once


class Run(NamedTuple):
    """What became of a run."""

    workers: int
    filling: float  # seconds until the last part is written
    end: float  # seconds of the end
    alone: float  # seconds in which the workers would only compute
    held_up_by: str


def simulate(costs: Costs, images: int, workers: int) -> Run:
    """One index, event by event: every event is a worker that has computed a part."""
    parts = -(-images // costs.part_images)
    compute = costs.part_images / costs.rate
    leased = max(1, int(costs.ahead / compute))
    small = costs.journey * (costs.files / costs.at_once + 2)  # rounds of requests, then sums and entry
    store_free, last, listed = 0.0, 0.0, 0.0
    writing = [costs.start] * workers
    waited = {"the link": 0.0, "the store": 0.0, "requests": 0.0}
    ready = [(costs.start + compute, worker) for worker in range(min(workers, parts))]
    heapq.heapify(ready)
    for part in range(parts):
        now, worker = heapq.heappop(ready)
        begun = max(now, writing[worker])  # the part before leaves the buffer first
        own = costs.part_bytes / costs.link
        slot = max(begun, store_free)
        store_free = slot + costs.part_bytes / costs.store
        writing[worker] = max(begun + own, store_free) + small
        waited["the link"] += own
        waited["the store"] += store_free - begun
        waited["requests"] += small
        last = max(last, writing[worker])
        lease = costs.journey * (3 * -(-3 * part // costs.names) + 3) / leased
        listed += lease
        pack = costs.pack * min(1.0, compute / 60)
        if part + len(ready) + 1 < parts:
            heapq.heappush(ready, (begun + lease + pack + compute, worker))
    end = parts * costs.journey * 2 / 16 + workers * (2 * costs.state / costs.link + costs.pack)
    end += costs.end_of_image * images
    waited["leases"] = listed
    alone = costs.start + -(-parts // workers) * compute
    held = max(waited, key=lambda name: waited[name]) if last > 1.1 * alone else "computing"
    return Run(workers, last, end, alone, held)


def time_text(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d}" if hours else f"{seconds / 60:.1f} min"


WORK = (("none", 8000.0, 250.0, 256), ("uint8", 1960.0, 1000.0, 128))  # images a second, MB and images of a part
PLACES = (("a shared folder", 0.0005, 16, 1_000_000), ("a bucket", 0.03, 64, 1000))  # seconds, files at once, names


@click.command()
@click.option("--rate", type=float, help="Images a second of a worker.")
@click.option("--part", type=float, help="MB of a part's files.")
def main(rate: float | None, part: float | None) -> None:
    """Tables of the simulation."""
    for maps, per_second, megabytes, part_images in WORK:
        for place, journey, at_once, names in PLACES:
            size = (part or megabytes) * 1e6
            costs = Costs(rate or per_second, part_images, size, journey=journey, at_once=at_once, names=names)
            click.echo(f"\nmaps {maps}, {place}, {costs.rate:,.0f} images/s a worker, {size / 1e6:,.0f} MB a part\n")
            click.echo(
                "| images | workers | filling | end | of N workers' own time | held up by |\n|---|---|---|---|---|---|"
            )
            for images in (50_000, 1_300_000, 100_000_000):
                for workers in (1, 4, 16, 64, 256):
                    run = simulate(costs, images, workers)
                    share = run.alone / run.filling
                    times = f"{time_text(run.filling)} | {time_text(run.end)}"
                    click.echo(f"| {images:,} | {workers} | {times} | {share:.2f} | {run.held_up_by} |")


if __name__ == "__main__":
    main()
