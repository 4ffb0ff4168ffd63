"""A run's generated images beside real ones, as one picture. Imports matplotlib."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..drawing.generated_figure import Column, draw_columns
from ..notes.generated_images import read_picture
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex


def generated_figure(index: StoredIndex, rows: pd.DataFrame, most: int = 4) -> Figure:
    """A run's generated images, an image a row and a snapshot a column; real exemplars last where inputs are stored.

    Args:
        rows: what `generate` returned.
        most: images at most.

    Returns:
        A matplotlib Figure.

    Example:
        >>> generated_figure(index, rows).savefig("made.png")
    """
    at_least(1, most=most)
    layer, unit = str(rows.layer.iloc[0]), int(rows.unit.iloc[0])
    first = rows[(rows.layer == layer) & (rows.unit == unit)]
    _, *size = index.spec.preprocessing["input_size"]
    columns = []
    for step in sorted(first.step.unique()):
        made = first[first.step == step].sort_values("id").head(most)
        pixels = [read_picture(index.layout, number, size) for number in made.id.tolist()]
        captions = [_caption(row.pre_mean, row.ratio) for row in made.itertuples(index=False)]
        columns.append(Column(f"step {step}", pixels, captions))
    if index.spec.inputs:
        columns.append(_real(index, layer, unit, len(columns[0].pixels)))
    return draw_columns(f"{layer}:{unit}, {first.recipe.iloc[0]} recipe", columns)


def _caption(mean: float, ratio: float) -> str:
    return f"mean {mean:.2f}" + ("" if np.isnan(ratio) else f", ratio {ratio:.2f}")


def _real(index: StoredIndex, layer: str, unit: int, count: int) -> Column:
    best = index.exemplars(layer, unit, k=count)
    means = index.reader.cells(f"{layer}/mean", best.image_id.to_numpy(), np.array(unit))
    captions = [f"mean {mean:.2f}, {label}" for mean, label in zip(means, best.label, strict=True)]
    return Column("real exemplars", list(index.inputs(best.image_id.tolist())), captions)
