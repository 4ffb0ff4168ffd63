"""Effects of all neurons at once: how well the estimate orders neurons, and what it costs beside the plain loop.

python benchmarks/effects.py agreement INDEX                      # block by block: rank correlation, top-20 recall
python benchmarks/effects.py cost --turns 5                       # 2 cores: vit_small_patch16_224, turn by turn

INDEX has effects (vitdex effects). Exact: each of 60 random and of the 20 largest neurons of a block is replaced alone,
on a few images of every class. Recall: how many of the exact 20 largest by mean size are among the estimated 20, of the
neurons that were replaced. Cost: images through the bare forward pass, decoded by as many processes, nothing kept,
against the passes of `vitdex effects` with its arrays written.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import vitdex.indexer  # noqa: F401 - before torch, for how its idle threads wait

# isort: split
import click
import numpy as np
import torch
from record import Figure, own_bytes, record
from scipy.stats import spearmanr
from throughput import plain_loop, prepared
from torch import Tensor
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import default_workers, make_plan
from vitdex.query.causal.effects_run import measure_effects
from vitdex.query.model.live_model import BATCH, LiveModel, open_model
from vitdex.query.model.replacement import Substitute, replaced
from vitdex.query.model.rerun import Rerun
from vitdex.query.stored.names import Neuron
from vitdex.query.stored.stored_index import StoredIndex

LARGEST, RANDOM = 20, 60  # neurons of a block
RATIO, MEMORY = 3.2, 3.0  # asked: plain loops, and times the memory of a forward pass


@click.group()
def main() -> None:
    """Measure the extension effects."""


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path))
@click.option("--images", default=96)
@click.option("--record", "folder", type=click.Path(path_type=Path))
def agreement(path: Path, weights: Path | None, images: int, folder: Path | None) -> None:
    """Rank correlation of estimate and exact ablation, block by block."""
    with StoredIndex(path) as index:
        effects = index.effects
        assert effects is not None
        live, draw = open_model(index, weights), np.random.default_rng(0)
        every = effects.images[effects.reader.whole("class") >= 0]
        ids = every[np.linspace(0, len(every) - 1, min(images, len(every))).round().astype(int)].tolist()
        asked = torch.from_numpy(effects.reader.rows("class", [effects.row(i) for i in ids]).astype(np.int64))
        substitute = Substitute(live, effects.spec.replace)
        figures = []
        print("| layer | image × neuron | mean over images | recall of the 20 largest |\n|---|---|---|---|")
        for layer in effects.spec.layers:
            estimate = np.stack([effects.of_image(layer, i) for i in ids])
            largest = np.argsort(-np.abs(estimate.mean(0)))[:LARGEST]
            units = np.unique([*largest, *draw.choice(estimate.shape[1], RANDOM, replace=False)])
            exact = _exact(live, substitute, [Neuron(layer, unit) for unit in units.tolist()], ids, asked)
            found = estimate[:, units]
            whole = spearmanr(found.ravel(), exact.ravel())[0]
            means = spearmanr(found.mean(0), exact.mean(0))[0]
            first = [set(np.argsort(-np.abs(values.mean(0)))[:LARGEST]) for values in (found, exact)]
            recall = len(first[0] & first[1]) / LARGEST
            print(f"| {layer} | {whole:.4f} | {means:.4f} | {recall:.2f} |", flush=True)
            figures.append(Figure(f"{layer}: rank correlation", float(whole), asked=0.95, more=True))
        record(folder, "effects_agreement", figures)


def _exact(
    live: LiveModel, substitute: Substitute, neurons: list[Neuron], ids: list[int], asked: Tensor
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The fall of each image's logit without each neuron of a layer: float32 [image, neuron]."""
    block, rows = live.index.neuron_layer(*neurons[0]).block, []
    for start in range(0, len(ids), BATCH):
        some, classes = ids[start : start + BATCH], asked[start : start + BATCH]
        again = Rerun(live, live.pixels(some), [block])
        before, falls = _answers(again.before, classes), []
        for neuron in neurons:
            with replaced(live, [neuron], substitute, some):
                falls.append(before - _answers(again.logits(block), classes))
        rows.append(torch.stack(falls, 1))
    return torch.cat(rows).cpu().numpy()


def _answers(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit of each image's class, minus the mean of all."""
    chosen: Tensor = logits[torch.arange(len(logits)), classes] - logits.mean(1)
    return chosen


@main.command()
@click.option("--model", default="vit_small_patch16_224")
@click.option("--images")
@click.option("--count", default=256)
@click.option("--turns", default=5)
@click.option("--record", "folder", type=click.Path(path_type=Path))
def cost(model: str, images: str | None, count: int, turns: int, folder: Path | None) -> None:
    """Turn by turn: the plain loop, then effects of all neurons of all layers, arrays and tables written."""
    with tempfile.TemporaryDirectory(dir=".") as root:
        request = prepared(Path(root), model, images, count)
        plan = make_plan(request)
        build(request, Quiet())
        assert request.weights is not None
        ratios, workers = [], default_workers()
        for turn in range(turns):
            plain = plain_loop(plan, workers).total
            started = time.monotonic()
            with StoredIndex(request.out, extensions=False) as index:
                measure_effects(index, overwrite=True, weights=request.weights)
            took = time.monotonic() - started
            ratios.append(took / plain)
            print(f"turn {turn}: plain {plain:.1f} s, effects {took:.1f} s, {took / plain:.2f} plain loops", flush=True)
        forward = _peak(_forward, Path(request.out), Path(request.weights))
        backward = _peak(_effects, Path(request.out), Path(request.weights))
        print(f"memory: forward {forward / 1e6:.0f} MB, effects {backward / 1e6:.0f} MB")
        record(
            folder,
            "effects_cost",
            [
                Figure("effects, plain loops", statistics.median(ratios), asked=RATIO),
                Figure("memory, times a forward pass", backward / forward, asked=MEMORY),
            ],
        )


def _peak(run: Callable[[Path, Path], None], out: Path, weights: Path) -> int:
    """The most memory that a process of its own holds while it runs something."""
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=run, args=(out, weights))
    child.start()
    most = 0
    while child.is_alive():
        most = max(most, own_bytes(child.pid))
        time.sleep(0.02)
    return most


def _forward(out: Path, weights: Path) -> None:
    """The bare forward pass, in the index's batches."""
    with StoredIndex(out) as index:
        live = open_model(index, weights)
        for start in range(0, index.spec.images, index.spec.batch_size):
            ids = range(start, min(start + index.spec.batch_size, index.spec.images))
            with torch.inference_mode():
                live(live.pixels(ids), [])


def _effects(out: Path, weights: Path) -> None:
    with StoredIndex(out, extensions=False) as index:
        measure_effects(index, overwrite=True, weights=weights)


if __name__ == "__main__":
    main()
