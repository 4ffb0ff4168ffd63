"""Exemplar sets for MILAN: how fast beside plain writing, and how close the masks are to the float32 pipeline.

python benchmarks/milan.py speed --folder /scratch         # 3,072 units x 15 of a synthetic index of 50,000 images
python benchmarks/milan.py masks OUT --layer blocks.0.mlp.fc1 --layer blocks.7.mlp.fc1 [--weights FILE]
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import click
import crc32c
import duckdb
import numpy as np
import pandas as pd
import torch
import zarr
from numpy.typing import NDArray
from torch.nn.functional import interpolate, pad
from vitdex.query.export.milan_files import exemplar_maps, top_exemplars
from vitdex.query.export.milan_masks import milan_masks
from vitdex.query.index import Index
from vitdex.query.model.exact_thresholds import exact_thresholds, live_maps
from vitdex.query.model.live_model import BATCH, LiveModel, open_model
from vitdex.schemas.array_specs import ArraySpec, arrays
from vitdex.schemas.layout import Layout
from vitdex.schemas.manifest import seal_manifest
from vitdex.schemas.run_spec import LayerSpec, Preprocessing, RunSpec
from vitdex.schemas.storage.atomic_files import write_file
from vitdex.schemas.storage.chunk_files import encode_file
from vitdex.schemas.storage.zarr_group import declare

LAYER, K, SIZE = "blocks.0.mlp.fc1", 15, 224
NOISE = np.random.default_rng(0).integers(0, 256, 16_000_000, np.uint8)


@click.group()
def main() -> None:
    """Measure the export for MILAN."""


def sparse_shard(path: Path, spec: ArraySpec, cells: dict[int, bytes], checked: bool) -> None:
    """A shard of holes but for some bytes at their offsets, and its index; checked: cells are whole chunks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    index = np.empty((spec.chunks_per_file, 2), "<u8")
    index[:, 0], index[:, 1] = np.arange(len(index)) * spec.chunk_bytes, spec.chunk_bytes
    with path.open("wb") as file:
        for offset, content in cells.items():
            file.seek(offset)
            file.write(content + (crc32c.crc32c(content).to_bytes(4, "little") if checked else b""))
        file.seek(spec.file_bytes - 16 * len(index) - 4)
        file.write(index.tobytes() + crc32c.crc32c(index.tobytes()).to_bytes(4, "little"))


def synthetic(root: Path, like: RunSpec, images: int, units: int) -> None:
    """An index of uint8 maps at scale that holds just what an export reads; exemplars uniformly random."""
    size: Preprocessing = {**like.preprocessing, "input_size": [3, SIZE, SIZE]}
    layer = LayerSpec(LAYER, 0, "hidden", units)
    spec = replace(
        like, images=images, part_images=256, grid=(14, 14), preprocessing=size, layers=(layer,), maps="uint8"
    )
    layout, declared = Layout(root), arrays(spec)
    group = zarr.open_group(layout.arrays, mode="w", zarr_format=3)
    low_high = [declared[f"{LAYER}/{leaf}"] for leaf in ("min", "max")]
    for array in low_high:
        declare(group, array)
    random = np.random.default_rng(1)
    ids = np.stack([random.choice(images, K, replace=False) for _ in range(units)])
    peaks = random.integers(0, spec.patches, ids.shape)
    inputs, maps = declared["inputs"], declared[f"{LAYER}/map"]
    pixels = SIZE * SIZE * 3
    for part in np.unique(ids // spec.part_images).tolist():
        rows, ranks = np.nonzero(ids // spec.part_images == part)
        chosen = ids[rows, ranks] % spec.part_images
        whole = {int(i) * inputs.chunk_bytes: NOISE[i * 100 : i * 100 + pixels].tobytes() for i in np.unique(chosen)}
        sparse_shard(root / inputs.file(part, 0, 0, 0), inputs, whole, checked=True)
        cells = {}
        for image, row, rank in zip(chosen.tolist(), rows.tolist(), ranks.tolist(), strict=True):
            chunk, unit = divmod(row, maps.chunks[1])
            code = NOISE[row : row + spec.patches].copy()
            code[peaks[row, rank]] = 255
            cells[chunk * maps.chunk_bytes + (image * maps.chunks[1] + unit) * spec.patches] = code.tobytes()
        sparse_shard(root / maps.file(part, 0, 0), maps, cells, checked=False)
        for array, value in zip(low_high, (-1, 1), strict=True):
            write_file(root / array.file(part, 0), encode_file(np.full(array.chunks, value, np.float32), array))
    with duckdb.connect(str(layout.database)) as db:
        db.execute(files("vitdex.schemas").joinpath("tables.sql").read_text())
        top = {"layer": LAYER, "unit": np.repeat(np.arange(units), K), "side": "top", "token": "patch", "pre": 1.0}
        top |= {"rank": np.tile(np.arange(1, K + 1), units), "image_id": ids.ravel(), "patch": peaks.ravel()}
        frames = {"exemplars": pd.DataFrame(top)}
        frames["neurons"] = pd.DataFrame({"layer": LAYER, "unit": np.arange(units), "q99": 0.5})
        for table, frame in frames.items():
            db.register("frame", frame)
            db.execute(f"INSERT INTO {table} BY NAME FROM frame")
    layout.manifest.write_bytes(seal_manifest({"run": spec.to_json()}))


def plain_write(folder: Path, lengths: list[int]) -> None:
    """As many bytes, in as many files, one after another, flushed to the disk."""
    folder.mkdir()
    for number, length in enumerate(lengths):
        with (folder / str(number)).open("wb") as file:
            for start in range(0, length, len(NOISE)):
                file.write(NOISE[: min(len(NOISE), length - start)].data)
            file.flush()
            os.fsync(file.fileno())


@main.command()
@click.option("--folder", type=click.Path(path_type=Path), help="On the disk to be measured.")
@click.option("--like", default="sample.vitdex", help="Any index, for what its record says beyond sizes.")
@click.option("--images", default=50_000, show_default=True)
@click.option("--units", default=3072, show_default=True)
@click.option("--turns", default=2, show_default=True)
def speed(folder: Path | None, like: str, images: int, units: int, turns: int) -> None:
    """Export and plain writing of the same bytes, turn by turn."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        root, out = Path(place) / "synthetic.vitdex", Path(place) / "out"
        synthetic(root, Index(like).spec, images, units)
        masks = units * K * SIZE * SIZE
        for _ in range(turns):
            start = time.perf_counter()
            plain_write(out, [masks, 3 * masks])
            plain = time.perf_counter() - start
            shutil.rmtree(out)
            start = time.perf_counter()
            words = ["export", "milan", str(root), str(out), "--layer", LAYER]
            # in a process of its own, for its memory
            subprocess.run(
                [sys.executable, "-c", "from vitdex.query.commands.main import main; main()", *words], check=True
            )
            ours = time.perf_counter() - start
            shutil.rmtree(out)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # Linux counts KiB
            click.echo(
                f"{4 * masks / 1e9:.2f} GB: plain {plain:.1f} s, export {ours:.1f} s, {plain / ours:.0%} of the plain "
                f"speed, peak {peak:.2f} GB"
            )


def iou(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> str:
    """Mean IoU of masks, the lowest of a unit, and the pixels that differ."""
    both, either = (ours & theirs).sum((-2, -1)), (ours | theirs).sum((-2, -1))
    each = np.where(either, both / np.maximum(either, 1), 1)
    return f"{each.mean():.5f}  {each.mean(1).min():.5f}  {(ours != theirs).sum():>9,} of {ours.size:,}"


@torch.inference_mode()
def all_values(live: LiveModel, layer: str, units: NDArray[np.int64]) -> NDArray[np.float32]:
    """Values [unit, image, patch] of the model on every stored input."""
    rows = []
    for first in range(0, live.spec.images, BATCH):
        ids = range(first, min(first + BATCH, live.spec.images))
        values = live(live.pixels(ids), [layer])[1][layer]
        rows.append(live.patches(values)[..., units.tolist()].permute(2, 0, 1).numpy())
    return np.concatenate(rows, 1)


def pipeline(maps: NDArray[np.float32], thresholds: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """MILAN's way: pad with zeros, interpolate, crop, compare strictly."""
    rows = maps.shape[-1]
    p = size // rows
    wide = interpolate(pad(torch.from_numpy(maps), (1, 1, 1, 1)), size=((rows + 2) * p,) * 2, mode="bilinear")
    return (wide[..., p:-p, p:-p].numpy() > thresholds[:, None, None, None]).astype(np.uint8)


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--layer", "layers", multiple=True, required=True)
@click.option("--units", default=64, show_default=True)
@click.option("--weights", type=click.Path(path_type=Path))
def masks(out: Path, layers: tuple[str, ...], units: int, weights: Path | None) -> None:
    """Exemplars and masks against a float32 run of the model: mean IoU, the lowest of a unit, pixels."""
    with Index(out) as index:
        live = open_model(index, weights)
        for layer in layers:
            chosen = np.linspace(0, index.neuron_layer(layer, 0).units - 1, units).astype(np.int64)
            values = all_values(live, layer, chosen)
            ids = np.argsort(-values.max(2), axis=1, kind="stable")[:, :K]
            direct = np.take_along_axis(values, ids[..., None], 1).reshape(units, K, *index.spec.grid)
            exact = np.quantile(values.reshape(units, -1), 0.99, axis=1, method="hazen").astype(np.float32)
            target = pipeline(direct, exact, SIZE)
            top = top_exemplars(index, layer, chosen, K)
            own = index.sql("SELECT q99 FROM neurons WHERE layer = ? ORDER BY unit", [layer]).q99.to_numpy()[chosen]
            ways = {
                f"stored {index.spec.maps}, exact threshold": (exemplar_maps(index, top), exact),
                "float16, exact threshold": (direct.astype(np.float16).astype(np.float32), exact),
                "--exact": (
                    live_maps(live, layer, chosen, top.image_ids),
                    exact_thresholds(live, {layer: chosen})[layer],
                ),
                "stored, the index's threshold": (exemplar_maps(index, top), own),
            }
            click.echo(f"{layer}: {units} units, {(top.image_ids == ids).all(1).sum()} with the same images in order")
            for name, (maps, thresholds) in ways.items():
                click.echo(f"  {name:<32}{iou(milan_masks(maps, thresholds[:, None], (SIZE, SIZE)), target)}")


if __name__ == "__main__":
    main()
