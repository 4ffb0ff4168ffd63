"""Stored look-ups at the scale of ImageNet's validation set through ViT-B/16: warm medians against what was asked.

python benchmarks/queries.py

The index is synthetic: random values in the order and the encoding in which an index holds them, and only the files
that the questions read.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import duckdb
import numpy as np
from vitdex.indexer import writer
from vitdex.schemas.layout import ArraySpec, Layout, arrays
from vitdex.schemas.manifest import seal_manifest
from vitdex.schemas.records import LayerSpec, RunSpec

IMAGES, CLASSES, BLOCKS, UNITS = 50_000, 1000, 12, 3072
NEURONS = BLOCKS * UNITS
LAYER = "blocks.7.mlp.fc1"
SIDES = (("top", "patch", 100), ("bottom", "patch", 20), ("quantile", "patch", 9), ("top", "cls", 20))
CLASSES_AT_ONCE = 50
TIMES = 30


def run_spec() -> RunSpec:
    """A ViT-B/16 over 50,000 images, as its index would say."""
    return RunSpec(
        **dict.fromkeys(("weights_sha256", "head_sha256", "class_names", "source", "images_sha256", "device"), ""),
        model="synthetic",
        model_args={},
        head="model",
        preprocessing={"input_size": [3, 224, 224]},
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
        maps="uint8",
        inputs=False,
        images=IMAGES,
        batch_size=64,
        part_images=256,
        counted_patches=16,
    )


def write(root: Path, spec: ArraySpec, *file: int) -> None:
    """One file of an array, of random values."""
    random, shape = np.random.default_rng(len(spec.path)), (spec.chunks_per_file, *spec.chunks)
    raw = np.zeros(spec.file_bytes, np.uint8)
    writer._chunks(raw, spec)[...] = (
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
                    f"random() * {IMAGES - 1}, random() * 195, random(), random() FROM range({UNITS * kept})"
                )
        db.execute(f"INSERT INTO classes SELECT range, 'n' || range, 'class ' || range, 0 FROM range({CLASSES})")
        db.execute(
            f"INSERT INTO images SELECT range, 'n/' || range || '.JPEG', 'n', range % {CLASSES}, 0, 1, 500, 375, NULL "
            f"FROM range({IMAGES})"
        )
        key = f"'blocks.' || range % {NEURONS} // {UNITS} || '.mlp.fc1', range % {UNITS}, range // {NEURONS}"
        rank = f"1 + hash(range) % {NEURONS}"
        for table, columns in (
            ("class_scores", f"random(), random(), random(), random(), {rank}, {rank}, {rank}"),
            ("class_activations", "50, random(), random(), random(), random(), random(), random()"),
        ):
            for first in range(0, CLASSES, CLASSES_AT_ONCE):
                rows = f"range({first * NEURONS}, {(first + CLASSES_AT_ONCE) * NEURONS})"
                db.execute(f"INSERT INTO {table} SELECT {key}, {columns} FROM {rows}")


def make(root: Path) -> None:
    """The synthetic index: all tables; weights; one layer's maxima, and its maps in one part."""
    layout, spec = Layout(root), run_spec()
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
    layout.manifest.write_bytes(seal_manifest({"run": json.loads(json.dumps(spec.to_json())), "files": {}}))


if __name__ == "__main__":
    pass
