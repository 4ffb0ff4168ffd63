"""The atlas at the scale of ImageNet's validation set through ViT-B/16: pages as served, the export, many clients.

python benchmarks/atlas.py --record bench

The index is that of queries.py with the files that pages read: one layer's maps and the packaged sample's pictures
stand, linked, for all parts. Pages are asked over HTTP of `vitdex atlas serve` in a process of its own.
"""

from __future__ import annotations

import http.client
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from urllib.parse import urlsplit

import click
import numpy as np
import psutil
import queries
from PIL import Image
from record import HEADER, Figure, own_bytes, record
from vitdex.query.atlas.arrangement import arranged
from vitdex.query.atlas.atlas import Atlas
from vitdex.query.atlas.export import plan_export, write_export
from vitdex.query.atlas.spaces import rows_of
from vitdex.query.atlas.writers import workers_for
from vitdex.query.index import Index
from vitdex.schemas.array_specs import ArraySpec, arrays
from vitdex.schemas.layout import Layout
from vitdex.schemas.run_spec import RunSpec
from vitdex.schemas.sizes import bytes_text
from vitdex.schemas.storage.chunk_files import encode_file

PLACE = 7  # of the layer whose neurons are asked
TIMES = 40
SERVE = "from vitdex.query.commands.main import main; main()"


def linked(root: Path, array: ArraySpec, first: Path) -> None:
    """One file stands for all of an array."""
    for name in array.file_names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.hardlink_to(first)


def make(root: Path) -> None:
    """The synthetic index, with all files that pages read."""
    spec: RunSpec = replace(queries.run_spec(), inputs=True)
    queries.make(root, spec)
    every = arrays(spec)
    maps, units = every[f"{queries.LAYER}/map"], np.arange(queries.UNITS)
    values = np.random.default_rng(0).integers(0, 256, maps.file_shape, np.uint8)
    values[:, units, units % spec.patches] = 255  # at the peaks that queries.py puts into its tables
    (root / maps.part_file(0)).write_bytes(encode_file(values, maps))
    for leaf in ("map", "min", "max"):
        first = root / every[f"{queries.LAYER}/{leaf}"].part_file(0)
        for layer in spec.layers:
            linked(root, every[f"{layer.name}/{leaf}"], first)
    for layer in spec.layers:
        top, maxima = every[f"{layer.name}/token_top"], every[f"{layer.name}/max_by_neuron"]
        values = np.random.default_rng(0).integers(0, layer.units, top.file_shape).astype(top.dtype)
        put(root, top, values)
        if layer.name != queries.LAYER:
            queries.write(root, maxima, 0, 0)
        linked(root, maxima, root / maxima.part_file(0))
    put(root, every["valid"], np.ones(every["valid"].file_shape, bool))
    put(root, every["logits"], np.random.default_rng(0).standard_normal(every["logits"].file_shape, np.float32))
    put(root, every["inputs"], pictures(every["inputs"].file_shape))


def put(root: Path, array: ArraySpec, values: np.ndarray) -> None:
    """The values of one file as all files of an array."""
    first = root / array.part_file(0)
    first.parent.mkdir(parents=True, exist_ok=True)
    first.write_bytes(encode_file(values, array))
    linked(root, array, first)


def pictures(shape: tuple[int, ...]) -> np.ndarray:
    """The packaged sample's images, enlarged."""
    made = np.zeros(shape, np.uint8)
    with as_file(files("vitdex.data").joinpath("sample/images")) as folder:
        for row, file in zip(made, sorted(folder.glob("*/*")), strict=False):
            row[...] = np.asarray(Image.open(file).convert("RGB").resize((shape[2], shape[1])))
    return made


@contextmanager
def served(root: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of the index's atlas, and its process."""
    command = [sys.executable, "-u", "-c", SERVE, "atlas", "serve", str(root), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def ask(connection: http.client.HTTPConnection, address: str) -> bytes:
    """What lies at an address. Raises RuntimeError where it does not."""
    connection.request("GET", f"/{address}", headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{address}: {answer.status} {content[:200]!r}")
    return content


def page(kind: str, number: int) -> list[str]:
    """The addresses of a page of a kind, another one for every number."""
    unit = (number * 61) % queries.UNITS
    return {
        "neuron": [f"data/neuron/{PLACE}/{unit}.json", f"data/neuron/{PLACE}/{unit}.jpgs"],
        "class": [f"data/class/{number}.json", f"data/class/{number}.jpgs"],
        "image": [f"data/image/{number * 7}.json", f"data/image/{number * 7}.jpg"],
        "layer": [f"data/layer/{PLACE}.json"],
        "map": ["data/map.json"],
        "search": ["data/search.json"],
    }[kind]


def pages(address: str) -> list[Figure]:
    """Milliseconds of a page's data: the first of a kind, which reads what pages share; others, whose files of the
    index are read and checked for the first time (here exemplars lie anywhere, and not in the few files of a class's
    folder); and the same once more.
    """
    place, figures = urlsplit(address), []
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=600)
    for kind in ("neuron", "class", "image", "layer", "search", "map"):
        many = TIMES if kind in ("neuron", "class", "image") else 2
        seconds = np.zeros((2, many))
        for turn in (0, 1):
            for number in range(many):
                start = time.perf_counter()
                for one in page(kind, number):
                    ask(connection, one)
                seconds[turn, number] = time.perf_counter() - start
        figures.append(Figure(f"{kind}: the first page", 1000 * float(seconds[0, 0]), "ms"))
        if many > 2:
            figures.append(Figure(f"{kind}: another, not seen before", 1000 * float(np.median(seconds[0, 1:])), "ms"))
        figures.append(Figure(f"{kind}: warm", 1000 * float(np.median(seconds[1])), "ms", 150))
    return figures


def crowd(address: str, process: psutil.Process, clients: int, seconds: float) -> list[Figure]:
    """Many clients at once, each asking one neuron's page after the other."""
    place, took, faults = urlsplit(address), [], []
    end = time.perf_counter() + seconds

    def client(own: int) -> None:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
        number = own
        while time.perf_counter() < end:
            start = time.perf_counter()
            try:
                for one in page("neuron", number):
                    ask(connection, one)
            except Exception as error:
                faults.append(repr(error))
                return
            took.append(time.perf_counter() - start)
            number += clients

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    held = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        held.append(own_bytes(process.pid) / 1e9)
    quarter = max(1, len(held) // 4)
    return [
        Figure(f"{clients} clients for {seconds:.0f} s: neurons' pages a second", len(took) / seconds, "1/s"),
        Figure("their errors", len(faults), "", 0.5),
        Figure("half of them within", 1000 * float(np.median(took)), "ms"),
        Figure("99 of 100 within", 1000 * float(np.quantile(took, 0.99)), "ms"),
        Figure("memory of the server after a quarter of the time", statistics.mean(held[quarter : 2 * quarter]), "GB"),
        Figure("memory of the server at the end", held[-1], "GB"),
    ]


def exported(root: Path, out: Path) -> list[Figure]:
    """Seconds of an export of everything, and its neurons a second: they are written last, by processes that run."""
    with Index(root) as index:
        start = time.perf_counter()
        plan = plan_export(index, out)
        said = f"all {plan.neurons:,} neurons: {len(plan.addresses):,} files, about {bytes_text(plan.bytes)}"
        print(f"{said}; planned in {time.perf_counter() - start:.0f} s", flush=True)
        before = sum(not address.startswith("data/neuron/") for address in plan.addresses)
        start = time.perf_counter()
        reached: list[tuple[int, float]] = []

        def tell(done: int, total: int) -> None:
            if done >= before:
                reached.append((done, time.perf_counter()))

        write_export(plan, workers=workers_for(10**9), progress=tell)
        seconds = time.perf_counter() - start
        (first, begun), (last, ended) = reached[0], reached[-1]
        share = (last - first) / (len(plan.addresses) - before)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return [
        Figure("export: neurons a second", share * plan.neurons / (ended - begun), "1/s", 200, more=True),
        Figure("export: seconds of all", seconds, "s"),
        Figure("export: size of all", size / 1e9, "GB"),
        Figure("export: the size that was told", plan.bytes / 1e9, "GB"),
        Figure("export: files of all", float(len(plan.addresses)), ""),
    ]


def arrangement(root: Path) -> list[Figure]:
    """Seconds of arranging all neurons for the map, and the neighbours that it keeps."""
    with Index(root) as index:
        rows = rows_of(Atlas(index), "vectors")
        start = time.perf_counter()
        made = arranged(rows, f"benchmark-{time.time_ns()}")
    return [
        Figure(f"{len(rows):,} neurons arranged", time.perf_counter() - start, "s"),
        Figure("share of neighbours kept", made.kept, ""),
    ]


@click.command()
@click.option("--folder", "where", type=click.Path(path_type=Path), help="On the disk to be measured.")
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
@click.option("--clients", default=50, show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="Of many clients.")
@click.option("--only", type=click.Choice(["pages", "crowd", "export", "map"]), multiple=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Make the index here, or use the one that is here.")
def main(
    where: Path | None, out: Path | None, clients: int, seconds: float, only: tuple[str, ...], keep: Path | None
) -> None:
    """Make the index, ask, print."""
    figures: list[Figure] = []

    def tell(more: list[Figure]) -> None:
        for figure in more:
            print(figure.line, flush=True)
        figures.extend(more)

    with tempfile.TemporaryDirectory(dir=where) as folder:
        root = keep or Path(folder) / "big.vitdex"
        if not Layout(root).manifest.exists():
            make(root)
        print(HEADER)
        chosen = only or ("pages", "crowd", "export", "map")
        if "pages" in chosen or "crowd" in chosen:
            with served(root) as (address, process):
                if "pages" in chosen:
                    tell(pages(address))
                if "crowd" in chosen:
                    tell(crowd(address, process, clients, seconds))
        if "export" in chosen:
            tell(exported(root, Path(folder) / "out"))
        if "map" in chosen:
            tell(arrangement(root))
        record(out, "atlas", figures)


if __name__ == "__main__":
    main()
