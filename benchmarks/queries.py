"""Stored look-ups at the scale of ImageNet's validation set through ViT-B/16: warm medians against what was asked.

python benchmarks/queries.py --record bench

The index is synthetic: random values in the order and the encoding in which an index holds them, and only the files
that the questions read.
"""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import click
import duckdb
import numpy as np
from record import HEADER, Figure, own_bytes, record
from vitdex.query.index import Index
from vitdex.query.lookups.image_search import neighbours, top_images
from vitdex.schemas.array_specs import ArraySpec, arrays
from vitdex.schemas.layout import Layout
from vitdex.schemas.manifest import seal_manifest, this_machine
from vitdex.schemas.run_spec import LayerSpec, RunSpec
from vitdex.schemas.storage import chunk_files as writer

IMAGES, CLASSES, BLOCKS, UNITS = 50_000, 1000, 12, 3072
NEURONS = BLOCKS * UNITS
LAYER = "blocks.7.mlp.fc1"
SIDES = (("top", "patch", 100), ("bottom", "patch", 20), ("quantile", "patch", 9), ("top", "cls", 20))
CLASSES_AT_ONCE = 50
TIMES = 30
SCANNED = 2048  # images of the scan without an index: 2.5 GB of maps of one layer


def run_spec() -> RunSpec:
    """A ViT-B/16 over 50,000 images, as its index would say."""
    return RunSpec(
        model="synthetic",
        model_args={},
        weights_sha256="",
        head="model",
        head_sha256="",
        class_names="",
        preprocessing={
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "crop_pct": 0.9,
            "crop_mode": "center",
        },
        activation="GELU",
        layers=tuple(LayerSpec(f"blocks.{b}.mlp.fc1", b, "hidden", UNITS) for b in range(BLOCKS)),
        grid=(14, 14),
        prefix=1,
        cls=True,
        features=768,
        classes=CLASSES,
        readout="token",
        precision="float32",
        tf32=False,
        compiled=False,
        device="",
        maps="uint8",
        inputs=False,
        source="",
        images=IMAGES,
        images_sha256="",
        batch_size=64,
        part_images=256,
        counted_patches=16,
    )


def write(root: Path, spec: ArraySpec, *file: int) -> None:
    """One file of an array, of random values."""
    random, shape = np.random.default_rng([len(spec.path), *file]), (spec.chunks_per_file, *spec.chunks)
    raw = np.zeros(spec.file_bytes, np.uint8)
    writer.chunk_values(raw, spec)[...] = (
        random.integers(0, 256, shape, np.uint8) if spec.dtype == "uint8" else random.standard_normal(shape, np.float32)
    )
    path = root / spec.file(*file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(writer.seal(raw, spec))


def fill_tables(database: Path) -> None:
    """index.duckdb with the package's tables, sorted as the indexer sorts them."""
    with duckdb.connect(str(database)) as db:
        db.execute("SET preserve_insertion_order = true")
        db.execute(files("vitdex.schemas").joinpath("tables.sql").read_text())
        for block in range(BLOCKS):
            layer = f"'blocks.{block}.mlp.fc1'"
            db.execute(f"INSERT INTO layers VALUES ({layer}, {block}, 'hidden', {UNITS}, 14, 14)")
            values = ", ".join(["random()"] * 11)
            db.execute(f"INSERT INTO neurons SELECT {layer}, range, {values}, false FROM range({UNITS})")
            for side, token, kept in SIDES:
                db.execute(
                    f"INSERT INTO exemplars SELECT {layer}, range // {kept}, '{side}', '{token}', range % {kept} + 1, "
                    f"random() * {IMAGES - 1}, range // {kept} % 196, random(), random() FROM range({UNITS * kept})"
                )
        db.execute(f"INSERT INTO classes SELECT range, 'n' || range, 'class ' || range, 0 FROM range({CLASSES})")
        db.execute(
            f"INSERT INTO images SELECT range, 'n/' || range || '.JPEG', 'n', range % {CLASSES}, 0, 1, 500, 375, "
            f"{{'left': 62.5, 'top': 0, 'right': 437.5, 'bottom': 375}} FROM range({IMAGES})"
        )
        key = f"'blocks.' || range % {NEURONS} // {UNITS} || '.mlp.fc1', range % {UNITS}, range // {NEURONS}"
        rank, rank_in_unit = f"1 + hash(range) % {NEURONS}", f"1 + (range // {NEURONS} + range % {NEURONS}) % {CLASSES}"
        for table, columns in (
            ("class_scores", f"random(), random(), random(), random(), {rank}, {rank}, {rank_in_unit}"),
            ("class_activations", "50, random(), random(), random(), random(), random(), random()"),
        ):
            for first in range(0, CLASSES, CLASSES_AT_ONCE):
                rows = f"range({first * NEURONS}, {(first + CLASSES_AT_ONCE) * NEURONS})"
                db.execute(f"INSERT INTO {table} SELECT {key}, {columns} FROM {rows}")


def make(root: Path, spec: RunSpec) -> None:
    """The synthetic index: all tables; weights; one layer's maxima, and its maps in one part."""
    layout = Layout(root)
    root.mkdir(exist_ok=True)
    if not layout.database.exists():
        fill_tables(layout.database)
    every = arrays(spec)
    write(root, every["head"], 0, 0)
    for path in ("value_vectors", "folded_vectors"):
        for block in range(BLOCKS):
            write(root, every[path], block, 0, 0)
    write(root, every[f"{LAYER}/map"], 0, 0, 0)
    for leaf in ("min", "max", "max_by_neuron"):
        write(root, every[f"{LAYER}/{leaf}"], 0, 0)
    layout.manifest.write_bytes(seal_manifest(manifest(spec)))


def manifest(spec: RunSpec) -> dict[str, object]:
    """What such an index says of itself: with the size of every file that it would have."""
    return {
        "created": "2026-01-01T00:00:00+00:00",
        "run": json.loads(json.dumps(spec.to_json())),
        "images": {"found": IMAGES, "indexed": IMAGES, "failed": 0, "skipped": [], "beyond_limit": 0},
        "machine": this_machine(1, None),
        "seconds": 0.0,
        "notes": [],
        "files": {name: [array.file_bytes, "0" * 32] for array in arrays(spec).values() for name in array.file_names},
    }


def questions(index: Index) -> list[tuple[str, float | None, Callable[[], object]]]:
    """What is asked, the milliseconds it may take (None: nothing was asked), and how."""
    random = np.random.default_rng(0)
    few, many = ([(LAYER, int(u)) for u in random.choice(UNITS, n, replace=False)] for n in (3, 300))
    view = "FROM key_neurons WHERE class = 'class 500' ORDER BY rank_in_class LIMIT 10"
    return [
        ("exemplars of a neuron", 5, lambda: index.exemplars(LAYER, 1234)),
        ("stored map", 2, lambda: index.map(LAYER, 1234, 77)),
        ("stored map in SQL", 2, lambda: index.sql("SELECT activation_map(?, 1234, 77)", [LAYER])),
        ("top neurons of a class, by score", 5, lambda: index.key_neurons("class 500")),
        ("top neurons of a class, by contribution", 5, lambda: index.key_neurons("class 500", by="contribution")),
        ("the same from the view key_neurons", None, lambda: index.sql(view)),
        ("a neuron's classes", 20, lambda: index.classes_of(LAYER, 1234)),
        ("a neuron's card", None, lambda: index.neuron(LAYER, 1234)),
        ("top 20 images of 3 neurons", 50, lambda: top_images(index, few)),
        ("top 20 images of 300 neurons", 50, lambda: top_images(index, many)),
        (f"top 20 images of all {UNITS} neurons of a layer", 50, lambda: top_images(index, [LAYER])),
        ("20 neighbours among 3 neurons, cosine", None, lambda: neighbours(index, 7, few)),
        (f"20 neighbours among {UNITS} neurons, cosine", None, lambda: neighbours(index, 7, [LAYER])),
    ]


def scan(folder: Path) -> Callable[[], object]:
    """A neuron's top 15 without an index: NumPy over its maps in a memory-mapped file of float16."""
    random, spec = np.random.default_rng(0), run_spec()
    maps = np.lib.format.open_memmap(folder / "maps.npy", "w+", np.float16, (SCANNED, UNITS, spec.patches))
    for image in maps:
        image[:] = random.random(image.shape, np.float32)
    return lambda: np.argsort(maps[:, 1234].max(1))[:-16:-1]


def median(ask: Callable[[], object]) -> float:
    """Milliseconds of a question that has been asked before."""
    ask()
    seconds = []
    for _ in range(TIMES):
        start = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1000


@click.command()
@click.option("--folder", "where", type=click.Path(path_type=Path), help="On the disk to be measured.")
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
def main(where: Path | None, out: Path | None) -> None:
    """Make the index in a temporary folder, ask, print."""
    with tempfile.TemporaryDirectory(dir=where) as folder:
        make(Path(folder), run_spec())
        before = own_bytes() / 1e9
        print(HEADER)
        figures = []
        with Index(folder) as index:
            for name, asked, ask in questions(index):
                figures.append(Figure(name, median(ask), "ms", asked))
                print(figures[-1].line, flush=True)
        peer = f"exemplars of a neuron by a NumPy scan of {SCANNED:,} images' maps, not {IMAGES:,}"
        figures.append(Figure(peer, median(scan(Path(folder))), "ms"))
        print(figures[-1].line, flush=True)
        print(f"\nmemory of its own: {before:.2f} GB before the questions, {own_bytes() / 1e9:.2f} GB after them")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"peak with mapped files and the making of the index: {peak:.2f} GB")
        record(out, "queries", figures)


if __name__ == "__main__":
    main()
