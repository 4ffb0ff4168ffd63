"""The picture of generated images: snapshots side by side, and real exemplars below. Imports matplotlib."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from .figures import save
from .index import Index


def draw_generated(index: Index, rows: pd.DataFrame, output: Path, most: int = 4) -> None:
    """Write a picture of a run's rows of `generated`: an image a row, a snapshot a column, real exemplars last."""
    first = rows[(rows.layer == rows.layer.iloc[0]) & (rows.unit == rows.unit.iloc[0])]
    steps = sorted(first.step.unique())
    shots = {step: first[first.step == step].sort_values("id").head(most) for step in steps}
    high = len(shots[steps[0]])
    best = index.exemplars(str(first.layer.iloc[0]), int(first.unit.iloc[0]), k=high) if index.spec.inputs else None
    wide = len(steps) + (best is not None)
    figure = Figure(figsize=(1.7 * wide, 1.85 * high + 0.5), layout="constrained", dpi=100)
    axes = figure.subplots(high, wide, squeeze=False)
    for column, step in enumerate(steps):
        for row, made in enumerate(shots[step].itertuples(index=False)):
            axes[row, column].imshow(Image.open(index.layout.notes_folder / str(made.file)))
            axes[row, column].set_xlabel(f"mean {made.pre_mean:.2f}, ratio {made.ratio:.2f}", fontsize=7)
        axes[0, column].set_title(f"step {step}", fontsize=9)
    if best is not None:
        axes[0, -1].set_title("real exemplars", fontsize=9)
        for row, real in enumerate(best.itertuples(index=False)):
            axes[row, -1].imshow(index.arrays["inputs"][real.image_id])
            mean = index.arrays[f"{first.layer.iloc[0]}/mean"][real.image_id, int(first.unit.iloc[0])]
            axes[row, -1].set_xlabel(f"mean {float(mean):.2f}, {real.label}", fontsize=7)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.suptitle(f"{first.layer.iloc[0]}:{first.unit.iloc[0]}, {first.recipe.iloc[0]} recipe", fontsize=9)
    save(figure, output)
