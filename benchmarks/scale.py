"""Finishing an index at the scale of ImageNet's validation set, by the package's own code, from synthetic summaries.

python benchmarks/scale.py --images 50000 --model vit_base_patch16_224 --folder /scratch

One layer's summaries are made and linked into every layer, so that what is read fits the page cache, as it does where
layers are finished one after another. Everything else is what a run does: neuron-major maxima, exemplars, means,
AUROC, scores, ranks, the database with its checkpoint and flush.
"""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import psutil
import timm
import torch
from PIL import Image
from record import Figure, record
from safetensors.torch import save_file
from vitdex.indexer.plan import Plan, Request, make_plan
from vitdex.indexer.statistics.bins import where_bins_lie
from vitdex.indexer.statistics.threshold_counts import Statistics
from vitdex.indexer.tables import build_tables as tables
from vitdex.indexer.tables.class_space import ModelSpace
from vitdex.indexer.tables.filled_index import Finish
from vitdex.indexer.tables.whole_arrays import write_by_neuron
from vitdex.schemas.array_specs import arrays
from vitdex.schemas.facts import ImageFacts
from vitdex.schemas.layout import Layout
from vitdex.schemas.run_spec import RunSpec
from vitdex.schemas.storage.chunk_files import encode_file

LEAVES = ("max", "mean", "post_mean", "cls", "read", "argmax")


def planned(root: Path, model: str, images: int) -> Plan:
    """The plan of such a run, with random weights."""
    torch.manual_seed(0)
    weights, folder = root / "weights.safetensors", root / "images"
    save_file(timm.create_model(model).state_dict(), weights)
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    request = Request(root / "big.vitdex", model, str(folder), weights, maps="none", inputs=False, device="cpu")
    plan = make_plan(request)
    spec = replace(plan.spec, images=images, part_images=min(256, images), counted_patches=16)
    return replace(plan, spec=spec)


def summaries(layout: Layout, spec: RunSpec) -> None:
    """Synthetic summaries of the first layer, part by part, linked into the others; valid, logits."""
    random = np.random.default_rng(0)
    declared = arrays(spec)
    first, *others = spec.layers
    taste = random.standard_normal(first.units, np.float32)

    def write(path: str, values: np.ndarray, part: int) -> Path:
        array = declared[path]
        full = np.zeros(array.chunks, array.dtype)
        full[: len(values)] = values
        file = layout.root / array.part_file(part)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_file(full, array))
        return file

    for part in spec.parts:
        write("valid", np.ones(part.images, bool), part.index)
        write("logits", random.standard_normal((part.images, spec.classes), np.float32), part.index)
        for leaf in LEAVES:
            values = random.standard_normal((part.images, first.units), np.float32) + taste
            file = write(f"{first.name}/{leaf}", values if leaf != "argmax" else np.abs(values * 30), part.index)
            for layer in others:
                link = layout.root / declared[f"{layer.name}/{leaf}"].file(part.index, 0)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(file)


def counted(spec: RunSpec) -> Statistics:
    """Statistics that have counted something of every layer."""
    statistics = Statistics(spec.layers, 0, "cpu")
    values = {layer.name: torch.randn(layer.units, 2_000) for layer in spec.layers}
    statistics.lay_bins({layer: where_bins_lie(some) for layer, some in values.items()})
    for layer, some in values.items():
        statistics.add(layer, some)
    return statistics


def peak() -> float:
    """Largest resident memory so far, in GB. Mapped files count: they are the page cache."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts KiB


def own() -> float:
    """Memory of this process's own, in GB: without what it has mapped from files."""
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 1e9


@click.command()
@click.option("--images", default=50_000, show_default=True)
@click.option("--model", default="vit_base_patch16_224", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="On the disk to be measured.")
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
def main(images: int, model: str, folder: Path | None, out: Path | None) -> None:
    """Time and memory of finishing."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        plan = planned(Path(place), model, images)
        spec, layout = plan.spec, Layout(Path(place) / "big.vitdex")
        layout.parts.mkdir(parents=True)
        summaries(layout, spec)
        names = plan.names
        assert names is not None
        classes = len(names.names)
        rows = {name: row for row, name in enumerate(names.names)}
        every = [ImageFacts(f"{i}.jpg", names.names[i * classes // images]) for i in range(images)]
        finish = Finish(layout, spec, ModelSpace(plan.anatomy), plan.head, names, rows, counted(spec), every)
        click.echo(f"{images:,} images, {spec.neurons:,} neurons, {classes:,} classes; {own():.2f} GB before")
        most, steps = own(), {}

        with Watch() as watch:
            start = time.perf_counter()
            for layer in spec.layers:
                write_by_neuron(finish, layer)
            steps["neuron-major maxima"] = time.perf_counter() - start
            start = time.perf_counter()
            tables.build_tables(finish)
            steps["tables"] = time.perf_counter() - start
        most = watch.most
        for name, seconds in steps.items():
            click.echo(f"{name:<24}{seconds:>8.1f} s")
        click.echo(f"{'together':<24}{sum(steps.values()):>8.1f} s")
        click.echo(f"memory of its own {most:.2f} GB at most, with mapped files {peak():.2f} GB")
        click.echo(f"database {layout.database.stat().st_size / 1e9:.2f} GB")
        figures = [
            Figure("finishing at ImageNet's scale", sum(steps.values()), "s", 120),
            Figure("its memory", most, "GB", 4),
        ]
        record(out, "scale", figures)


class Watch:
    """The most memory of its own that the process held, looked at ten times a second."""

    def __enter__(self) -> Watch:
        import threading

        self.most, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.1):
            self.most = max(self.most, own())


if __name__ == "__main__":
    main()
