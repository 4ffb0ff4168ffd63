"""What a run sends to a bucket, beside the same bytes sent by obstore alone to the same server.

python benchmarks/uploads.py s3://BUCKET/FOLDER --turns 3       # rights and server by AWS_..., as for an index
python benchmarks/uploads.py --turns 3                          # to moto's server, on this machine

Parts are full of chance and no model runs: what is measured is how a run's recorder sends them (files, sums, leases,
entries, tallies), so it can be as fast as the server. Everything is sent into a new folder and removed again.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from uuid import uuid4

import click
import numpy as np
from record import Figure, record
from vitdex.indexer.build import recorder
from vitdex.indexer.ledger import Ledger
from vitdex.indexer.plan import make_plan, sample_request
from vitdex.indexer.run.part_runner import Filled, fresh_statistics
from vitdex.indexer.run.part_writer import PartBuffer
from vitdex.indexer.statistics.saved_state import pack_state
from vitdex.indexer.workers.leases import CountedLeases
from vitdex.schemas.array_specs import arrays
from vitdex.schemas.layout import Layout
from vitdex.schemas.run_spec import RunSpec
from vitdex.schemas.storage.elsewhere import PIECE, PIECES_AT_ONCE
from vitdex.schemas.storage.remote_folder import RemoteFolder
from vitdex.schemas.workers.leases import beating, worker_name

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from bucket import make_bucket, s3_server


def by_the_run(folder: RemoteFolder, spec: RunSpec, buffer: PartBuffer, state: bytes) -> float:
    """Seconds for all parts, each with what it leaves beside its arrays; counts once, as in a run of a minute."""
    ledger = Ledger(Layout(Path("unused")), folder, worker_name())
    ledger.begin(spec)
    leases = CountedLeases(ledger, spec, lambda images: None)
    write = recorder(ledger, leases).write
    with beating(ledger):
        start = time.perf_counter()
        for part in leases.parts():
            last = part.index == len(spec.parts) - 1
            write(part, buffer, Filled([], 0.0, None, state if last else None, {}))
        return time.perf_counter() - start


def by_obstore(folder: RemoteFolder, spec: RunSpec, buffer: PartBuffer, state: bytes) -> float:
    """Seconds for the same files, as many at once, in pieces of the same size."""
    store, held = folder.there.store, asyncio.Semaphore(folder.at_once)
    files: list[tuple[str, bytes | memoryview]] = [("state", state)]
    files += (item for part in spec.parts for item in buffer.files(part.index).items())

    async def put(key: str, content: bytes | memoryview) -> None:
        async with held:
            await store.put_async(key, content, chunk_size=PIECE, max_concurrency=PIECES_AT_ONCE)

    async def put_all() -> None:
        await asyncio.gather(*(put(key, content) for key, content in files))

    start = time.perf_counter()
    asyncio.run(put_all())
    return time.perf_counter() - start


@click.command()
@click.argument("address", required=False)
@click.option("--part-images", default=120, show_default=True)
@click.option("--turns", default=3, show_default=True)
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
def main(address: str | None, part_images: int, turns: int, out: Path | None) -> None:
    """The run, then obstore, turn by turn."""
    spec = make_plan(sample_request(Path("unused"), part_images=part_images, device="cpu")).spec
    specs = [array for array in arrays(spec).values() if array.by_part]
    buffer, state = PartBuffer(specs), pack_state(fresh_statistics(spec))
    for raw in buffer.memory:
        raw[:] = np.random.default_rng(0).integers(0, 256, raw.shape, np.uint8)
    size = len(spec.parts) * sum(array.file_bytes for array in specs) + len(state)
    ways = {"the run": by_the_run, "obstore alone": by_obstore}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    server: AbstractContextManager[dict[str, str]] = s3_server() if address is None else nullcontext({})
    with server as access:
        os.environ.update(access)
        root = address or make_bucket("benchmark")
        for turn in range(turns):
            for name, send in ways.items():
                folder = RemoteFolder(f"{root}/{uuid4().hex}")
                speeds[name].append(size / send(folder, spec, buffer, state) / 1e6)
                folder.clear("")
            click.echo(f"turn {turn}: " + ", ".join(f"{name} {each[-1]:.0f} MB/s" for name, each in speeds.items()))
    ratio = statistics.median(a / b for a, b in zip(*speeds.values(), strict=True))
    files = len(spec.parts) * len(specs)
    click.echo(f"{size / 1e6:.0f} MB in {files} files of {len(spec.parts)} parts: the run / obstore alone {ratio:.2f}")
    record(out, "uploads", [Figure("sent by a run / by obstore alone", ratio, "times", 0.7, more=True)])


if __name__ == "__main__":
    main()
