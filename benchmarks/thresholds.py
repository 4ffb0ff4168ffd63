"""How far do the counted thresholds stand from the exact ones, on real activations and at the scale of ImageNet?

python benchmarks/thresholds.py --model vit_small_patch14_dinov2 --img-size 224 --weights FILE --images DIR
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vitdex.data.images.preprocess import mean_and_std, normalise
from vitdex.data.images.sources import open_source
from vitdex.data.models.anatomy import Anatomy
from vitdex.data.models.load import Loaded, load_model
from vitdex.data.models.probe import dissect
from vitdex.indexer.run.calibrate import LOOKED_AT
from vitdex.indexer.run.feed import feed
from vitdex.indexer.statistics.bins import where_bins_lie
from vitdex.indexer.statistics.threshold_counts import (
    EXACT_VALUES,
    Statistics,
    counted_patches,
    pick_patches,
    tail_length,
)
from vitdex.schemas.run_spec import LayerSpec, Part

SHARES = (0.99, 0.995)
BATCH = 16
COUNTED = 16  # patches of an image that a run over 50,000 images counts
SCALE_IMAGES, SCALE_PATCHES = 50_000, 196


@dataclass
class Agreement:
    """Estimated against exact thresholds: rank error and IoU of the masks, [neuron, share]."""

    error: NDArray[np.float64]
    iou: NDArray[np.float64]

    def line(self, name: str, values: int) -> str:
        cells = [name.ljust(30), f"{values:>9,}"]
        for i in range(len(SHARES)):
            error, iou = self.error[:, i], self.iou[:, i]
            cells += [f"{error.max():.6f} {np.quantile(error, 0.99):.6f}", f"{iou.mean():.4f} {iou.min():.4f}"]
        return "  ".join(cells)


def head(title: str) -> None:
    click.echo(f"\n{title}")
    cells = "".join(f"  {f'q={q}: max':<8} {'p99':<6}  IoU mean, min" for q in SHARES)
    click.echo(f"{'way':<30}  {'values':>9}{cells}")


def join(agreements: Sequence[Agreement]) -> Agreement:
    return Agreement(np.concatenate([a.error for a in agreements]), np.concatenate([a.iou for a in agreements]))


def judge(ascending: NDArray[np.float32], estimated: NDArray[np.float32]) -> Agreement:
    """Thresholds [neuron, share] against all values of each neuron, sorted: [neuron, value]."""
    n = ascending.shape[1]
    error, iou = np.empty(estimated.shape), np.empty(estimated.shape)
    for row, thresholds, e, i in zip(ascending, estimated, error, iou, strict=True):
        exact = np.quantile(row, SHARES, method="hazen").astype(np.float32)
        low, high = (np.searchsorted(row, thresholds, side) / n for side in ("left", "right"))
        e[:] = np.maximum(0, np.maximum(low - SHARES, SHARES - high))
        ours, theirs = (n - np.searchsorted(row, t, "right") for t in (thresholds, exact))
        i[:] = np.minimum(ours, theirs) / np.maximum(1, np.maximum(ours, theirs))  # masks above thresholds are nested
        i[(ours == 0) & (theirs == 0)] = 1
    return Agreement(error, iou)


def estimate(values: Tensor, tail: int = 0) -> NDArray[np.float32]:
    """Thresholds [neuron, share] by the package's own statistics from values [neuron, image, patch]."""
    layer = LayerSpec("layer", 0, "hidden", len(values))
    statistics = Statistics([layer], tail, "cpu")
    statistics.lay_bins({layer.name: where_bins_lie(values[:, :LOOKED_AT].reshape(len(values), -1))})
    for batch in torch.split(values, 64, 1):
        statistics.add(layer.name, batch.reshape(len(values), -1))
    return statistics.quantiles(layer.name, SHARES)


def by_patches(values: Tensor, count: int) -> Tensor:
    """A few patches of every image: [neuron, image, count]."""
    picked = pick_patches(range(values.shape[1]), values.shape[2], count)
    return values.gather(2, picked.expand(len(values), -1, -1))


def by_images(values: Tensor, count: int, seed: int = 0) -> Tensor:
    """As many values, as all patches of a few images."""
    _, images, patches = values.shape
    chosen = np.random.default_rng(seed).permutation(images)[: max(1, round(images * count / patches))]
    return values[:, np.sort(chosen)]


@torch.inference_mode()
def activations(
    loaded: Loaded, anatomy: Anatomy, images: str, limit: int, kept: Sequence[int]
) -> tuple[dict[int, Tensor], float, dict[str, float]]:
    """Values [neuron, image, patch] of the kept blocks, seconds of all forward passes, seconds of all counting."""
    source = open_source(images)
    count = min(limit, len(source.entries))
    grid = anatomy.grid[0] * anatomy.grid[1]
    units = anatomy.units
    values = {block: torch.empty(units, count, grid) for block in kept}
    layers = [LayerSpec(a.name, a.block, "hidden", units) for a in anatomy.layers]
    statistics = Statistics(layers, 0, "cpu")
    raw: dict[str, Tensor] = {}
    for layer in anatomy.layers:
        assert layer.keys is not None  # fc1
        layer.keys.register_forward_hook(lambda m, args, out, name=layer.name: raw.__setitem__(name, out))
    mean, std = mean_and_std(loaded.preprocessing, "cpu")
    forward, counting, at = 0.0, {"16 patches of an image": 0.0, "all patches": 0.0}, 0
    for batch in feed(source, loaded.preprocessing, [Part(0, 0, count)], BATCH, 0):
        pixels = normalise(batch.pixels, mean, std)
        start = time.perf_counter()
        anatomy.model(pixels)
        forward += time.perf_counter() - start
        maps = {name: x[:, anatomy.prefix :].transpose(1, 2).contiguous() for name, x in raw.items()}
        counting["16 patches of an image"] += count_batch(statistics, maps, batch.ids, COUNTED)
        counting["all patches"] += count_batch(statistics, maps, batch.ids, grid)
        for block in kept:
            values[block][:, at : at + len(batch.ids)] = maps[anatomy.layers[block].name].transpose(0, 1)
        at += len(batch.ids)
    return {block: v[:, :at] for block, v in values.items()}, forward, counting


def count_batch(statistics: Statistics, maps: dict[str, Tensor], ids: list[int], count: int) -> float:
    """Seconds that counting a batch takes, done as while indexing."""
    start = time.perf_counter()
    if not statistics.bins:
        of_layers = {name: values.transpose(0, 1).reshape(values.shape[1], -1) for name, values in maps.items()}
        statistics.lay_bins({name: where_bins_lie(values) for name, values in of_layers.items()})
    for name, values in maps.items():
        counted = values
        if count < values.shape[2]:
            picked = pick_patches(ids, values.shape[2], count)
            counted = values.gather(2, picked[:, None].expand(-1, values.shape[1], -1))
        statistics.add(name, counted.transpose(0, 1).reshape(values.shape[1], -1))
    return time.perf_counter() - start


def real(loaded: Loaded, images: str, limit: int, blocks: Sequence[int]) -> None:
    _, height, width = loaded.preprocessing["input_size"]
    anatomy = dissect(loaded.model, (height, width))
    values, forward, counting = activations(loaded, anatomy, images, limit, blocks)
    _, count, grid = values[blocks[0]].shape
    click.echo(f"{count} images, {grid} patches, blocks {list(blocks)} of {len(anatomy.layers)}, {anatomy.units} units")
    click.echo(f"forward {forward:.1f} s")
    for name, seconds in counting.items():
        click.echo(f"counting {name}, all layers: {seconds:.1f} s, {seconds / forward:.1%} of the forward passes")
    by_way: dict[tuple[str, int], list[Agreement]] = {}
    small = EXACT_VALUES // grid
    for block_values in values.values():
        ascending = block_values.flatten(1).sort(1).values.numpy()
        by_way.setdefault(("bins, every patch", count * grid), []).append(judge(ascending, estimate(block_values)))
        for k in (k for k in (4, 16, 64) if k < grid):
            for name, choose in ((f"{k} patches of every image", by_patches), ("whole images", by_images)):
                chosen = choose(block_values, k)
                by_way.setdefault((name, chosen[0].numel()), []).append(judge(ascending, estimate(chosen)))
        del ascending
        first = block_values[:, :small]
        tail = tail_length(first.shape[1], grid)
        exact = first.flatten(1).sort(1).values.numpy()
        by_way.setdefault(("small set, exact tail", exact.shape[1]), []).append(judge(exact, estimate(first, tail)))
    head("real activations")
    for (name, number), agreements in by_way.items():
        click.echo(join(agreements).line(name, number))


def draw(neuron: int, images: int, patches: int) -> Tensor:
    """One neuron's values [1, image, patch]: normal, skewed or heavy-tailed, patches of an image alike."""
    random = torch.Generator().manual_seed(neuron)
    alike = (0.1, 0.3, 0.5, 0.7)[neuron // 3 % 4]  # correlation of two patches of an image
    x = torch.randn(images, patches, generator=random).mul_((1 - alike) ** 0.5)
    x += torch.randn(images, 1, generator=random) * alike**0.5
    shapes: tuple[Callable[[Tensor], Tensor], ...] = (lambda v: v - 1.5, torch.exp_, lambda v: v.mul_(2).sinh_())
    return shapes[neuron % 3](x)[None]


def synthetic(neurons: int) -> None:
    count = counted_patches(SCALE_IMAGES, SCALE_PATCHES)
    picked = pick_patches(range(SCALE_IMAGES), SCALE_PATCHES, count)
    every: list[Agreement] = []
    whole: list[Agreement] = []
    for neuron in range(neurons):
        values = draw(neuron, SCALE_IMAGES, SCALE_PATCHES)
        ascending = np.sort(values.flatten(1).numpy(), axis=1)
        every.append(judge(ascending, estimate(values.gather(2, picked[None]))))
        whole.append(judge(ascending, estimate(by_images(values, count, neuron))))
    head(f"synthetic: {neurons} neurons, {SCALE_IMAGES:,} images of {SCALE_PATCHES} patches")
    click.echo(join(every).line(f"{count} patches of every image", SCALE_IMAGES * count))
    click.echo(join(whole).line("whole images", SCALE_IMAGES * count))
    for i, shape in enumerate(("normal", "skewed", "heavy-tailed")):
        click.echo(join(every[i::3]).line(f"  {shape}, a few patches", SCALE_IMAGES * count))


@click.command()
@click.option("--model", required=True, help="timm's name.")
@click.option("--weights", required=True, type=click.Path(exists=True, path_type=Path), help="A safetensors file.")
@click.option("--images", required=True, help="As for vitdex index.")
@click.option("--img-size", type=int, default=224, show_default=True)
@click.option("--limit", default=500, show_default=True, help="Images.")
@click.option("--blocks", default="0,5,11", show_default=True, help="Blocks whose values are all held in memory.")
@click.option("--neurons", default=200, show_default=True, help="Of the synthetic run; 0: none.")
def main(model: str, weights: Path, images: str, img_size: int, limit: int, blocks: str, neurons: int) -> None:
    """Compare counted thresholds with exact ones."""
    real(load_model(model, weights, (img_size, img_size)), images, limit, [int(b) for b in blocks.split(",")])
    if neurons:
        synthetic(neurons)


if __name__ == "__main__":
    main()
