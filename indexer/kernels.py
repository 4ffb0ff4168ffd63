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
HELD = 536  # values of a neuron that are counted at once; no power of two, or their rows would share cache lines
GROUP = 32  # neurons whose maximum decides whether any of them is among a token's largest
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
        most, best = np.empty((units + GROUP - 1) // GROUP, np.float32), np.empty(top.shape[2], np.float32)
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
    """Places of a token's largest neurons, descending, ties to the lower.

    Neurons b, b + groups, b + 2 * groups ... are a group; only those whose maximum reaches the TOKEN_TOP largest maxima
    are searched. `most` [group] and `best` [TOKEN_TOP] are scratch.
    """
    groups = len(most)
    _group_maxima(row, most)
    bound = np.float32(np.inf)
    for _ in range(len(best)):  # in the end at least as many values are this large as are wanted
        bound = _largest_below(most, bound)
    best[:], out[:] = -np.inf, 0
    for b in range(groups):
        if most[b] >= bound:
            for u in range(b, len(row), groups):
                v = _value(row[u])
                if v >= bound:
                    _insert(v, u, best, out)


@numba.njit(cache=True)
def _group_maxima(row, most):
    groups = len(most)
    most[:] = -np.inf
    for first in range(0, len(row), groups):
        part = row[first : first + groups]
        for b in range(len(part)):
            v = _value(part[b])
            most[b] = v if v > most[b] else most[b]


@numba.njit(cache=True, fastmath={"nnan", "nsz"})  # a maximum becomes vector instructions only without NaN
def _largest_below(most, bound):
    """-inf where there is none."""
    best = np.float32(-np.inf)
    for b in range(len(most)):
        best = max(best, most[b] if most[b] < bound else np.float32(-np.inf))
    return best


@numba.njit(cache=True)
def _insert(value, place, best, places):
    """Into a list, descending and by place within equals; the last one falls out."""
    j = len(best)
    while j > 0 and (value > best[j - 1] or (value == best[j - 1] and place < places[j - 1])):
        j -= 1
        if j + 1 < len(best):
            best[j + 1], places[j + 1] = best[j], places[j]
    if j < len(best):
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


@numba.njit(parallel=True, cache=True, error_model="numpy")
def count(x, prefix, picked, centre, unit, counts, total, square, positive):
    """Add the picked patches [image, k] of every image to each neuron's bins and moments (counts.py)."""
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


@numba.njit(cache=True, error_model="numpy")
def _find_bins(row, centre, unit, place, sums, squares, above):
    """Bins of values [neuron], and their part in the moments."""
    for u in range(len(row)):  # without branches, so that it becomes vector instructions
        v = _value(row[u])
        bits = np.float32((v - centre[u]) / unit[u]).view(np.int32)
        magnitude = min(max(((bits & 0x7FFFFFFF) >> 16) - _ZERO_BIN, 0), HALF - 1)
        place[u] = HALF - 1 - magnitude if bits < 0 else HALF + magnitude
        sums[u] += v
        squares[u] += v * v
        above[u] += np.int32(v > 0)


@numba.njit(cache=True)
def _add_bins(bins, counts):
    """Count bins [neuron, value] a neuron at a time: its own counts then lie in the nearest cache."""
    for u in range(len(bins)):
        mine = counts[u]
        for bin in bins[u]:
            mine[bin] += 1


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
