"""The reductions of a layer on the CPU, compiled by Numba: every value is read once or twice instead of ten times.

What they compute is said in torch in reduce.py; tests compare the two. Values are [image, token, neuron], float32 or
the bits of bfloat16 as uint16; the first `prefix` tokens are not patches.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import overload

from ..schemas.codes import CODES
from ..schemas.records import TOKEN_TOP
from .bins import HALF, LOWEST, STEPS

TILE = 64  # neurons at once: their rows of codes and counts stay in the cache
BLOCK = 32  # neurons whose maximum decides whether any of them is among a token's largest
_SPAN = np.float32(CODES)
_ZERO_BIN = (127 + LOWEST) * STEPS


def _value(stored):
    """A stored number as float32; resolved by type when Numba compiles."""


@overload(_value, inline="always")
def _(stored):
    if stored == numba.uint16:
        return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
    return lambda stored: stored


@numba.njit(parallel=True, cache=True)
def summarise(x, y, prefix, high, low, mean, argmax, post_mean):
    """Extremes, mean and place of the maximum of x, and the mean of y, over the patches: [image, neuron] each."""
    images, tokens, units = x.shape
    patches = np.float32(tokens - prefix)
    for i in numba.prange(images):
        largest, smallest, total, place, post = high[i], low[i], mean[i], argmax[i], post_mean[i]
        for u in range(units):
            v = _value(x[i, prefix, u])
            largest[u] = smallest[u] = total[u] = v
            post[u] = _value(y[i, prefix, u])
            place[u] = 0
        for p in range(prefix + 1, tokens):
            row, active = x[i, p], y[i, p]
            for u in range(units):  # without branches, so that it becomes vector instructions
                v = _value(row[u])
                more = v > largest[u]
                place[u] = p - prefix if more else place[u]
                largest[u] = v if more else largest[u]
                smallest[u] = v if v < smallest[u] else smallest[u]
                total[u] += v
            for u in range(units):
                post[u] += _value(active[u])
        for u in range(units):
            total[u] /= patches
            post[u] /= patches


@numba.njit(parallel=True, cache=True, error_model="numpy")
def encode(x, prefix, high, low, codes):
    """Codes of the maps between their own extremes, transposed: uint8 [image, neuron, patch]."""
    images, tokens, units = x.shape
    patches = tokens - prefix
    for i in numba.prange(images):
        tile = np.empty((patches, TILE), np.uint8)
        scale = np.empty(TILE, np.float32)
        for first in range(0, units, TILE):
            n = min(TILE, units - first)
            bottom = low[i, first : first + n]
            for u in range(n):
                span = high[i, first + u] - bottom[u]
                scale[u] = _SPAN / span if span > 0 else np.float32(0)
            for p in range(patches):
                row = x[i, prefix + p, first : first + n]
                for u in range(n):
                    tile[p, u] = np.uint8(np.int32(np.rint((_value(row[u]) - bottom[u]) * scale[u])))
            for u in range(n):
                out = codes[i, first + u]
                for p in range(patches):
                    out[p] = tile[p, u]


@numba.njit(parallel=True, cache=True)
def largest_neurons(x, out):
    """The TOKEN_TOP largest neurons of every token, descending, ties to the lower: [image, token, TOKEN_TOP]."""
    images, tokens, units = x.shape
    for place in numba.prange(images * tokens):
        row = x[place // tokens, place % tokens]
        best = np.full(TOKEN_TOP, -np.inf, np.float32)
        ids = np.zeros(TOKEN_TOP, np.int32)
        for first in range(0, units, BLOCK):
            last = min(first + BLOCK, units)
            most = np.float32(-np.inf)
            for u in range(first, last):
                v = _value(row[u])
                most = v if v > most else most
            if not most > best[-1]:
                continue
            for u in range(first, last):
                v = _value(row[u])
                if v > best[-1]:
                    j = TOKEN_TOP - 1
                    while j > 0 and v > best[j - 1]:
                        best[j], ids[j] = best[j - 1], ids[j - 1]
                        j -= 1
                    best[j], ids[j] = v, u
        out[place // tokens, place % tokens] = ids


@numba.njit(parallel=True, cache=True)
def count(x, prefix, picked, centre, unit, counts, total, square, positive):
    """Add the picked patches [image, k] of every image to each neuron's bins and moments (counts.py)."""
    images, _, units = x.shape
    for tile in numba.prange((units + TILE - 1) // TILE):
        first = tile * TILE
        n = min(TILE, units - first)
        middle, size = centre[first : first + n], unit[first : first + n]
        place = np.empty(n, np.int32)
        sums, squares, above = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.int32)
        for i in range(images):
            sums[:], squares[:], above[:] = 0, 0, 0
            for j in range(picked.shape[1]):
                row = x[i, prefix + picked[i, j], first : first + n]
                for u in range(n):  # without branches, so that it becomes vector instructions
                    v = _value(row[u])
                    bits = np.float32((v - middle[u]) / size[u]).view(np.int32)
                    magnitude = min(max(((bits & 0x7FFFFFFF) >> 16) - _ZERO_BIN, 0), HALF - 1)
                    place[u] = HALF - 1 - magnitude if bits < 0 else HALF + magnitude
                    sums[u] += v
                    squares[u] += v * v
                    above[u] += np.int32(v > 0)
                for u in range(n):
                    counts[first + u, place[u]] += 1
            for u in range(n):
                total[first + u] += sums[u]
                square[first + u] += squares[u]
                positive[first + u] += above[u]
