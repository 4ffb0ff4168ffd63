"""Counting values into bins on a CUDA device, in Triton: no value is moved, nothing waits for the host.

What the two compute is said in torch in threshold_counts.py and wider_bins.py; tests compare, on the CPU through
Triton's interpreter.
"""

from __future__ import annotations

from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bins import BINS, HALF, LOWEST, OCTAVES, STEPS
from .wider_bins import ALLOWED_BEYOND

NEURONS, VALUES = 128, 1024  # of a tile
_BINS, _HALF, _STEPS = tl.constexpr(BINS), tl.constexpr(HALF), tl.constexpr(STEPS)
_ZERO_BIN = tl.constexpr((127 + LOWEST) * STEPS)
_REACH = tl.constexpr(OCTAVES + LOWEST)  # the bins end at 2**_REACH spreads
_ROW = tl.constexpr(triton.next_power_of_2(HALF))
_INFINITE = tl.constexpr(0x7F800000)


@triton.jit
def _bin_of(value):
    bits = value.to(tl.int32, bitcast=True)
    magnitude = tl.minimum(tl.maximum(((bits & 0x7FFFFFFF) >> 16) - _ZERO_BIN, 0), _HALF - 1)
    return tl.where(bits < 0, _HALF - 1 - magnitude, _HALF + magnitude)


@triton.jit
def _count(
    x, picked, centre, spread, counts, total, square, positive, tokens, units, prefix, k, NEURONS: tl.constexpr
):  # fmt: skip
    """One image, one tile of neurons: its picked patches into the bins, its sums to their own place."""
    image = tl.program_id(0).to(tl.int64)
    u = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)
    inside = u < units
    middle, unit = tl.load(centre + u, inside, 0.0), tl.load(spread + u, inside, 1.0)
    sums, squares = tl.zeros([NEURONS], tl.float32), tl.zeros([NEURONS], tl.float32)
    above = tl.zeros([NEURONS], tl.int32)
    for j in range(k):
        p = tl.load(picked + image * k + j)
        v = tl.load(x + (image * tokens + prefix + p) * units + u, inside, 0.0).to(tl.float32)
        bin = _bin_of(tl.div_rn(v - middle, unit))
        tl.atomic_add(counts + u.to(tl.int64) * _BINS + bin, 1, inside, sem="relaxed")
        sums += v
        squares += v * v
        above += (v > 0).to(tl.int32)
    tl.store(total + image * units + u, sums, inside)
    tl.store(square + image * units + u, squares, inside)
    tl.store(positive + image * units + u, above, inside)


@triton.jit
def _value(x, picked, n, there, u, tokens, units, prefix, k):
    """Of the batch's counted values of neuron u the n-th ones."""
    image = n // k
    p = tl.load(picked + image * k + n % k, there, 0)
    return tl.load(x + (image.to(tl.int64) * tokens + prefix + p) * units + u, there, 0.0).to(tl.float32)


@triton.jit
def _widen(
    x, picked, centre, spread, counts, tokens, units, prefix, k, values, few, beyond, VALUES: tl.constexpr
):  # fmt: skip
    """One neuron: where too many of its values lie in the outermost bins, wider ones (wider_bins.py)."""
    u = tl.program_id(0)
    mine = counts + u.to(tl.int64) * _BINS
    if tl.load(mine, volatile=True) + tl.load(mine + _BINS - 1, volatile=True) <= beyond:
        return
    middle, unit = tl.load(centre + u), tl.load(spread + u)
    # the few-th largest size, by bisection over the bits of what is not negative: they ascend with the value
    least, most = tl.full([], 0, tl.int32), tl.full([], _INFINITE, tl.int32)
    while least < most:
        guess = least + (most - least + 1) // 2
        found = 0
        for start in range(0, values, VALUES):
            n = start + tl.arange(0, VALUES)
            v = _value(x, picked, n, n < values, u, tokens, units, prefix, k)
            bits = tl.div_rn(v - middle, unit).to(tl.int32, bitcast=True) & 0x7FFFFFFF
            found += tl.sum(((bits >= guess) & (n < values)).to(tl.int32), 0)
        if found >= few:
            least = guess
        else:
            most = guess - 1
    exponent = (least >> 23) - 127
    octaves = tl.where((least & 0x7FFFFF) > 0, exponent + 1, exponent) + 1 - _REACH
    if (least < _INFINITE) & (least >= (127 + _REACH) << 23):
        factor = ((127 + octaves) << 23).to(tl.float32, bitcast=True)
        for start in range(0, values, VALUES):
            n = start + tl.arange(0, VALUES)
            v = _value(x, picked, n, n < values, u, tokens, units, prefix, k)
            tl.atomic_add(mine + _bin_of(tl.div_rn(v - middle, unit)), -1, n < values)
        tl.debug_barrier()
        m = tl.arange(0, _ROW)
        shift = tl.minimum(octaves * _STEPS, _HALF - 1)
        moved = (m > 0) & (m + shift < _HALF)
        up = tl.load(mine + _HALF + m + shift, moved, 0, volatile=True)
        down = tl.load(mine + _HALF - 1 - m - shift, moved, 0, volatile=True)
        inner = m <= shift
        up_inner = tl.sum(tl.load(mine + _HALF + m, inner, 0, volatile=True), 0)
        down_inner = tl.sum(tl.load(mine + _HALF - 1 - m, inner, 0, volatile=True), 0)
        tl.debug_barrier()
        tl.store(mine + _HALF + m, tl.where(m == 0, up_inner, up), m < _HALF)
        tl.store(mine + _HALF - 1 - m, tl.where(m == 0, down_inner, down), m < _HALF)
        tl.debug_barrier()
        for start in range(0, values, VALUES):
            n = start + tl.arange(0, VALUES)
            v = _value(x, picked, n, n < values, u, tokens, units, prefix, k)
            tl.atomic_add(mine + _bin_of(tl.div_rn(tl.div_rn(v - middle, unit), factor)), 1, n < values)
        tl.store(spread + u, unit * factor)


@torch.library.custom_op("vitdex::count", mutates_args=("spread", "counts", "total", "square", "positive"))
def count(
    x: Tensor,
    prefix: int,
    picked: Tensor,
    centre: Tensor,
    spread: Tensor,
    counts: Tensor,
    counted: int,
    total: Tensor,
    square: Tensor,
    positive: Tensor,
) -> None:
    """Add the picked patches [image, k] of x [image, token, neuron] to the bins, and widen those that need it.

    `counted`: how many values each neuron has with these. Sums of each image go to total, square and positive [image,
    neuron]: added in the order in which the device finishes, they would come out otherwise each time.
    """
    images, tokens, units = x.shape
    k = picked.shape[1]
    _count[images, triton.cdiv(units, NEURONS)](
        x, picked, centre, spread, counts, total, square, positive, tokens, units, prefix, k,
        NEURONS=NEURONS, enable_fp_fusion=False,
    )  # fmt: skip
    values = images * k
    few = min(values, ceil(ALLOWED_BEYOND * values) + 1)
    _widen[(units,)](
        x, picked, centre, spread, counts, tokens, units, prefix, k, values, few, int(ALLOWED_BEYOND * counted),
        VALUES=VALUES, enable_fp_fusion=False,
    )  # fmt: skip


@count.register_fake
def _(*_: object) -> None: ...
