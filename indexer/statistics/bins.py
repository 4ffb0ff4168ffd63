"""The bins in which thresholds are counted: a float scale around a neuron's own 0.99 quantile (threshold_counts.py).

Finest near the centre, 128 steps an octave up to 2**6 spreads, and coarser, 16 steps, up to 2**38: they hold whatever
comes, so that counts of any images add up to those of all, in any order.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LOWEST, NEAR, FAR = -8, 6, 38  # octaves: values below 2**LOWEST in size share the innermost bins
STEPS, FAR_STEPS = 128, 16  # bins an octave, below 2**NEAR and beyond it: the leading bits of a float32
SHIFT, FAR_SHIFT = 16, 19  # by which these bits are reached
NEAR_BINS, FAR_BINS = (NEAR - LOWEST) * STEPS, (FAR - NEAR) * FAR_STEPS
ZERO, FAR_ZERO = (127 + LOWEST) * STEPS, (127 + NEAR) * FAR_STEPS - 1  # what these bits say where the bins begin
HALF = NEAR_BINS + FAR_BINS  # bins of one sign
BINS = 2 * HALF

SORTED_VALUES = 512  # of a neuron, at least: enough for its spread
TENTHS_APART = 2.563  # standard deviations between the 0.1 and the 0.9 quantile of a normal distribution


def _steps(count: int, first: int, steps: int) -> NDArray[np.float64]:
    """Where bins begin of which so many lie in an octave, from 2**first on."""
    return np.ldexp(1 + np.arange(count) % steps / steps, np.arange(count) // steps + first)


_MAGNITUDES = np.concatenate([_steps(NEAR_BINS, LOWEST, STEPS), _steps(FAR_BINS, NEAR, FAR_STEPS)])
_MAGNITUDES[0] = 0.0
EDGES: NDArray[np.float64] = np.concatenate([[-(2.0**FAR)], -_MAGNITUDES[:0:-1], _MAGNITUDES, [2.0**FAR]])


def bin_of(values: Tensor) -> Tensor:
    """Bin of each float32 value, int32, ascending with the value."""
    bits = values.view(torch.int32)
    size = bits & 0x7FFFFFFF
    magnitude = (size >> SHIFT).sub_(ZERO).clamp_(0, NEAR_BINS - 1)
    magnitude += (size >> FAR_SHIFT).sub_(FAR_ZERO).clamp_(0, FAR_BINS)
    return torch.where(bits < 0, HALF - 1 - magnitude, HALF + magnitude)


def counted(values: Tensor) -> Tensor:
    """How many values [neuron, value], in spreads from their neuron's centre, lie in each bin: int32 [neuron, bin]."""
    units = values.shape[0]
    offsets = torch.arange(units, device=values.device, dtype=torch.int32)[:, None] * BINS
    flat = torch.bincount((bin_of(values) + offsets).view(-1), minlength=units * BINS)
    return flat.view(units, BINS).int()


def where_bins_lie(values: Tensor) -> Tensor:
    """Centre and unit of the bins from some of every neuron's values [neuron, value]: float32 [2, neuron].

    The 0.99 quantile, as one of the values, and the spread of the middle eight tenths (as many standard deviations, if
    they are normal): an outlier moves neither. Where so many are far out that the quantile is, the median.
    """
    few = values[:, :: max(1, values.shape[1] // SORTED_VALUES)].sort(1).values
    low, middle, high = (few[:, round(share * (few.shape[1] - 1))] for share in (0.1, 0.5, 0.9))
    alike = (middle.abs() * 2.0**-6).clamp(min=2.0**-20)  # nothing is known of the spread: of the size of the values
    spread = torch.where(high > low, (high - low) / TENTHS_APART, alike)
    top = values.topk(ceil(0.01 * values.shape[1]), 1).values[:, -1]
    near = (top - middle).abs() < spread * 2.0**NEAR
    return torch.stack([torch.where(near, top, middle), spread])
