"""The tables of classes: what value vectors say of them, and what neurons do on their images. Formulas: FORMAT.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import duckdb
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...schemas.rows import Column, class_keys, insert
from ...schemas.run_spec import READOUTS, LayerSpec
from ..statistics.image_ranks import Means, score_ranks
from .filled_index import Finish

CLASSES_AT_ONCE = 50  # in memory as rows
ACTIVATIONS = ("mean_max", "mean", "post_mean", "cls_post_mean", "contribution", "auroc")

Floats = NDArray[np.float32]


def class_means(finish: Finish, layer: LayerSpec, labels: NDArray[np.int64], classes: int) -> dict[str, Means]:
    """Means of a layer's summaries, by column of class_activations ('read' makes its contribution)."""
    leaves = {"mean_max": "max", "mean": "mean", "post_mean": "post_mean", "cls_post_mean": "cls", "read": "read"}
    of_columns = {}
    for column, leaf in leaves.items():
        if f"{layer.name}/{leaf}" in finish.arrays:
            of_columns[column] = means = Means(layer.units, classes)
            for first, values in finish.reader.parts(f"{layer.name}/{leaf}"):
                here = slice(first, first + len(values))
                shown = finish.act(layer, values) if leaf == "cls" else values
                means.add(shown, labels[here], finish.valid[here])
    return of_columns


def class_columns(finish: Finish, layer: LayerSpec, means: dict[str, Means]) -> dict[str, Floats]:
    """Columns of class_activations for one layer: [class, neuron]."""
    out = {column: of_column.class_means for column, of_column in means.items()}
    read = out.pop("read", None)
    if read is not None and finish.head.weight is not None:
        folded = finish.space.folded(layer.name)
        out["contribution"] = (finish.head.weight.double() @ folded.double().T).numpy() * read
    return {column: values.astype(np.float32) for column, values in out.items()}


def insert_scores(finish: Finish, db: duckdb.DuckDBPyConnection) -> None:
    """class_scores, sorted by class, then block and unit."""
    scores = _scores(finish)
    if not scores:
        return
    hidden = [a for a in finish.spec.layers if a.has_value_vectors]
    layer_of = np.repeat(np.arange(len(hidden)), [a.units for a in hidden])
    in_unit = score_ranks(scores["score"].T)[0].T
    for here in _some_classes(len(scores["score"])):
        columns: dict[str, NDArray[Any]] = {name: value[here] for name, value in scores.items()}
        columns["rank_in_class"], columns["rank_in_layer"] = score_ranks(columns["score"], layer_of)
        columns["rank_in_unit"] = in_unit[here]
        _insert(db, "class_scores", hidden, here, columns)


def _scores(finish: Finish) -> dict[str, Floats]:
    """score, cosine, probability, folded of every unit with a value vector: [class, unit of all layers]."""
    E = finish.head.weight
    hidden = [a.name for a in finish.spec.layers if a.has_value_vectors]
    if E is None or not hidden or finish.space.vectors(hidden[0]).shape[1] != E.shape[1]:
        return {}
    vectors = {name: finish.space.vectors(name) for name in hidden}
    score = _products(E, vectors.values())
    alike = (nn.functional.normalize(of_layer.double(), dim=1) for of_layer in vectors.values())
    out = {
        "score": score,
        "cosine": _products(nn.functional.normalize(E.double(), dim=1), alike),
        "probability": score.softmax(0),
    }
    if finish.spec.readout in READOUTS:
        out["folded"] = _products(E, map(finish.space.folded, hidden))
    return {name: value.numpy() for name, value in out.items()}


def _products(E: Tensor, vectors: Iterable[Tensor]) -> Tensor:
    """E @ vectors.T over layers, summed in float64: the same float32 whatever the threads that sum."""
    return torch.cat([(E.double() @ of_layer.double().T).float() for of_layer in vectors], 1)


def insert_activations(
    finish: Finish,
    db: duckdb.DuckDBPyConnection,
    activations: dict[str, dict[str, Floats]],
    labels: NDArray[np.int64],
    classes: int,
) -> None:
    """class_activations, sorted likewise. A layer without a column has NaN in it."""
    layers = list(finish.spec.layers)
    wanted = [c for c in ACTIVATIONS if any(c in columns for columns in activations.values())]
    n = np.bincount(labels[labels >= 0], minlength=classes)
    for here in _some_classes(classes if wanted else 0):
        columns: dict[str, NDArray[Any]] = {
            c: np.concatenate([activations[a.name][c][here] if c in activations[a.name] else
                               np.full((here.stop - here.start, a.units), np.nan, np.float32) for a in layers], 1)
            for c in wanted
        }  # fmt: skip
        columns["n"] = np.repeat(n[here, None].astype(np.uint32), sum(a.units for a in layers), axis=1)
        _insert(db, "class_activations", layers, here, columns)


def _some_classes(classes: int) -> list[slice]:
    return [slice(first, min(first + CLASSES_AT_ONCE, classes)) for first in range(0, classes, CLASSES_AT_ONCE)]


def _insert(
    db: duckdb.DuckDBPyConnection,
    table: str,
    layers: list[LayerSpec],
    classes: slice,
    columns: dict[str, NDArray[Any]],
) -> None:
    """Matrices [class, neuron of all layers] as rows with their keys."""
    rows: dict[str, Column] = {
        **class_keys(layers, np.arange(classes.start, classes.stop)),
        **{name: np.ascontiguousarray(value).ravel() for name, value in columns.items()},
    }
    insert(db, table, rows)
