"""Colours of figures and the colour scale of heatmaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#DDCC77", "#117733", "#882255")
GREY = "#999999"


@dataclass(frozen=True)
class Scale:
    """A colour scale centred on zero: blue runs from 0 to `low`, red from 0 to `high`, each linearly; a side may be 0.

    Where zero lies beyond both ends, the end next to it is the centre. Values beyond an end have its colour.
    """

    low: float
    high: float

    @property
    def centre(self) -> float:
        """The value without colour: zero, or the end next to it."""
        return min(max(0.0, self.low), self.high)

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values as positions on the scale: -1 at `low`, 0 at the centre, 1 at `high`."""
        # an end next to zero has no colour, and neither has what rounding leaves beyond it
        off = values.clip(self.low, self.high) - np.float32(self.centre) if self.centre else values
        below, above = min(self.low - self.centre, -1e-30), max(self.high - self.centre, 1e-30)
        return np.where(off > 0, off / above, -off / below).clip(-1, 1).astype(np.float32)


def symmetric(largest: float) -> Scale:
    """A scale from -largest to largest."""
    return Scale(-largest, largest)
