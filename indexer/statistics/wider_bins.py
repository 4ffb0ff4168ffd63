"""Where a neuron's bins lie and how wide they are; those that turn out too narrow become wider by whole octaves.

Then old bins fall into new ones exactly.

The bins of bins.py end 2**10 spreads from a neuron's centre. Values beyond share the outermost ones, which does no harm
while they are fewer than any threshold counts.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from .bins import BINS, HALF, LOWEST, OCTAVES, STEPS, bin_of

ALLOWED_BEYOND = 5e-4  # share of the values in the outermost bins: half of what lies above the highest threshold
SORTED_VALUES = 512  # of a neuron, at least: enough for its spread
TENTHS_APART = 2.563  # standard deviations between the 0.1 and the 0.9 quantile of a normal distribution


def where_bins_lie(values: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and unit of the bins from some of every neuron's values [neuron, value]: each float32 [neuron].

    The 0.99 quantile, as one of the values, and the spread of the middle eight tenths (as many standard deviations, if
    they are normal): an outlier moves neither. Where so many are far out that the quantile is, the median.
    """
    few = values[:, :: max(1, values.shape[1] // SORTED_VALUES)].sort(1).values
    low, middle, high = (few[:, round(share * (few.shape[1] - 1))] for share in (0.1, 0.5, 0.9))
    alike = (middle.abs() * 2.0**-20).clamp(min=2.0**-60)  # no spread is known yet: bins only ever grow
    spread = torch.where(high > low, (high - low) / TENTHS_APART, alike)
    top = values.topk(ceil(0.01 * values.shape[1]), 1).values[:, -1]
    near = (top - middle).abs() < spread * 2.0 ** (OCTAVES + LOWEST)
    return torch.where(near, top, middle), spread


def counted(values: Tensor) -> Tensor:
    """How many values [neuron, value], in spreads from their neuron's centre, lie in each bin: int32 [neuron, bin]."""
    units = values.shape[0]
    offsets = torch.arange(units, device=values.device, dtype=torch.int32)[:, None] * BINS
    flat = torch.bincount((bin_of(values) + offsets).view(-1), minlength=units * BINS)
    return flat.view(units, BINS).int()


def overflowing(counts: Tensor) -> Tensor:
    """The neurons of which too many values lie in the outermost bins: int64 [neuron]."""
    beyond = counts[:, 0] + counts[:, -1]
    return (beyond > ALLOWED_BEYOND * counts[0].sum()).nonzero()[:, 0]


def needed_octaves(values: Tensor) -> Tensor:
    """By how many octaves the bins must grow for values [neuron, value]: int32 [neuron]; 0 where they need not.

    All but a few values shall fit: one that lies far from all others would make the bins too wide for these.
    """
    size = values.shape[1]
    few = min(size, ceil(ALLOWED_BEYOND * size) + 1)
    reach = values.abs().topk(few, 1).values[:, -1]
    reach = torch.where(torch.isfinite(reach), reach, 0.0)
    octaves = reach.clamp(min=1e-30).log2().ceil().int() + 1 - (OCTAVES + LOWEST)
    return torch.where(reach >= 2.0 ** (OCTAVES + LOWEST), octaves, 0)


def widen(counts: Tensor, octaves: Tensor) -> Tensor:
    """Counts [neuron, bin] in bins that are wider by so many octaves [neuron]."""
    out = torch.zeros_like(counts)
    for octave in sorted(set(octaves.tolist())):
        rows, shift = octaves == octave, min(octave * STEPS, HALF - 1)
        for old, new in ((counts[rows][:, HALF:], slice(HALF, None)), (counts[rows][:, :HALF].flip(1), slice(0, HALF))):
            moved = torch.zeros_like(old)
            moved[:, 0] = old[:, : shift + 1].sum(1)
            moved[:, 1 : HALF - shift] = old[:, shift + 1 :]
            out[rows, new] = moved if new.start else moved.flip(1)
    return out
