"""How selective, how sparse and how dead the neurons are."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from statistics import NormalDist

import numpy as np
import pandas as pd

from ..stored.stored_index import StoredIndex


def selectivity(index: StoredIndex, layer: str | None = None) -> pd.DataFrame:
    """Every neuron's best class and how much of it there is, one row a neuron.

    Args:
        layer: only neurons of this layer.

    Returns:
        Columns layer, block, unit, auroc (largest over the classes, of class against rest by the image maximum), class
        (its class), worst_auroc and worst_class (the smallest), positive_share (of patches with a > 0), dead (no value
        above 0 on any token), no_region (its q99 is negative). The AUROC are NULL where no image has a class.

    Raises:
        QueryError: an unknown layer.

    Example:
        >>> selectivity(index).nlargest(10, "auroc")
    """
    if layer is not None:
        index.neuron_layer(layer, 0)
    return index.sql(
        "WITH best AS (SELECT layer, unit, max(auroc) AS auroc, arg_max(class_id, auroc) AS c, "
        "min(auroc) AS worst_auroc, arg_min(class_id, auroc) AS w FROM class_activations "
        "WHERE (? IS NULL OR layer = ?) GROUP BY layer, unit) "
        "SELECT layer, block, unit, auroc, a.class, worst_auroc, b.class AS worst_class, positive_share, dead, "
        "q99 < 0 AS no_region FROM neurons JOIN layers USING (layer) LEFT JOIN best USING (layer, unit) "
        "LEFT JOIN classes a ON a.class_id = c LEFT JOIN classes b ON b.class_id = w "
        "WHERE ? IS NULL OR layer = ? ORDER BY block, layer, unit",
        [layer] * 4,
    )


def auroc_by_chance(images_of_classes: Sequence[int]) -> float | None:
    """The median of the best class's AUROC where classes mean nothing; None without two classes.

    Of n images against m others an AUROC is then nearly normal around 0.5, with variance (n + m + 1) / (12 n m); of
    several classes the largest is taken, as if they were independent.
    """
    counts = np.array([n for n in images_of_classes if n], float)
    if len(counts) < 2:
        return None
    others = counts.sum() - counts
    spreads = np.sqrt((counts.sum() + 1) / (12 * counts * others)).tolist()
    low, high = 0.5, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        all_below = sum(log(NormalDist(0.5, spread).cdf(middle)) for spread in spreads)
        low, high = (middle, high) if all_below < log(0.5) else (low, middle)
    return high


def selectivity_by_block(every: pd.DataFrame) -> pd.DataFrame:
    """The same for whole layers, one row a layer.

    Args:
        every: the table of `selectivity`.

    Returns:
        Columns layer, block, neurons, auroc_median, auroc_90 (percentile), positive_share (mean), dead and no_region
        (counts).

    Example:
        >>> selectivity_by_block(selectivity(index))
    """
    groups = every.groupby(["block", "layer"])
    return groups.agg(
        neurons=("unit", "size"),
        auroc_median=("auroc", "median"),
        auroc_90=("auroc", lambda a: a.quantile(0.9)),
        positive_share=("positive_share", "mean"),
        dead=("dead", "sum"),
        no_region=("no_region", "sum"),
    ).reset_index()[["layer", "block", "neurons", "auroc_median", "auroc_90", "positive_share", "dead", "no_region"]]
