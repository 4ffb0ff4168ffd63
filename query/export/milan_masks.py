"""Masks as MILAN makes them: a neuron's map, upsampled with zeros around it, above the neuron's threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..drawing.upsample import bilinear_weights


def milan_masks(
    values: NDArray[np.float32], thresholds: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Masks [..., y, x] of 0 and 1 from maps [..., rows, columns]: upsampled value > threshold [...], strictly.

    Outside the patches MILAN takes 0; our own pictures repeat the border instead.
    """
    down, across = (bilinear_weights(n, p, "zero") for n, p in zip(values.shape[-2:], size, strict=True))
    upsampled = down @ (values @ across.T)
    mask: NDArray[np.bool_] = upsampled > thresholds[..., None, None]
    return mask.view(np.uint8)
