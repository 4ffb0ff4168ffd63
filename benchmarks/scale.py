"""One layer at the scale of ImageNet's validation set: what the tables cost, step by step, and a few queries.

python benchmarks/scale.py --images 50000 --units 3072 --classes 1000
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import click
import duckdb
import numpy as np
import pandas as pd
import psutil
import zarr
from numpy.typing import NDArray
from vitdex.indexer import tables
from vitdex.indexer.arrays import declare
from vitdex.indexer.statistics import class_auroc, class_means, exemplar_ranks, score_ranks
from vitdex.indexer.writer import encode_file, write_file
from vitdex.schemas.layout import ARRAYS, ArraySpec, units_per_chunk
from vitdex.schemas.records import LayerSpec
from zarr.codecs import Crc32cCodec

Floats = NDArray[np.float32]

LAYER = LayerSpec("blocks.0.mlp.fc1", 0, "hidden", 0)
PART = 250
MEANS = ("mean_max", "mean", "post_mean", "cls_post_mean", "contribution")
LAYERS = 12


@dataclass
class Clock:
    """Seconds, resident memory behind each step and peak so far."""

    rows: list[tuple[str, float, float, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts KiB
        self.rows.append((name, seconds, psutil.Process().memory_info().rss / 1e9, peak))
        click.echo(f"{name:<44} {seconds:>9.3f} s  {self.rows[-1][2]:>6.1f} GB now  {peak:>6.1f} GB peak")

    def extrapolate(self) -> None:
        building = [(name, seconds) for name, seconds, *_ in self.rows if not name.startswith("query")]
        total = sum(seconds for _, seconds in building)
        click.echo(f"\nx{LAYERS} layers, straight: {LAYERS * total / 60:.1f} min")
        for name, seconds in sorted(building, key=lambda row: -row[1])[:3]:
            click.echo(f"  {seconds / total:>5.0%}  {name}: {LAYERS * seconds / 60:.1f} min")


def summaries(group: zarr.Group, images: int, units: int) -> zarr.Array:
    """Synthetic maxima [image, neuron], streamed to disk part by part."""
    array = group.create_array(
        f"{LAYER.name}/max", shape=(images, units), dtype="float32", chunks=(PART, units), compressors=Crc32cCodec()
    )
    random = np.random.default_rng(0)
    taste = random.standard_normal((units,), np.float32)
    for start in range(0, images, PART):
        rows = min(PART, images - start)
        array[start : start + rows] = random.standard_normal((rows, units), np.float32) + taste
    return array


def by_neuron_spec(images: int, units: int) -> ArraySpec:
    chunk = (units_per_chunk(units, 4 * images), images)
    path = f"{LAYER.name}/max_by_neuron"
    return ArraySpec(path, ("neuron", "image"), (units, images), "float32", chunk, (units, images), "")


def insert_exemplars(db: duckdb.DuckDBPyConnection, by_neuron: Floats, sides: dict[str, NDArray[np.int64]]) -> None:
    units = np.arange(len(by_neuron))
    for side, ids in sides.items():
        pre = by_neuron[units[:, None], ids].ravel()
        columns = {
            "layer": LAYER.name,
            "unit": np.repeat(units, ids.shape[1]),
            "side": side,
            "token": "patch",
            "rank": np.tile(np.arange(1, ids.shape[1] + 1), len(units)),
            "image_id": ids.ravel(),
            "patch": pd.array(np.zeros(ids.size, np.uint16)),
            "pre": pre,
            "post": pre,
        }
        tables._insert(db, "exemplars", columns)


def score_columns(units: int, classes: int) -> dict[str, Floats | NDArray[np.int64]]:
    """class_scores of one layer, [class, neuron]; softmax over the classes."""
    score = np.random.default_rng(1).standard_normal((classes, units), np.float32)
    share = np.exp(score)
    ranks = score_ranks(np.ascontiguousarray(score.T)).T
    return {
        "score": score,
        "cosine": score / 10,
        "probability": share / share.sum(0),
        "folded": score,
        "rank_in_class": ranks,
        "rank_in_layer": ranks,
        "rank_in_unit": score_ranks(score),
    }


def insert_classes(db: duckdb.DuckDBPyConnection, table: str, layer: LayerSpec, columns: dict[str, NDArray]) -> None:
    classes = len(next(iter(columns.values())))
    for first in range(0, classes, tables.CLASSES_AT_ONCE):
        here = slice(first, min(first + tables.CLASSES_AT_ONCE, classes))
        tables._insert(db, table, tables._rows([layer], here, {k: v[here] for k, v in columns.items()}))


def build(clock: Clock, root: Path, images: int, units: int, classes: int) -> None:
    """Every step that makes a layer's tables, as the package makes them."""
    layer = LayerSpec(LAYER.name, 0, "hidden", units)
    group = zarr.open_group(root / ARRAYS, mode="w", zarr_format=3)
    stored = summaries(group, images, units)
    labels = np.random.default_rng(2).integers(0, classes, images)
    spec = by_neuron_spec(images, units)
    declare(group, spec)
    with clock.step("read summaries, transpose"):
        by_neuron = np.ascontiguousarray(stored[:].T)
    with clock.step("encode and write max_by_neuron"):
        write_file(root / spec.file(0, 0), encode_file(by_neuron, spec))
    with clock.step("exemplar_ranks"):
        sides = exemplar_ranks(by_neuron, np.ones(images, bool))
    with clock.step(f"class_means, {len(MEANS)} columns"):
        by_class = {name: class_means(stored[:], labels, classes).astype(np.float32) for name in MEANS}
    with clock.step("class_auroc"):
        by_class["auroc"] = class_auroc(by_neuron, labels, classes).astype(np.float32)
    with clock.step("scores and their ranks"):
        scores = score_columns(units, classes)
    with duckdb.connect(str(root / "index.duckdb")) as db:
        db.execute(files("vitdex.schemas").joinpath("tables.sql").read_text())
        with clock.step("insert exemplars"):
            insert_exemplars(db, by_neuron, sides)
        with clock.step("insert class_scores"):
            insert_classes(db, "class_scores", layer, scores)
        by_class["n"] = np.repeat(np.bincount(labels, minlength=classes)[:, None], units, axis=1)
        with clock.step("insert class_activations, checkpoint"):
            insert_classes(db, "class_activations", layer, by_class)
            db.execute("CHECKPOINT")


def query(clock: Clock, root: Path, classes: int, units: int) -> None:
    """Three questions, each put to a freshly opened index."""
    with clock.step("query: a class's top ten"), duckdb.connect(str(root / "index.duckdb"), read_only=True) as db:
        top = "SELECT * FROM class_scores WHERE class_id = ? AND rank_in_class <= 10 ORDER BY rank_in_class"
        assert len(db.execute(top, [classes // 2]).df()) == 10
    with clock.step("query: a neuron's exemplars"), duckdb.connect(str(root / "index.duckdb"), read_only=True) as db:
        best = "SELECT * FROM exemplars WHERE layer = ? AND unit = ? AND side = 'top' ORDER BY rank"
        db.execute(best, [LAYER.name, units // 2]).df()
    with clock.step("query: top 20 images of three neurons"):
        array = zarr.open_group(root / ARRAYS, mode="r")[f"{LAYER.name}/max_by_neuron"]
        group = [units // 7, units // 3, units - 1]
        sum_ = np.sum([array[unit] for unit in group], axis=0)
        assert len(np.argsort(-sum_)[:20]) == 20


@click.command()
@click.option("--images", default=50_000, show_default=True)
@click.option("--units", default=3072, show_default=True)
@click.option("--classes", default=1000, show_default=True)
def main(images: int, units: int, classes: int) -> None:
    """Time and memory of one layer's tables, in a temporary folder."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build(clock, root, images, units, classes)
        query(clock, root, classes, units)
        size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
        click.echo(f"\ndatabase {(root / 'index.duckdb').stat().st_size / 1e9:.2f} GB, all files {size / 1e9:.2f} GB")
    clock.extrapolate()


if __name__ == "__main__":
    main()
