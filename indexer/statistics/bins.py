"""The bins in which thresholds are counted: a float scale around a neuron's own 0.99 quantile (threshold_counts.py)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS = 128  # bins an octave; a power of 2: they are the leading bits of a float32
LOWEST = -8  # values below 2**LOWEST in size share the innermost bins
OCTAVES = 18
HALF = OCTAVES * STEPS  # bins of one sign
BINS = 2 * HALF

_MAGNITUDES = np.ldexp(1 + np.arange(HALF) % STEPS / STEPS, np.arange(HALF) // STEPS + LOWEST)
_MAGNITUDES[0] = 0.0
_END = np.ldexp(1.0, OCTAVES + LOWEST)
EDGES: NDArray[np.float64] = np.concatenate([[-_END], -_MAGNITUDES[:0:-1], _MAGNITUDES, [_END]])


def bin_of(values: Tensor) -> Tensor:
    """Bin of each float32 value, int32, ascending with the value."""
    bits = values.view(torch.int32)
    magnitude = ((bits & 0x7FFFFFFF) >> 16).sub_((127 + LOWEST) * STEPS).clamp_(0, HALF - 1)
    return torch.where(bits < 0, HALF - 1 - magnitude, HALF + magnitude)
