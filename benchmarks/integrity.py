"""What looking after an index costs: reading for `verify` beside `cat`, and checksums and flushing in a run.

python benchmarks/integrity.py verify INDEX --turns 3      # the same files, page-cached, turn by turn
python benchmarks/integrity.py cost --limit 480            # of indexing the packaged sample
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from pkgutil import resolve_name
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import click
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.schemas.integrity import verify as check

CALLS = {  # what a run spends its time on, and where it calls it
    "checksums": (
        "crc32c.crc32c",
        "xxhash.xxh3_128_hexdigest",
        "vitdex.indexer.build.file_facts",
        "vitdex.indexer.tables.whole_arrays.file_facts",
        "vitdex.schemas.storage.atomic_files.file_facts",
    ),
    "flushing": ("os.fsync",),
}

P = ParamSpec("P")
T = TypeVar("T")


@click.group()
def main() -> None:
    """Measure what integrity costs."""


@main.command()
@click.argument("index_path", metavar="INDEX", type=click.Path(path_type=Path))
@click.option("--turns", default=3, show_default=True)
def verify(index_path: Path, turns: int) -> None:
    """`verify` and `cat` on the files of an index, after both have read them once."""
    files = [path for path in index_path.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    for turn in range(turns + 1):
        start = time.perf_counter()
        subprocess.run(["cat", *map(str, files)], stdout=subprocess.DEVNULL, check=True)
        cat = time.perf_counter() - start
        start = time.perf_counter()
        assert check(index_path) == []
        ours = time.perf_counter() - start
        if turn:  # the first fills the page cache
            click.echo(f"{size / 1e9:.2f} GB: cat {cat:.2f} s, verify {ours:.2f} s, {cat / ours:.2f} of its speed")


@main.command()
@click.option("--limit", default=480, show_default=True)
def cost(limit: int) -> None:
    """Seconds in checksums and in fsync, by whichever thread, as a share of a run.

    Where they overlap with the model, the run is less than so much longer: the share is an upper bound.
    """
    seconds = dict.fromkeys(CALLS, 0.0)

    def timed(kind: str, call: Callable[P, T]) -> Callable[P, T]:
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                seconds[kind] += time.perf_counter() - start

        return run

    with ExitStack() as patches, tempfile.TemporaryDirectory() as folder:
        for kind, names in CALLS.items():
            for name in names:
                patches.enter_context(patch(name, timed(kind, resolve_name(name))))
        start = time.perf_counter()
        build(sample_request(Path(folder) / "a", limit=limit, device="cpu"), Quiet())
        whole = time.perf_counter() - start
    shares = ", ".join(f"{name} {took:.2f} s ({took / whole:.1%})" for name, took in seconds.items())
    click.echo(f"{limit} images: {whole:.1f} s; {shares}")


if __name__ == "__main__":
    main()
