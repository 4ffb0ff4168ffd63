"""Orders and sums over the images of a layer, compiled by Numba: one radix sort a neuron gives all of its ranks.

Orders are descending, equal values by ascending position, NaN last; -0.0 ranks as 0.0. image_ranks.py says what for.
"""

from __future__ import annotations

import numba
import numpy as np

from ...schemas.compiled import compiled

BITS = 11  # of a float32's 32 in each of three passes
BUCKETS = 1 << BITS
ROWS_AT_ONCE = 32  # that share a thread's buffers
TILE = 256  # neurons whose sums stay in the cache
NARROW = 16  # neurons in a cache line


@compiled()
def _keys(values, keys):
    """uint32 keys that ascend as float32 values descend."""
    bits = values.view(np.uint32)
    for i in range(len(values)):
        b = bits[i]
        if values[i] != values[i]:
            keys[i] = 0xFFFFFFFF
        elif b == 0x80000000:  # -0, as 0
            keys[i] = 0x7FFFFFFF
        else:
            keys[i] = b if b & 0x80000000 else b ^ 0x7FFFFFFF


@compiled()
def _sort(values, keys, ids, keys2, ids2, counts):
    """Sort by key, then by position; the order ends in keys2 and ids2."""
    n = len(values)
    _keys(values, keys)
    counts[:] = 0
    for i in range(n):
        key = keys[i]
        counts[0, key & (BUCKETS - 1)] += 1
        counts[1, (key >> BITS) & (BUCKETS - 1)] += 1
        counts[2, key >> (2 * BITS)] += 1
    for digit in range(3):
        total = 0
        for bucket in range(BUCKETS):
            here = counts[digit, bucket]
            counts[digit, bucket] = total
            total += here
    for i in range(n):
        bucket = keys[i] & (BUCKETS - 1)
        place = counts[0, bucket]
        counts[0, bucket] += 1
        keys2[place], ids2[place] = keys[i], i
    for i in range(n):
        bucket = (keys2[i] >> BITS) & (BUCKETS - 1)
        place = counts[1, bucket]
        counts[1, bucket] += 1
        keys[place], ids[place] = keys2[i], ids2[i]
    for i in range(n):
        bucket = keys[i] >> (2 * BITS)
        place = counts[2, bucket]
        counts[2, bucket] += 1
        keys2[place], ids2[place] = keys[i], ids[i]


@compiled()
def _buffers(n):
    return (
        np.empty(n, np.uint32),
        np.empty(n, np.uint32),
        np.empty(n, np.uint32),
        np.empty(n, np.uint32),
        np.empty((3, BUCKETS), np.int64),
    )


@compiled(parallel=True)
def rank_images(by_neuron, readable, places, labels, top, bottom, quantile, rank_sums):
    """Fill the images [neuron, rank] of every side, and for each class the sum of its images' ranks [neuron, class].

    readable: how many images are not NaN. places: positions of the quantiles in the order. labels: a class an image or
    -1; ranks count from 1 at the largest among images with a class, equal values share the mean of theirs.
    """
    units, images = by_neuron.shape
    for block in numba.prange((units + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE):
        keys, ids, order, by, counts = _buffers(images)
        for unit in range(block * ROWS_AT_ONCE, min((block + 1) * ROWS_AT_ONCE, units)):
            _sort(by_neuron[unit], keys, ids, order, by, counts)
            for k in range(top.shape[1]):
                top[unit, k] = by[k]
            for k in range(len(places)):
                quantile[unit, k] = by[places[k]]
            _from_the_end(order, by, readable, bottom[unit])
            _sum_ranks(order, by, readable, labels, rank_sums[unit])


@compiled()
def _from_the_end(order, by, readable, out):
    """The smallest first, equal values still by ascending position."""
    k, end = 0, readable
    while k < len(out):
        start = end - 1
        while start > 0 and order[start - 1] == order[end - 1]:
            start -= 1
        for i in range(start, end):
            if k < len(out):
                out[k] = by[i]
                k += 1
        end = start


@compiled()
def _sum_ranks(order, by, readable, labels, sums):
    sums[:] = 0
    ranked, start = 0, 0
    while start < readable:
        end, count = start, 0
        while end < readable and order[end] == order[start]:
            count += labels[by[end]] >= 0
            end += 1
        middle = ranked + (count + 1) / 2
        for i in range(start, end):
            label = labels[by[i]]
            if label >= 0:
                sums[label] += middle
        ranked += count
        start = end


@compiled(parallel=True)
def rank_rows(values, groups, ranks, in_group):
    """Ranks from 1 in each row of values [row, n], and the same among the members of each group [n] (from 0)."""
    rows, n = values.shape
    most = groups.max() + 1
    for block in numba.prange((rows + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE):
        keys, ids, order, by, counts = _buffers(n)
        seen = np.empty(most, np.uint32)
        for row in range(block * ROWS_AT_ONCE, min((block + 1) * ROWS_AT_ONCE, rows)):
            _sort(values[row], keys, ids, order, by, counts)
            seen[:] = 0
            for i in range(n):
                place = by[i]
                ranks[row, place] = i + 1
                seen[groups[place]] += 1
                in_group[row, place] = seen[groups[place]]


@compiled(parallel=True)
def add_rows(values, labels, valid, by_class, total):
    """Add values [image, neuron] to the sums of their classes [class, neuron] (label -1: none) and of all [neuron]."""
    images, units = values.shape
    for tile in numba.prange((units + TILE - 1) // TILE):
        first, last = tile * TILE, min((tile + 1) * TILE, units)
        for i in range(images):
            if valid[i]:
                row = values[i, first:last]
                total[first:last] += row
                if labels[i] >= 0:
                    by_class[labels[i], first:last] += row


@compiled(parallel=True)
def keep_largest(values, first_image, best, ids):
    """Keep each neuron's largest values [image, neuron] so far, descending: best and ids [neuron, k]. NaN is none."""
    images, units = values.shape
    k = best.shape[1]
    for tile in numba.prange((units + TILE - 1) // TILE):
        for i in range(images):
            for u in range(tile * TILE, min((tile + 1) * TILE, units)):
                v = values[i, u]
                if v > best[u, k - 1]:
                    j = k - 1
                    while j > 0 and v > best[u, j - 1]:
                        best[u, j], ids[u, j] = best[u, j - 1], ids[u, j - 1]
                        j -= 1
                    best[u, j], ids[u, j] = v, first_image + i


@compiled(parallel=True)
def transpose(values, out):
    """Values [image, neuron] the other way round: [neuron, image]."""
    images, units = values.shape
    for tile in numba.prange((units + NARROW - 1) // NARROW):
        first, last = tile * NARROW, min((tile + 1) * NARROW, units)
        turned = np.empty((NARROW, images), values.dtype)
        for i in range(images):
            for u in range(first, last):
                turned[u - first, i] = values[i, u]
        for u in range(first, last):
            out[u] = turned[u - first]
