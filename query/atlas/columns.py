"""What the tables hold of neurons and images, as arrays in memory: one scan of a table, not one for every page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import STRANGE, DamagedIndex
from ...schemas.run_spec import Side
from ..lookups.key_neurons import EFFECTS, RANKINGS, TABLES, Ranking
from ..lookups.neuron import QUANTILES
from ..stored.stored_index import StoredIndex

Column = NDArray[Any]
STATISTICS = ("pre_mean", "pre_std", "post_mean", "positive_share", "value_norm", "dead")
LARGEST: set[Ranking] = {"auroc", "effect"}  # of which the largest of all classes is held
SHOWN: dict[Side, int] = {"top": 20, "quantile": 9, "bottom": 9}  # exemplars of a neuron on its page


@dataclass(frozen=True)
class Neurons:
    """All neurons, layer after layer in the order of units: a row each.

    columns: those of the table neurons; says (the class of rank_in_unit 1) and its score; auroc and auroc_class, effect
    and effect_class: the largest of all classes, and the first class that has it. NaN where there is none.
    """

    starts: tuple[int, ...]  # the first row of each layer, and the end
    columns: dict[str, Column]

    def row(self, place: int, unit: int) -> int:
        """The row of a neuron that there is."""
        return self.starts[place] + unit

    def of_layer(self, place: int, name: str) -> Column:
        return self.columns[name][self.starts[place] : self.starts[place + 1]]


def ranking_tables(index: StoredIndex) -> dict[str, list[Ranking]]:
    """The tables of an index that rank neurons, and by what each does."""
    held = {names: table for names, table in TABLES.items() if names != EFFECTS or index.effects is not None}
    return {table: [by for by in RANKINGS if by in names] for names, table in held.items()}


def all_neurons(index: StoredIndex) -> Neurons:
    """The rows of all neurons of an index."""
    starts = np.concatenate([[0], np.cumsum([layer.units for layer in index.spec.layers])]).astype(int)
    first = {layer.name: start for layer, start in zip(index.spec.layers, starts, strict=False)}
    columns: dict[str, Column] = {}
    units = {layer.name: layer.units for layer in index.spec.layers}

    def fill(query: str, names: tuple[str, ...]) -> None:
        table = index.look_up(query, [])
        must_be_there("neuron", table.unit, table.layer.map(units))
        for name in {"says", "auroc_class", "effect_class"}.intersection(names):
            must_be_there("class", table[name].dropna(), len(index.classes))
        rows = table.layer.map(first).to_numpy(np.int64) + table.unit.to_numpy(np.int64)
        for name in names:
            kind = np.float64 if name.endswith("_class") or name == "says" else np.float32
            columns[name] = np.full(int(starts[-1]), np.nan, kind)
            columns[name][rows] = table[name].to_numpy(kind, na_value=np.nan)

    held = (*STATISTICS, *QUANTILES)
    fill(f"SELECT layer, unit, {', '.join(held)} FROM neurons", held)
    fill("SELECT layer, unit, class_id AS says, score FROM class_scores WHERE rank_in_unit = 1", ("says", "score"))
    for table, rankings in ranking_tables(index).items():
        for by in LARGEST.intersection(rankings):
            fill(_largest(table, by), (by, f"{by}_class"))
    return Neurons(tuple(starts.tolist()), columns)


def must_be_there(what: str, numbers: pd.Series, size: int | pd.Series) -> None:
    """Raise DamagedIndex where tables name a number that the index does not have: a stranger wrote them."""
    if not ((numbers >= 0) & (numbers < size)).all():
        raise DamagedIndex(f"the tables name a {what} that the index does not have", STRANGE)


def _largest(table: str, by: Ranking) -> str:
    """SQL of each neuron's largest value over the classes, and the first class that has it."""
    return (
        f"SELECT layer, unit, min(class_id) AS {by}_class, largest AS {by} FROM {table} "
        f"JOIN (SELECT layer, unit, max({by}) AS largest FROM {table} WHERE NOT isnan({by}) GROUP BY layer, unit) "
        f"USING (layer, unit) WHERE {by} = largest GROUP BY layer, unit, largest"
    )


@dataclass(frozen=True)
class Exemplars:
    """The exemplars of a layer's neurons at one side, best first: [unit, rank]; fewer images leave image -1."""

    image: NDArray[np.int64]
    patch: NDArray[np.int64]
    pre: NDArray[np.float32]
    post: NDArray[np.float32]

    def ids(self, unit: int, k: int) -> list[int]:
        """The numbers of a neuron's first k images."""
        return [i for i in self.image[unit, :k].tolist() if i >= 0]


def layer_exemplars(index: StoredIndex, layer: str) -> dict[Side, Exemplars]:
    """The exemplars that pages show of a layer's neurons, by side."""
    units = index.neuron_layer(layer, 0).units
    found = {}
    for side, k in SHOWN.items():
        rows = index.look_up(
            "SELECT unit, rank, image_id, patch, pre, post FROM exemplars "
            "WHERE layer = ? AND side = ? AND token = 'patch' AND rank <= ?",
            [layer, side, k],
        )
        sizes = {"unit": units, "image_id": index.spec.images, "patch": index.spec.patches}
        for column, size in sizes.items():
            must_be_there(column, rows[column], size)
        must_be_there("rank", rows["rank"] - 1, k)
        at = (rows.unit.to_numpy(np.int64), rows["rank"].to_numpy(np.int64) - 1)
        whole, real = np.full((2, units, k), -1, np.int64), np.full((2, units, k), np.nan, np.float32)
        for array, name in zip((*whole, *real), ("image_id", "patch", "pre", "post"), strict=True):
            array[at] = rows[name].to_numpy(array.dtype)
        found[side] = Exemplars(*whole, *real)
    return found


def layer_classes(index: StoredIndex, layer: str) -> dict[Ranking, NDArray[np.float32]]:
    """A layer's neurons and every class: [class, unit] for each ranking that the index has of it, NaN for nothing."""
    spec = index.neuron_layer(layer, 0)
    found: dict[Ranking, NDArray[np.float32]] = {}
    for table, columns in ranking_tables(index).items():
        rows = index.look_up(f"SELECT class_id, unit, {', '.join(columns)} FROM {table} WHERE layer = ?", [layer])
        must_be_there("class", rows.class_id, len(index.classes))
        must_be_there("neuron", rows.unit, spec.units)
        at = (rows.class_id.to_numpy(np.int64), rows.unit.to_numpy(np.int64))
        for name in columns:
            found[name] = np.full((len(index.classes), spec.units), np.nan, np.float32)
            found[name][at] = rows[name].to_numpy(np.float32, na_value=np.nan)
    return {by: found[by] for by in RANKINGS if by in found and not np.isnan(found[by]).all()}


@dataclass(frozen=True)
class Images:
    """The table of images, a row each by number. class_id and predicted: -1 for none."""

    path: list[str]
    label: list[str | None]
    class_id: NDArray[np.int64]
    predicted: NDArray[np.int64]
    p_class: NDArray[np.float32]
    readable: NDArray[np.bool_]

    def of_class(self, class_id: int) -> NDArray[np.int64]:
        """A class's readable images, those first of which the model is surest, as class_images gives them."""
        own = np.flatnonzero((self.class_id == class_id) & self.readable)
        sure = np.where(np.isnan(self.p_class[own]), -np.inf, self.p_class[own])
        return own[np.argsort(-sure, kind="stable")]


def all_images(index: StoredIndex) -> Images:
    """The rows of all images of an index."""
    query = "SELECT path, label, class_id, predicted, p_class, crop IS NOT NULL AS readable FROM images"
    table = index.look_up(f"{query} ORDER BY image_id", [])
    for column in ("class_id", "predicted"):
        must_be_there("class", table[column].dropna(), len(index.classes))
    return Images(
        table.path.tolist(),
        [None if label != label else label for label in table.label.astype(object)],
        table.class_id.to_numpy(np.int64, na_value=-1),
        table.predicted.to_numpy(np.int64, na_value=-1),
        table.p_class.to_numpy(np.float32, na_value=np.nan),
        table.readable.to_numpy(bool),
    )
