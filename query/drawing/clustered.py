"""The order in which a matrix of similarities shows its clusters: that of the leaves of a tree by average linkage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def clustered(similarity: NDArray[np.floating]) -> NDArray[np.int64]:
    """Rows of a symmetric matrix [n, n], the most similar beside each other: int64 [n].

    Clusters are joined by the mean similarity of their members (UPGMA), along chains of nearest neighbours, which needs
    n² steps where the plain way needs n³.
    """
    near = np.asarray(similarity, np.float64).copy()
    np.fill_diagonal(near, -np.inf)
    members: list[list[int]] = [[row] for row in range(len(near))]
    open_, chain = set(range(len(near))), list[int]()
    while len(open_) > 1:
        if not chain:
            chain.append(min(open_))
        best = int(near[chain[-1]].argmax())
        if len(chain) > 1 and near[chain[-1], chain[-2]] >= near[chain[-1], best]:
            a, b = chain.pop(), chain.pop()
            _join(near, members, a, b)
            open_.remove(b)
        else:
            chain.append(best)
    return np.array(members[open_.pop()] if open_ else [], np.int64)


def _join(near: NDArray[np.float64], members: list[list[int]], a: int, b: int) -> None:
    """Cluster b goes into a."""
    share = len(members[a]) / (len(members[a]) + len(members[b]))
    mean = share * near[a] + (1 - share) * near[b]
    near[a] = near[:, a] = np.where(np.isinf(near[a]) | np.isinf(near[b]), -np.inf, mean)
    near[b] = near[:, b] = -np.inf
    members[a], members[b] = members[a] + members[b], []
