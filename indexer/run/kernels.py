"""The reductions of a layer on the CPU, compiled by Numba: every value is read once instead of ten times.

What they compute is said in torch in reduce.py; tests compare the two. Values are [image, token, neuron], float32 or
the bits of bfloat16 as uint16; the first `prefix` tokens are not patches.
"""

from __future__ import annotations

import numba
import numpy as np

from ...schemas.compiled import compiled
from ...schemas.storage.map_codes import CODES
from ..statistics.count_kernels import float32_value

TILE = 256  # neurons at once: their rows of codes stay in the cache
ROWS = 14  # patches at once
GROUP = 32  # neurons whose maximum decides whether any of them is among a token's largest
_SPAN = np.float32(CODES)
_8, _16, _24 = np.uint32(8), np.uint32(16), np.uint32(24)  # a sum of two would be 64 bits wide to Numba


@compiled(parallel=True, error_model="numpy")
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
        for t in range(prefix):
            _largest_neurons(x[i, t], most, best, top[i, t])
        first = prefix
        while first < tokens:
            many = ROWS if first + ROWS <= tokens else 1
            rows, active, p = x[i, first : first + many], y[i, first : first + many], np.int32(first - prefix)
            if many == ROWS:
                _add_patches(rows, active, p, largest, smallest, total, place, post)
            else:
                _add_patch(rows[0], active[0], p, largest, smallest, total, place, post)
            for r in range(many):
                _largest_neurons(rows[r], most, best, top[i, first + r])
            first += many
        for u in range(units):
            total[u] /= patches
            post[u] /= patches
        argmax[i] = place
        if codes.size:
            _encode(x[i, prefix:], largest, smallest, codes[i])


@compiled()
def _add_patches(rows, active, p, largest, smallest, total, place, post):
    """Add ROWS patches from p on: a sum is fetched once for all of them, and the rows are read side by side."""
    for u in range(rows.shape[1]):  # without branches, so that it becomes vector instructions
        high, low, at, sum = largest[u], smallest[u], place[u], total[u]
        for r in range(ROWS):
            v = float32_value(rows[r, u])
            at = p + np.int32(r) if v > high else at
            high = v if v > high else high
            low = v if v < low else low
            sum += v
        largest[u], smallest[u], place[u], total[u] = high, low, at, sum
    for u in range(active.shape[1]):
        sum = post[u]
        for r in range(ROWS):
            sum += float32_value(active[r, u])
        post[u] = sum


@compiled()
def _add_patch(row, active, p, largest, smallest, total, place, post):
    for u in range(len(row)):
        v = float32_value(row[u])
        place[u] = p if v > largest[u] else place[u]
        largest[u] = v if v > largest[u] else largest[u]
        smallest[u] = v if v < smallest[u] else smallest[u]
        total[u] += v
        post[u] += float32_value(active[u])


@compiled()
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
                v = float32_value(row[u])
                if v >= bound:
                    _insert(v, u, best, out)


@compiled()
def _group_maxima(row, most):
    groups = len(most)
    most[:] = -np.inf
    for first in range(0, len(row), groups):
        part = row[first : first + groups]
        for b in range(len(part)):
            v = float32_value(part[b])
            most[b] = v if v > most[b] else most[b]


@compiled(fastmath={"nnan", "nsz"})  # a maximum becomes vector instructions only without NaN
def _largest_below(most, bound):
    """-inf where there is none."""
    best = np.float32(-np.inf)
    for b in range(len(most)):
        best = max(best, most[b] if most[b] < bound else np.float32(-np.inf))
    return best


@compiled()
def _insert(value, place, best, places):
    """Into a list, descending and by place within equals; the last one falls out."""
    j = len(best)
    while j > 0 and (value > best[j - 1] or (value == best[j - 1] and place < places[j - 1])):
        j -= 1
        if j + 1 < len(best):
            best[j + 1], places[j + 1] = best[j], places[j]
    if j < len(best):
        best[j], places[j] = value, place


@compiled(error_model="numpy")
def _encode(x, highest, lowest, codes):
    """Codes of one image's maps between their own extremes, transposed: uint8 [neuron, patch].

    Four patches' codes make a word (the first in its lowest byte), so that a quarter of the moves turns them round.
    """
    patches, units = x.shape
    words = (patches + 3) // 4
    word, turned, scale = np.empty(TILE, np.uint32), np.empty((TILE, words), np.uint32), np.empty(TILE, np.float32)
    turned_bytes = turned.view(np.uint8)
    for first in range(0, units, TILE):
        n = min(TILE, units - first)
        bottom = lowest[first : first + n]
        for u in range(n):
            span = highest[first + u] - bottom[u]
            scale[u] = _SPAN / span if span > 0 else np.float32(0)
        for w in range(words):
            p, q = 4 * w, patches - 1  # where fewer than four are left, the last is repeated
            a, b = x[p, first : first + n], x[min(p + 1, q), first : first + n]
            c, d = x[min(p + 2, q), first : first + n], x[min(p + 3, q), first : first + n]
            for u in range(n):  # without branches, so that it becomes vector instructions
                low, factor = bottom[u], scale[u]
                one, two = _code(float32_value(a[u]), low, factor), _code(float32_value(b[u]), low, factor)
                three, four = _code(float32_value(c[u]), low, factor), _code(float32_value(d[u]), low, factor)
                word[u] = one | two << _8 | three << _16 | four << _24
            for u in range(n):
                turned[u, w] = word[u]
        for u in range(n):
            out = codes[first + u]
            for p in range(patches):
                out[p] = turned_bytes[u, p]


@compiled()
def _code(value, low, factor):
    return np.uint32(np.int32(np.rint((value - low) * factor)))
