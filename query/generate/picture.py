"""A run's generated images beside real ones, as one picture. Imports matplotlib."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..drawing.generated_figure import Column, draw_columns
from ..drawing.terms import definitions
from ..notes.generated_images import read_picture
from ..stored.names import Neuron, at_least
from ..stored.stored_index import StoredIndex

Measure = Literal["mean", "max", "logit"]  # what a ratio counts in
WORDS: dict[Measure, str] = {"mean": "mean over the patches", "max": "largest patch", "logit": "logit"}


def generated_figure(index: StoredIndex, rows: pd.DataFrame, most: int = 4) -> Figure:
    """A run's generated images, an image a row and a snapshot a column; real images last where inputs are stored.

    The real ones are the best of the index by what the ratio counts in: the neuron's mean over the patches, its largest
    patch, or the class's logit. So the best has ratio 1.

    Args:
        rows: what `generate_images` returned.
        most: images at most.

    Returns:
        A matplotlib Figure.

    Example:
        >>> generated_figure(index, rows).savefig("made.png")
    """
    at_least(1, most=most)
    neuron = Neuron(str(rows.layer.iloc[0]), int(rows.unit.iloc[0]))
    first = rows[(rows.layer == neuron.layer) & (rows.unit == neuron.unit)]
    measure = measure_of(str(first.objective.iloc[0]))
    _, *size = index.spec.preprocessing["input_size"]
    columns = []
    for step in sorted(first.step.unique()):
        made = first[first.step == step].sort_values("id").head(most)
        pixels = [read_picture(index.layout, number, size) for number in made.id.tolist()]
        captions = [_caption(row, measure) for _, row in made.iterrows()]
        columns.append(Column(f"step {step}", pixels, captions))
    if index.spec.inputs:
        columns.append(_real(index, neuron, _class_of(first), measure, len(columns[0].pixels)))
    return draw_columns(_title(index, neuron, first, measure, len(columns[0].pixels)), columns)


def measure_of(objective: str) -> Measure:
    """What the ratio of a row counts in, by the name of its objective (see judge)."""
    if objective.startswith("logit of "):
        return "logit"
    return "mean" if objective.startswith("mean ") else "max"


def real_values(index: StoredIndex, neuron: Neuron, class_id: int | None, measure: Measure) -> NDArray[np.float32]:
    """What the ratio counts in, on every image of the index: float32 [image], NaN where it could not be read."""
    if measure == "logit":
        assert class_id is not None
        return np.asarray(index.reader.column("logits", class_id))
    if measure == "mean":
        return np.asarray(index.reader.column(f"{neuron.layer}/mean", neuron.unit))
    return np.asarray(index.reader.cell(f"{neuron.layer}/max_by_neuron", neuron.unit))


def _title(index: StoredIndex, neuron: Neuron, rows: pd.DataFrame, measure: Measure, shown: int) -> str:
    one, class_id = rows.iloc[0], _class_of(rows)
    of = "" if class_id is None or not index.spec.classes else f", for {index.class_name(class_id)}"
    made = f"{shown} of {rows.id.nunique() // rows.step.nunique()} images of the {one.recipe} recipe, seed {one.seed}"
    what = f"ratio by {WORDS[measure]}: 1 is the best of {int(index.manifest['images']['indexed']):,} real images"
    return f"Images that excite {neuron}{of} ({one.objective}): {made}.\n{what}.\n{definitions(['ratio', 'pre_mean'])}"


def _class_of(rows: pd.DataFrame) -> int | None:
    number = rows.class_id.iloc[0]
    return None if pd.isna(number) else int(number)


def _caption(row: pd.Series, measure: Measure) -> str:
    """The value that the ratio counts in, where the row has it, and the ratio."""
    value = {"mean": f"mean {row.pre_mean:.2f}, ", "max": f"max {row.pre_max:.2f}, ", "logit": ""}[measure]
    return f"mean {row.pre_mean:.2f}" if np.isnan(row.ratio) else f"{value}ratio {row.ratio:.2f}"


def _real(index: StoredIndex, neuron: Neuron, class_id: int | None, measure: Measure, count: int) -> Column:
    """The best real images by `measure`, best first; ties go to the lower number."""
    values = real_values(index, neuron, class_id, measure)
    order = np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable")
    best = [int(i) for i in order if np.isfinite(values[i])][:count]
    paths = {int(i): path for i, path in index.tables.rows(
        "SELECT image_id, path FROM images WHERE list_contains(?, image_id)", [best])}  # fmt: skip
    captions = [f"{measure} {values[i]:.2f}\n{paths[i]}" for i in best]
    return Column(f"real images, best by {WORDS[measure]}", list(index.inputs(best)), captions)
