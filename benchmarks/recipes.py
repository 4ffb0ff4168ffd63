"""Compare the parts of recipes for generated images on the packaged sample's model; judge the default on all classes.

    vitdex index sample.vitdex --sample
    python benchmarks/recipes.py sample.vitdex --classes 4 --by score      # docs/findings/generated-images.md
    python benchmarks/recipes.py sample.vitdex --by score --evaluate docs/pictures/generate_classes.png
    python benchmarks/recipes.py dino.vitdex --neurons 8 --weights dino.safetensors --pictures made

Writes nothing into the index. Every row: the first key neuron of each class, two images each, seed 0.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from vitdex.query.generate.judge import judge
from vitdex.query.generate.objectives import Objective
from vitdex.query.generate.optimise import optimise
from vitdex.query.generate.recipes import RECIPES, Recipe
from vitdex.query.generate.target import Target
from vitdex.query.index import Index
from vitdex.query.lookups.key_neurons import RANKINGS, Ranking, key_neurons, named
from vitdex.query.model.live_model import LiveModel, open_model
from vitdex.query.stored.names import Neuron

SHOWN = ["pre_mean", "ratio", "exceeds", "fine_share", "fine_rms", "p_class", "diversity"]
DEFAULT = replace(RECIPES["default"], diversity=0.0)
PLAIN = replace(RECIPES["plain"], diversity=0.0)
PARTS: dict[str, tuple[Recipe, bool]] = {  # a recipe, and whether after the nonlinearity
    "plain (gradient descent)": (PLAIN, False),
    "**default** without diversity": (DEFAULT, False),
    "plain with diversity": (RECIPES["plain"], False),
    "**default** with diversity": (RECIPES["default"], False),
    "plain, behind GELU": (PLAIN, True),
    "default, behind GELU": (DEFAULT, True),
    "plain with Adam 0.02": (replace(PLAIN, descent=False, rate=0.02), False),
    "default, no variation": (replace(DEFAULT, tv=0.0), False),
    "default, variation 8": (replace(DEFAULT, tv=8.0), False),
    "default, 1/f": (replace(DEFAULT, decay=1.0), False),
    "default, 1/f^2": (replace(DEFAULT, decay=2.0), False),
    "default, constant rate": (replace(DEFAULT, cosine=False), False),
    "default + shift 5%": (replace(DEFAULT, shift=0.05), False),
    "default + rotation, scale": (replace(DEFAULT, rotate=10, scale=0.1), False),
    "default + colour, offset": (replace(DEFAULT, colour=1.0, offset=0.5), False),
    "robust": (replace(RECIPES["robust"], diversity=0.0), False),
}


def fine_energy(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Power of the grey image above 1/4 cycle a pixel: its share of all but the mean, and its root mean square."""
    grey = pixels.mean(-1) / 255
    power = np.abs(np.fft.fft2(grey, norm="forward")) ** 2
    power[:, 0, 0] = 0
    y, x = np.fft.fftfreq(grey.shape[1])[:, None], np.fft.fftfreq(grey.shape[2])
    fine = power[:, np.hypot(y, x) > 0.25].sum(1)
    return float((fine / power.sum((1, 2)).clip(1e-12)).mean()), float(np.sqrt(fine).mean())


def trial(
    live: LiveModel, class_id: int, recipe: Recipe, post: bool, images: int, by: Ranking | None
) -> dict[str, float]:
    """One class's first key neuron: means over the images."""
    target = Target(tuple(named(key_neurons(live.index, class_id, 1, by))), class_id)
    objective = replace(target, post=post).objective(live, seed=0)
    *_, shot = optimise(live, objective, recipe, images, 0, diverse_in=target.neurons[0].layer)
    rows = judge(live, target, shot.pixels)
    share, rms = fine_energy(shot.pixels)
    columns = ["pre_mean", "ratio", "percentile", "p_class", "diversity"]
    means = {name: float(rows[name].mean()) for name in columns}
    means["named"] = float((rows.predicted == class_id).mean())
    return means | {"exceeds": float((rows.ratio > 1).mean()), "fine_share": share, "fine_rms": rms}


def random_neurons(live: LiveModel, count: int, pictures: Path | None) -> None:
    """The default recipe on neurons drawn from the last four blocks, an image each, all in one batch: a table."""
    hidden = [layer for layer in live.spec.layers if layer.kind == "hidden"][-4:]
    draw = np.random.default_rng(0)
    layers = [hidden[draw.integers(len(hidden))] for _ in range(count)]
    targets = [Target((Neuron(layer.name, int(draw.integers(layer.units))),)) for layer in layers]
    each = [target.objective(live, seed=0) for target in targets]
    own = Objective(
        "an image a neuron",
        tuple(dict.fromkeys(name for objective in each for name in objective.layers)),
        lambda seen: torch.stack([objective(seen)[i] for i, objective in enumerate(each)]),
    )
    for shot in optimise(live, own, RECIPES["default"], count, 0):
        for target, image in zip(targets, shot.pixels, strict=True):
            (neuron,) = target.neurons
            row = judge(live, target, image[None]).iloc[0]
            best = np.nanmax(live.index.arrays[f"{neuron.layer}/mean"][:, neuron.unit])
            share, rms = fine_energy(image[None])
            figures = f"{row.pre_mean:.3g} | {best:.3g} | {row.ratio:.3g} | {share:.3g} | {rms:.3g}"
            print(f"| {neuron} | {shot.step} | {figures} |", flush=True)
            if pictures is not None:
                pictures.mkdir(exist_ok=True)
                Image.fromarray(image).save(pictures / f"{neuron.layer}-{neuron.unit}-{shot.step}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("index", type=Path)
    parser.add_argument("--steps", type=int, default=RECIPES["default"].steps)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--evaluate", type=Path, help="Judge the default on every class; where the figure goes.")
    parser.add_argument("--neurons", type=int, help="Judge the default on so many neurons of the last four blocks.")
    parser.add_argument("--pictures", type=Path, help="A folder for their images.")
    parser.add_argument("--by", choices=RANKINGS, help="Ranks key neurons; by default as vitdex does.")
    parser.add_argument("--weights", type=Path)
    asked = parser.parse_args()
    with Index(asked.index) as index:
        live = open_model(index, asked.weights)
        if asked.neurons:
            random_neurons(live, asked.neurons, asked.pictures)
            return
        chosen = np.linspace(0, index.spec.classes - 1, min(asked.classes, index.spec.classes)).round().astype(int)
        if asked.evaluate:
            evaluate(live, asked.evaluate, asked.by)
            return
        print("real images: fine share {:.3f}, fine rms {:.3f}".format(*fine_energy(index.arrays["inputs"][::8])))
        for name, (recipe, post) in PARTS.items():
            made = replace(recipe, snapshots=(asked.steps,))
            mean = pd.DataFrame([trial(live, int(c), made, post, 2, asked.by) for c in chosen]).mean()
            print(f"| {name} | " + " | ".join(f"{mean[c]:.3g}" for c in SHOWN) + " |", flush=True)


def evaluate(live: LiveModel, output: Path, by: Ranking | None) -> None:
    """Every class by the default recipe and steps: a table on standard output, a figure."""
    names = live.index.sql("SELECT class FROM classes ORDER BY class_id")["class"]
    rows = []
    for class_id, name in enumerate(names):
        rows.append(row := trial(live, class_id, RECIPES["default"], False, 2, by))
        print(f"| {name} | " + " | ".join(f"{row[c]:.3g}" for c in [*SHOWN, "named", "percentile"]) + " |", flush=True)
    table = pd.DataFrame(rows, index=names)
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    panels = {
        "ratio": "score, best real = 1",
        "named": "named by the model",
        "p_class": "probability",
        "diversity": "Gram cosine",
    }
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        axis.barh(names, table[column], color="#4477aa")
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].axvline(1, color="black", linewidth=1, linestyle="--")
    for axis in axes[1:]:
        axis.set_xlim(0, 1)
    axes[0].invert_yaxis()
    figure.savefig(output, dpi=130)


if __name__ == "__main__":
    main()
