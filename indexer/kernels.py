"""The reductions of a layer on the CPU, compiled by Numba: every value is read once instead of ten times.

What they compute is said in torch in reduce.py; tests compare the two. Values are [image, token, neuron], float32 or
the bits of bfloat16 as uint16; the first `prefix` tokens are not patches.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import overload

from ..schemas.codes import CODES
from .bins import HALF, LOWEST, STEPS

TILE = 64  # neurons at once: their rows of codes stay in the cache
COUNTED_TILE = 128
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


@numba.njit(parallel=True, cache=True, error_model="numpy")
def summarise(x, y, prefix, high, low, mean, argmax, post_mean, top, codes):
    """All summaries of a layer, an image at a time, so that it is read from memory once.

    Over the patches: extremes, mean and place of the maximum of x, mean of y: [image, neuron]. `top`: the largest
    neurons of every token [image, token, TOKEN_TOP]. `codes`: maps as uint8 [image, neuron, patch]; empty for none.
    """
    images, tokens, units = x.shape
    patches = np.float32(tokens - prefix)
    for i in numba.prange(images):
        largest, smallest, total, post = high[i], low[i], mean[i], post_mean[i]
        largest[:], smallest[:], total[:], post[:] = -np.inf, np.inf, 0, 0
        place = np.zeros(units, np.int32)  # as wide as the values: then the loops become vector instructions
        most, best = np.empty((units + BLOCK - 1) // BLOCK, np.float32), np.empty(top.shape[2], np.float32)
        for t in range(tokens):
            _largest_neurons(x[i, t], most, best, top[i, t])
            if t >= prefix:
                _add_patch(x[i, t], y[i, t], np.int32(t - prefix), largest, smallest, total, place, post)
        for u in range(units):
            total[u] /= patches
            post[u] /= patches
        argmax[i] = place
        if codes.size:
            _encode(x[i, prefix:], largest, smallest, codes[i])


@numba.njit(cache=True)
def _add_patch(row, active, p, largest, smallest, total, place, post):
    for u in range(len(row)):  # without branches, so that it becomes vector instructions
        v = _value(row[u])
        more = v > largest[u]
        place[u] = p if more else place[u]
        largest[u] = v if more else largest[u]
        smallest[u] = v if v < smallest[u] else smallest[u]
        total[u] += v
    for u in range(len(row)):
        post[u] += _value(active[u])


@numba.njit(cache=True)
def _largest_neurons(row, most, best, out):
    """Places of a token's largest neurons, descending, ties to the lower: found in the blocks with the largest maxima.

    `most` [block] and `best` [TOKEN_TOP] are scratch.
    """
    _block_maxima(row, most)
    best[:], out[:] = -np.inf, 0
    for b in range(len(most)):
        if most[b] > best[-1]:
            _insert(most[b], b, best, out)
    bound = best[-1]  # at least as many values are this large as are wanted
    best[:], out[:] = -np.inf, 0
    for b in range(len(most)):
        if most[b] >= bound:
            for u in range(b * BLOCK, min((b + 1) * BLOCK, len(row))):
                v = _value(row[u])
                if v >= bound and v > best[-1]:
                    _insert(v, u, best, out)


@numba.njit(cache=True, fastmath={"nnan", "nsz"})  # a maximum becomes vector instructions only without NaN
def _block_maxima(row, most):
    for b in range(len(most)):
        part = row[b * BLOCK : (b + 1) * BLOCK]
        best = np.float32(-np.inf)
        for u in range(len(part)):
            best = max(best, _value(part[u]))
        most[b] = best


@numba.njit(cache=True)
def _insert(value, place, best, places):
    """Into a descending list, behind its equals; the last one falls out."""
    j = len(best) - 1
    while j > 0 and value > best[j - 1]:
        best[j], places[j] = best[j - 1], places[j - 1]
        j -= 1
    best[j], places[j] = value, place


@numba.njit(cache=True, error_model="numpy")
def _encode(x, high, low, codes):
    """Codes of one image's maps between their own extremes, transposed: uint8 [neuron, patch]."""
    patches, units = x.shape
    tile = np.empty((patches, TILE), np.uint8)
    scale = np.empty(TILE, np.float32)
    for first in range(0, units, TILE):
        n = min(TILE, units - first)
        bottom = low[first : first + n]
        for u in range(n):
            span = high[first + u] - bottom[u]
            scale[u] = _SPAN / span if span > 0 else np.float32(0)
        for p in range(patches):
            row = x[p, first : first + n]
            for u in range(n):
                tile[p, u] = np.uint8(np.int32(np.rint((_value(row[u]) - bottom[u]) * scale[u])))
        for u in range(n):
            out = codes[first + u]
            for p in range(patches):
                out[p] = tile[p, u]


@numba.njit(parallel=True, cache=True)
def count(x, prefix, picked, centre, unit, counts, total, square, positive):
    """Add the picked patches [image, k] of every image to each neuron's bins and moments (counts.py)."""
    images, _, units = x.shape
    for tile in numba.prange((units + COUNTED_TILE - 1) // COUNTED_TILE):
        first = tile * COUNTED_TILE
        n = min(COUNTED_TILE, units - first)
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


@numba.njit(parallel=True, cache=True)
def keep_largest(x, prefix, heaps):
    """Put every patch of x into its neuron's heap of the largest values: float32 [neuron, kept], the least first."""
    images, tokens, units = x.shape
    for tile in numba.prange((units + TILE - 1) // TILE):
        for i in range(images):
            for t in range(prefix, tokens):
                for u in range(tile * TILE, min((tile + 1) * TILE, units)):
                    v = _value(x[i, t, u])
                    if v > heaps[u, 0]:
                        _replace_least(heaps[u], v)


@numba.njit(cache=True)
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
