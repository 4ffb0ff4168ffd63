"""Counting values into bins and keeping the largest, compiled by Numba; threshold_counts.py says what they compute."""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import overload

from ...schemas.compiled import compiled
from .bins import FAR_BINS, FAR_SHIFT, FAR_ZERO, HALF, NEAR_BINS, SHIFT, ZERO

HEAP_TILE = 64
COUNTED_TILE = 128
HELD = 536  # values of a neuron that are counted at once; no power of two, or their rows would share cache lines


def float32_value(stored):
    """A stored number as float32; resolved by type when Numba compiles."""


@overload(float32_value, inline="always")
def _(stored):
    if stored == numba.uint16:
        return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
    return lambda stored: stored


@compiled(parallel=True, error_model="numpy")
def count(x, prefix, picked, centre, unit, counts, total, square, positive):
    """Add the picked patches [image, k] of every image to each neuron's bins and moments (threshold_counts.py)."""
    images, _, units = x.shape
    k = picked.shape[1]
    for tile in numba.prange((units + COUNTED_TILE - 1) // COUNTED_TILE):
        first, last = tile * COUNTED_TILE, min((tile + 1) * COUNTED_TILE, units)
        n = last - first
        bins, place, held = np.empty((n, max(k, HELD)), np.uint16), np.empty(n, np.int32), 0
        sums, squares, above = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.int32)
        for i in range(images):
            if held + k > bins.shape[1]:
                _add_bins(bins[:, :held], counts[first:last])
                held = 0
            sums[:], squares[:], above[:] = 0, 0, 0
            for j in range(k):
                row = x[i, prefix + picked[i, j], first:last]
                _find_bins(row, centre[first:last], unit[first:last], place, sums, squares, above)
                for u in range(n):
                    bins[u, held] = place[u]
                held += 1
            for u in range(n):
                total[first + u] += sums[u]
                square[first + u] += squares[u]
                positive[first + u] += above[u]
        _add_bins(bins[:, :held], counts[first:last])


@compiled(error_model="numpy")
def _find_bins(row, centre, unit, place, sums, squares, above):
    """Bins of values [neuron], and their part in the moments."""
    for u in range(len(row)):  # without branches, so that it becomes vector instructions
        v = float32_value(row[u])
        bits = np.float32((v - centre[u]) / unit[u]).view(np.int32)
        size = bits & 0x7FFFFFFF
        magnitude = min(max((size >> SHIFT) - ZERO, 0), NEAR_BINS - 1)
        magnitude += min(max((size >> FAR_SHIFT) - FAR_ZERO, 0), FAR_BINS)
        place[u] = HALF - 1 - magnitude if bits < 0 else HALF + magnitude
        sums[u] += v
        squares[u] += v * v
        above[u] += np.int32(v > 0)


@compiled()
def _add_bins(bins, counts):
    """Count bins [neuron, value] a neuron at a time: its own counts then lie in the nearest cache."""
    for u in range(len(bins)):
        mine = counts[u]
        for bin in bins[u]:
            mine[bin] += 1


@compiled(parallel=True)
def keep_largest(x, prefix, heaps):
    """Put every patch of x into its neuron's heap of the largest values: float32 [neuron, kept], the least first."""
    images, tokens, units = x.shape
    for tile in numba.prange((units + HEAP_TILE - 1) // HEAP_TILE):
        for i in range(images):
            for t in range(prefix, tokens):
                for u in range(tile * HEAP_TILE, min((tile + 1) * HEAP_TILE, units)):
                    v = float32_value(x[i, t, u])
                    if v > heaps[u, 0]:
                        _replace_least(heaps[u], v)


@compiled()
def _replace_least(heap, value):
    at, below = 0, 1
    while below < len(heap):
        if below + 1 < len(heap) and heap[below + 1] < heap[below]:
            below += 1
        if not heap[below] < value:
            break
        heap[at] = heap[below]
        at, below = below, 2 * below + 1
    heap[at] = value
