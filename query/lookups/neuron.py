"""What is stored of single neurons: their quantiles, and what their value vectors say of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex
from .key_neurons import needs_head

Quantile = Literal["q001", "q50", "q90", "q99", "q995", "q999"]
QUANTILES: tuple[Quantile, ...] = get_args(Quantile)


def classes_of(index: StoredIndex, layer: str, unit: int, k: int = 10) -> pd.DataFrame:
    """The k classes that a neuron's value vector says loudest, by score.

    One product with the stored head instead of a search through all scores.

    Args:
        layer: such as 'blocks.4.mlp.fc1'; unit: the neuron in it.
        k: how many.

    Returns:
        Columns rank, class_id, class, wnid, score, cosine, probability (over all classes) and folded, as in
        class_scores; folded is NaN where it is not defined.

    Raises:
        QueryError: an unknown neuron, one without a value vector, or an index without a head.

    Example:
        >>> classes_of(index, "blocks.4.mlp.fc1", 473, k=3)["class"].tolist()
    """
    at_least(1, k=k)
    index.neuron_layer(layer, unit)
    names, place = index.vectors_of(layer)
    needs_head(index)
    reader = index.reader
    head = reader.chunk("head")
    vector = reader.cell(names.vectors, place, unit)
    score = np.einsum("cd,d->c", head, vector)  # a BLAS call may wait for other processes longer than it works
    share = np.exp(score - score.max())
    table = index.classes.rename(columns={"name": "class"})[["class_id", "class", "wnid"]].assign(
        score=score,
        cosine=score / (np.linalg.norm(head, axis=1) * np.linalg.norm(vector)),
        probability=share / share.sum(),
        folded=np.nan,
    )
    if names.folded in reader:
        table["folded"] = np.einsum("cd,d->c", head, reader.cell(names.folded, place, unit))
    first = table.sort_values("score", ascending=False, kind="stable").head(k).reset_index(drop=True)
    first.insert(0, "rank", range(1, len(first) + 1))
    return first


def quantiles(index: StoredIndex, layer: str, units: Sequence[int], quantile: Quantile) -> NDArray[np.float32]:
    """The neurons' own quantiles over all patches of all images.

    Args:
        layer: such as 'blocks.4.mlp.fc1'.
        units: neurons of it.
        quantile: 'q001', 'q50', 'q90', 'q99', 'q995' or 'q999'.

    Returns:
        float32 [unit], values as the maps hold them; FORMAT.md states their error.

    Raises:
        QueryError: an unknown layer or quantile.

    Example:
        >>> quantiles(index, "blocks.4.mlp.fc1", [473, 16], "q99")
    """
    if quantile not in QUANTILES:
        raise QueryError(f"no quantile '{quantile}'", f"One of {', '.join(QUANTILES)}.")
    table = index.look_up(f"SELECT {quantile} AS value FROM neurons WHERE layer = ? ORDER BY unit", [layer])
    chosen: NDArray[np.float32] = table.value.to_numpy(np.float32)[np.asarray(units, int)]
    return chosen


def with_thresholds(index: StoredIndex, neurons: pd.DataFrame, quantile: Quantile) -> pd.DataFrame:
    """Rows of layer, unit with their own quantile as `threshold`, and whether it is `negative`."""
    threshold = np.empty(len(neurons), np.float32)
    for layer, rows in neurons.groupby("layer").indices.items():
        threshold[rows] = quantiles(index, str(layer), neurons.unit.iloc[rows].tolist(), quantile)
    return neurons.assign(threshold=threshold, negative=threshold < 0)
