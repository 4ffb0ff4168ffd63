"""What looking after an index costs: reading for `verify` beside `cat`, and checksums and flushing in a run.

python benchmarks/integrity.py verify OUT --turns 3        # the same files, page-cached, turn by turn
python benchmarks/integrity.py cost --limit 480            # of indexing the packaged sample
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import google_crc32c
import xxhash
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.indexer.run import part_writer as writer
from vitdex.schemas.integrity import verify as check


@click.group()
def main() -> None:
    """Measure what integrity costs."""


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--turns", default=3, show_default=True)
def verify(out: Path, turns: int) -> None:
    """`verify` and `cat` on the files of an index, after both have read them once."""
    files = [path for path in out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    for turn in range(turns + 1):
        start = time.perf_counter()
        subprocess.run(["cat", *map(str, files)], stdout=subprocess.DEVNULL, check=True)
        cat = time.perf_counter() - start
        start = time.perf_counter()
        assert check(out) == []
        ours = time.perf_counter() - start
        if turn:  # the first fills the page cache
            click.echo(f"{size / 1e9:.2f} GB: cat {cat:.2f} s, verify {ours:.2f} s, {cat / ours:.2f} of its speed")


@main.command()
@click.option("--limit", default=480, show_default=True)
def cost(limit: int) -> None:
    """Seconds in checksums and in fsync, by whichever thread, as a share of a run.

    Where they overlap with the model, the run is less than so much longer: the share is an upper bound.
    """
    seconds = {"checksums": 0.0, "flushing": 0.0}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args)
            finally:
                seconds[name] += time.perf_counter() - start

        return run

    google_crc32c.value = timed("checksums", google_crc32c.value)
    xxhash.xxh3_128_hexdigest = timed("checksums", xxhash.xxh3_128_hexdigest)
    writer.file_facts = timed("checksums", writer.file_facts)  # type: ignore[attr-defined]
    os.fsync = timed("flushing", os.fsync)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build(sample_request(Path(folder) / "a", limit=limit, device="cpu"), Quiet())
        whole = time.perf_counter() - start
    shares = ", ".join(f"{name} {took:.2f} s ({took / whole:.1%})" for name, took in seconds.items())
    click.echo(f"{limit} images: {whole:.1f} s; {shares}")


if __name__ == "__main__":
    main()
