"""Pixels of neurons' regions, counted by Numba without ever making the upsampled maps."""

from __future__ import annotations

import numba
import numpy as np

from ...schemas.compiled import compiled


def places_along(patches: int, pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two patches that a pixel lies between, and the second one's weight (upsample.smooth): each [pixel]."""
    centre = ((np.arange(pixels) + 0.5) * patches / pixels - 0.5).clip(0, patches - 1)
    first = np.floor(centre).astype(np.int64)
    return first, np.minimum(first + 1, patches - 1), (centre - first).astype(np.float32)


@compiled(parallel=True)
def count_above(maps, limits, kinds, y, x, counts):
    """Add to counts [unit, set, kind] the pixels whose upsampled value is above the unit's limit.

    maps [unit, row, column]; limits [unit]; kinds: what every pixel is to each set of masks [set, y, x]; y, x: places
    along rows and columns. A pixel's value lies between those of four patches: where these are low, it is passed over.
    """
    (upper, lower, down), (left, right, across) = y, x
    units, rows, columns = maps.shape
    for u in numba.prange(units):
        limit, most, line = limits[u], np.empty(rows, np.float32), np.empty(columns, np.float32)
        for r in range(rows):
            most[r] = maps[u, r].max()
        for i in range(len(down)):
            a, b, w = upper[i], lower[i], down[i]
            if most[a] <= limit and most[b] <= limit:
                continue
            for c in range(columns):
                line[c] = maps[u, a, c] + w * (maps[u, b, c] - maps[u, a, c])
            for j in range(len(across)):
                first, second = line[left[j]], line[right[j]]
                if first + across[j] * (second - first) > limit:
                    for s in range(len(kinds)):
                        counts[u, s, kinds[s, i, j]] += 1
