"""Neurons that carry several classes: what each gives to which class, and to how many.

A neuron's weight for a class is the positive part of its contribution (or folded score, or score). The weights are
computed layer by layer from value vectors, head and the classes' mean activation, as the tables' are: so the same can
be done with the coordinates of the head's rows shuffled (drawings.drawn_heads), 19 times. Rows and value vectors then
have nothing to do with each other, while what the neuron does on the classes' images stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, silent
from ...schemas.run_spec import READOUTS, LayerSpec
from ..lookups.class_images import labelled_images
from ..lookups.key_neurons import Ranking, chosen_ranking
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex
from .drawings import drawn_heads

Scores = NDArray[np.float32]
Floats = NDArray[np.float64]
Weighing = Literal["contribution", "folded", "score"]
WEIGHINGS: tuple[Weighing, ...] = get_args(Weighing)
IMAGES = 1000  # read at once


def carrier_neurons(
    index: StoredIndex, by: Ranking | None = None, seed: int = 0, *, progress: Progress | None = None
) -> pd.DataFrame:
    """To how many classes every neuron gives its weight, beside what it would give to a shuffled head.

    Args:
        by: what weighs a class: 'contribution', 'folded' or 'score'; None: see default_ranking.
        seed: of the 19 drawings in which the coordinates of the head's rows are shuffled.
        progress: told layers done, and all of them.

    Returns:
        One row a neuron: layer, block, unit, positive (the sum of its positive weights, of classes with images where
        they are contributions), effective (the effective number of classes: 1 / sum of the squared shares in it; NaN
        where nothing is positive), effective_low, effective_mean, effective_high (the smallest, mean and largest of the
        drawings), chance (the largest weight for any class in the drawings), carried (classes whose weight is larger
        than chance) and carried_weight (their sum): neurons that carry most in several classes (carried > 1) first.

    Raises:
        QueryError: no head, another ranking, or contributions where they are not defined or no image has a class.

    Example:
        >>> carrier_neurons(index).query("carried > 1").effective.median()
    """
    by, tell, layers = _weighing(index, by), progress or silent, index.ranked_layers
    images = labelled_images(index) if by == "contribution" else None
    head = index.reader.whole("head")
    head = head if images is None else head[np.unique(images.class_id)]
    frames = []
    for done, layer in enumerate(layers, 1):
        every = _weights(index, layer, head, by, images, seed)
        weights = next(every)
        total, effective, _ = _summed(weights)
        drawn = [_summed(one)[1:] for one in every]
        by_chance, chance = np.array([one for one, _ in drawn]), np.max([largest for _, largest in drawn], axis=0)
        carried = weights > chance
        columns = {
            "layer": layer.name,
            "block": layer.block,
            "unit": np.arange(layer.units),
            "positive": total,
            "effective": effective,
            "effective_low": by_chance.min(0),
            "effective_mean": by_chance.mean(0),
            "effective_high": by_chance.max(0),
            "chance": chance,
            "carried": carried.sum(0),
            "carried_weight": np.where(carried, weights, 0).sum(0, dtype=np.float64),
        }
        frames.append(pd.DataFrame(columns))
        tell(done, len(layers))
    table = pd.concat(frames, ignore_index=True)
    order = np.lexsort((table.unit, table.block, -table.carried_weight, table.carried < 2))
    table = table.iloc[order].reset_index(drop=True)
    table.attrs["by"] = by
    return table


def carried_classes(index: StoredIndex, carriers: pd.DataFrame, k: int = 20, each: int = 5) -> pd.DataFrame:
    """What the first carriers give to which classes, one row a neuron and class.

    Args:
        carriers: as from carrier_neurons.
        k: how many neurons, those that carry several classes alone.
        each: how many classes of each, those with the largest weight.

    Returns:
        Columns rank, layer, block, unit, effective, effective_mean, carried, class_id, class, weight (logits, or what
        the ranking counts in), share (of the neuron's positive weights), chance (the largest weight for any class in
        the drawings), passes (weight > chance).

    Raises:
        QueryError: k or each below 1.

    Example:
        >>> carried_classes(index, carrier_neurons(index), k=5)
    """
    at_least(1, k=k, each=each)
    by = carriers.attrs["by"]
    first = carriers[carriers.carried > 1].head(k).assign(rank=lambda table: range(1, len(table) + 1))
    weights = index.sql(
        f"SELECT layer, unit, class_id, class, {by} AS weight FROM "
        f"{'class_activations' if by == 'contribution' else 'class_scores'} JOIN classes USING (class_id) "
        "WHERE (layer, unit) IN (SELECT (unnest($1), unnest($2))) QUALIFY row_number() OVER "
        f"(PARTITION BY layer, unit ORDER BY {by} DESC NULLS LAST, class_id) <= $3 AND weight > 0",
        [first.layer.tolist(), first.unit.tolist(), each],
    )
    table = first.merge(weights, on=["layer", "unit"])
    table = table.assign(share=table.weight / table.positive, passes=table.weight > table.chance)
    columns = ["rank", "layer", "block", "unit", "effective", "effective_mean", "carried", "class_id", "class",
               "weight", "share", "chance", "passes"]  # fmt: skip
    table = table[columns].sort_values(["rank", "weight"], ascending=[True, False], ignore_index=True)
    table.attrs["by"] = by
    return table


def _weighing(index: StoredIndex, by: Ranking | None) -> Weighing:
    chosen = chosen_ranking(index, by)
    weighing = next((one for one in WEIGHINGS if one == chosen), None)
    if weighing is None:
        raise QueryError(f"{chosen} is no weight that a neuron gives", f"One of {', '.join(WEIGHINGS)}.")
    if weighing != "score" and index.spec.readout not in READOUTS:
        raise QueryError(f"this index ranks no neuron by {chosen}", "Its head is read in another way: take --by score.")
    return weighing


def _weights(
    index: StoredIndex, layer: LayerSpec, head: Scores, by: Weighing, images: pd.DataFrame | None, seed: int
) -> Iterator[Scores]:
    """A layer's positive weights [class, unit], then those of the drawings."""
    arrays, at = index.vectors_of(layer.name)
    vectors = index.reader.rows(arrays.vectors if by == "score" else arrays.folded, [at])[0]
    read = np.float32(1) if images is None else _mean_read(index, layer, images)
    for rows in chain([head], drawn_heads(head, seed)):
        weights: Scores = np.maximum(rows @ vectors.T * read, 0)
        yield weights


def _mean_read(index: StoredIndex, layer: LayerSpec, images: pd.DataFrame) -> Scores:
    """What the head reads of each unit, mean over the images of each class: float32 [class, unit]."""
    ids, of_class = images.image_id.to_numpy(), np.unique(images.class_id, return_inverse=True)[1]
    sums = np.zeros((of_class.max() + 1, layer.units))
    for start in range(0, len(ids), IMAGES):
        rows, classes = index.reader.rows(f"{layer.name}/read", ids[start : start + IMAGES]), of_class[start:][:IMAGES]
        for class_ in np.unique(classes):
            sums[class_] += rows[classes == class_].sum(0, dtype=np.float64)
    mean: Scores = (sums / np.bincount(of_class)[:, None]).astype(np.float32)
    return mean


def _summed(weights: Scores) -> tuple[Floats, Floats, Scores]:
    """Of every neuron: the sum of its weights, their effective number, and the largest."""
    total, squares = weights.sum(0, dtype=np.float64), np.einsum("cn,cn->n", weights, weights, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return total, total**2 / np.where(squares > 0, squares, np.nan), weights.max(0)
