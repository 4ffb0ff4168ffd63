"""One part's maps to the disk: vitdex, zarr-python and tensorstore in the same layout, beside a raw sequential write.

python benchmarks/writer.py --folder /scratch --turns 5

Every way writes the same bytes, checksums included, and flushes them; its files are removed before the next one starts.
"""

from __future__ import annotations

import mmap
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import zarr
from numpy.typing import NDArray
from record import Figure, record
from vitdex.indexer.run.part_writer import PartBuffer
from vitdex.schemas.array_specs import ArraySpec, units_per_chunk
from vitdex.schemas.storage.atomic_files import STEP, page_aligned, write_file
from vitdex.schemas.storage.zarr_group import declare

IMAGES, UNITS, PATCHES = 256, 3072, 196  # a part of ViT-B/16
CHUNK = units_per_chunk(UNITS, IMAGES * PATCHES)
Values = NDArray[np.uint8]


def layer(number: int) -> ArraySpec:
    shape = (IMAGES, UNITS, PATCHES)
    chunks = (IMAGES, CHUNK, PATCHES)
    return ArraySpec(f"blocks.{number}.mlp.fc1/map", ("image", "neuron", "patch"), shape, "uint8", chunks, shape, "")


def flush(folder: Path) -> None:
    """What a library has written, to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def raw(folder: Path, layers: int, content: Values) -> None:
    """As many bytes in as many files, through the page cache."""
    for number in range(layers):
        with (folder / str(number)).open("wb") as file:
            file.write(content.data)
            file.flush()
            os.fsync(file.fileno())


def direct(folder: Path, layers: int, content: Values) -> None:
    """The same past the page cache; whole pages, so some bytes fewer."""
    pages = content[: len(content) // mmap.PAGESIZE * mmap.PAGESIZE]
    for number in range(layers):
        file = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o666)
        for start in range(0, len(pages), STEP):
            os.write(file, pages[start : start + STEP].data)
        os.fsync(file)
        os.close(file)


def ours(folder: Path, buffer: PartBuffer) -> None:
    """Checksums and files, as the indexer's writing lane makes them of a full buffer."""
    buffer.store(0, lambda path, content: write_file(folder / path, content))


def by_zarr(folder: Path, specs: list[ArraySpec], values: Values) -> None:
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    for spec in specs:
        declare(group, spec)
        array = group[spec.path]
        assert isinstance(array, zarr.Array)
        array[...] = values
    flush(folder)


def by_tensorstore(folder: Path, specs: list[ArraySpec], values: Values) -> None:
    import tensorstore

    for spec in specs:
        store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / spec.path)}}
        inner = {"chunk_shape": list(spec.chunks), "codecs": [{"name": "bytes"}, {"name": "crc32c"}]}
        metadata = {
            "shape": list(spec.shape),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.file_shape)}},
            "data_type": spec.dtype,
            "codecs": [{"name": "sharding_indexed", "configuration": inner}],
        }
        array = tensorstore.open({**store, "metadata": metadata}, create=True).result()
        array.write(values).result()
    flush(folder)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="On the disk to be measured.")
@click.option("--layers", default=12, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
def main(folder: Path | None, layers: int, turns: int, out: Path | None) -> None:
    """Writing maps, turn by turn."""
    specs = [layer(number) for number in range(layers)]
    values = np.random.default_rng(0).integers(0, 256, (IMAGES, UNITS, PATCHES), np.uint8)
    buffer = PartBuffer(specs)
    for spec in specs:
        buffer.put(spec.path, np.arange(IMAGES), values)
    size = sum(spec.file_bytes for spec in specs)
    content = page_aligned(specs[0].file_bytes)
    content[: values.size] = values.reshape(-1)
    ways: dict[str, Callable[[Path], None]] = {
        "raw sequential write": lambda place: raw(place, layers, content),
        "raw, past the page cache": lambda place: direct(place, layers, content),
        "vitdex": lambda place: ours(place, buffer),
        "zarr-python": lambda place: by_zarr(place, specs, values),
        "tensorstore": lambda place: by_tensorstore(place, specs, values),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, write in ways.items():
            with tempfile.TemporaryDirectory(dir=folder) as place:
                start = time.perf_counter()
                write(Path(place))
                speeds[name].append(size / (time.perf_counter() - start) / 1e6)
                shutil.rmtree(place, ignore_errors=True)
    print(f"{size / 1e9:.2f} GB of maps, {layers} files, {turns} turns\n\n| way | MB/s, median | lowest | highest |")
    print("|---|---|---|---|")
    for name, measured in speeds.items():
        print(f"| {name} | {statistics.median(measured):.0f} | {min(measured):.0f} | {max(measured):.0f} |")
    ratio = statistics.median(o / r for o, r in zip(speeds["vitdex"], speeds["raw sequential write"], strict=True))
    print(f"\nvitdex / raw sequential write, median turn: {ratio:.2f}")
    figures = [Figure(f"maps written by {name}", statistics.median(each), "MB/s") for name, each in speeds.items()]
    record(out, "writer", [Figure("vitdex / raw sequential write", ratio, asked=0.7, more=True), *figures])


if __name__ == "__main__":
    main()
