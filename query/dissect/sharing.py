"""Neurons that classes share, and classes without a neuron of their own."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..lookups.key_neurons import Ranking, first_neurons
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex


def shared_neurons(index: StoredIndex, top: int = 1, by: Ranking | None = None) -> pd.DataFrame:
    """Neurons among the first of two classes or more.

    Args:
        top: among how many of each class.
        by: ranks key neurons, see key_neurons.

    Returns:
        Columns layer, block, unit, n, classes (their names, by class number), most classes first.

    Raises:
        QueryError: as first_neurons.

    Example:
        >>> shared_neurons(index, top=10)
    """
    at_least(1, top=top)
    ranked = first_neurons(index, top, by).sort_values(["class_id"])
    groups = ranked.groupby(["layer", "block", "unit"])["class"]
    found = groups.agg(n="size", classes=lambda names: ", ".join(names)).reset_index()
    return found[found.n > 1].sort_values(["n", "block", "unit"], ascending=[False, True, True], ignore_index=True)


def own_neurons(index: StoredIndex, by: Ranking | None = None) -> pd.DataFrame:
    """Whether each class has a neuron of its own, one row a class.

    Args:
        by: ranks key neurons, see key_neurons.

    Returns:
        Columns class_id, class, its first neuron's layer, block, unit, rank_in_unit (this class among the neuron's, by
        score), also_first_of (other classes with the same first neuron), first_of (neurons whose best class it is, by
        score), own: the first neuron is no other class's first, and says this class loudest.

    Raises:
        QueryError: as first_neurons.

    Example:
        >>> own_neurons(index).own.mean()
    """
    first = first_neurons(index, 1, by)
    names = first.groupby(["layer", "unit"])["class"].agg(list)
    sharing = [names[neuron] for neuron in zip(first.layer, first.unit, strict=True)]
    others = [", ".join(n for n in all_ if n != this) for all_, this in zip(sharing, first["class"], strict=True)]
    alone = np.array([len(all_) == 1 for all_ in sharing])
    best = index.sql("SELECT class_id, count(*) AS first_of FROM class_scores WHERE rank_in_unit = 1 GROUP BY class_id")
    table = first.assign(also_first_of=others, own=alone & (first.rank_in_unit == 1)).merge(best, "left", "class_id")
    table["first_of"] = table.first_of.fillna(0).astype(int)
    columns = ["class_id", "class", "layer", "block", "unit", "rank_in_unit", "also_first_of", "first_of", "own"]
    return table[columns].sort_values("class_id", ignore_index=True)
