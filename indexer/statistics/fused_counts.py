"""Counting values into bins on a CUDA device, in Triton: no value is moved, nothing waits for the host.

What it computes is said in torch in threshold_counts.py; tests compare, on the CPU through Triton's interpreter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import bins

NEURONS = 128  # of a tile
_BINS, _HALF = tl.constexpr(bins.BINS), tl.constexpr(bins.HALF)
_SHIFT, _ZERO, _NEAR_LAST = tl.constexpr(bins.SHIFT), tl.constexpr(bins.ZERO), tl.constexpr(bins.NEAR_BINS - 1)
_FAR_SHIFT, _FAR_ZERO, _FAR_BINS = (tl.constexpr(n) for n in (bins.FAR_SHIFT, bins.FAR_ZERO, bins.FAR_BINS))


@triton.jit
def _bin_of(value):
    bits = value.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    magnitude = tl.minimum(tl.maximum((size >> _SHIFT) - _ZERO, 0), _NEAR_LAST)
    magnitude += tl.minimum(tl.maximum((size >> _FAR_SHIFT) - _FAR_ZERO, 0), _FAR_BINS)
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


@torch.library.custom_op("vitdex::count", mutates_args=("counts", "total", "square", "positive"))
def count(
    x: Tensor,
    prefix: int,
    picked: Tensor,
    centre: Tensor,
    spread: Tensor,
    counts: Tensor,
    total: Tensor,
    square: Tensor,
    positive: Tensor,
) -> None:
    """Add the picked patches [image, k] of x [image, token, neuron] to the bins.

    Sums of each image go to total, square and positive [image, neuron]: added in the order in which the device
    finishes, they would come out otherwise each time.
    """
    images, tokens, units = x.shape
    k = picked.shape[1]
    _count[images, triton.cdiv(units, NEURONS)](
        x, picked, centre, spread, counts, total, square, positive, tokens, units, prefix, k,
        NEURONS=NEURONS, enable_fp_fusion=False,
    )  # fmt: skip


@count.register_fake
def _(*_: object) -> None: ...
