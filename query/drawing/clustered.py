"""Trees of clusters of classes, from the cosines of all pairs in the order of numpy's triu_indices."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Lines = NDArray[np.float64]


def average_linkage(cosines: ArrayLike) -> Floats | None:
    """The tree that joins clusters by the mean distance of their members, 1 - cosine (UPGMA).

    Args:
        cosines: of all pairs [n (n - 1) / 2].

    Returns:
        SciPy's merges [n - 1, 4], the nearest first: two clusters (below n one class, else n + an earlier merge), their
        distance, members. None where a cosine is missing: nothing is known of a class that does not vary.
    """
    from scipy.cluster.hierarchy import linkage  # takes half a second to import

    distances = np.maximum(1 - np.asarray(cosines, np.float64), 0)
    if np.isnan(distances).any():
        return None
    tree: Floats = linkage(distances, "average")
    return tree


def leaves(tree: Floats) -> NDArray[np.int64]:
    """The classes as they stand along the tree, no branch crossing another: int64 [n]."""
    from scipy.cluster.hierarchy import leaves_list

    order: NDArray[np.int64] = leaves_list(tree).astype(np.int64)
    return order


def branches(tree: Floats, most: int) -> tuple[Lines, Lines]:
    """The last `most` merges as lines, and the clusters that they leave whole as triangles, in (height, place).

    Returns:
        float64 [merge, 4, 2], a bracket each; [cluster, 3, 2], from a cluster's height to its first and last leaf.
    """
    count = len(tree) + 1
    centre, height = np.empty(2 * count - 1), np.zeros(2 * count - 1)
    centre[leaves(tree)] = np.arange(count)
    first, last = centre.copy(), centre.copy()
    for place, (a, b, high, _) in enumerate(tree, count):
        pair = [int(a), int(b)]
        centre[place], height[place] = centre[pair].mean(), high
        first[place], last[place] = first[pair].min(), last[pair].max()
    shown = tree[-most:]
    brackets = [
        [(height[a], centre[a]), (high, centre[a]), (high, centre[b]), (height[b], centre[b])]
        for a, b, high in ((int(a), int(b), high) for a, b, high, _ in shown)
    ]
    whole = [int(c) for c in shown[:, :2].reshape(-1) if count <= c < 2 * count - 1 - len(shown)]
    triangles = [[(height[c], centre[c]), (0, first[c]), (0, last[c])] for c in whole]
    return np.array(brackets), np.array(triangles).reshape(-1, 3, 2)


def class_names(similarity: pd.DataFrame) -> list[str]:
    """The classes of a table of all their pairs (class_a, class_b), in their order."""
    count = round((1 + (1 + 8 * len(similarity)) ** 0.5) / 2)
    return [similarity.class_a.iloc[0], *similarity.class_b.iloc[: count - 1]]


def square(values: ArrayLike, count: int) -> Floats:
    """Values of all pairs as a symmetric matrix [count, count], 1 on its diagonal."""
    matrix = np.eye(count)
    rows, columns = np.triu_indices(count, 1)
    matrix[rows, columns] = matrix[columns, rows] = values
    return matrix
