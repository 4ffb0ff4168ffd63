"""Masks as MILAN makes them: a neuron's map, upsampled with zeros around it, above the neuron's threshold."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=8)
def zero_padded_bilinear(patches: int, pixels: int) -> NDArray[np.float32]:
    """Weights [pixel, patch] of bilinear upsampling along one axis, half-pixel centres, zero outside the patches.

    The same as padding by one zero patch on each side, interpolating with align_corners=False and cropping the pad off.
    Our own pictures repeat the border instead: zero invents activation where values are negative.
    """
    centre = (np.arange(pixels) + 0.5) * patches / pixels - 0.5
    weight: NDArray[np.float64] = np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(patches)))
    return weight.astype(np.float32)


def milan_masks(
    values: NDArray[np.float32], thresholds: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Masks [..., y, x] of 0 and 1 from maps [..., rows, columns]: upsampled value > threshold [...], strictly."""
    down, across = (zero_padded_bilinear(n, p) for n, p in zip(values.shape[-2:], size, strict=True))
    upsampled = down @ (values @ across.T)
    mask: NDArray[np.bool_] = upsampled > thresholds[..., None, None]
    return mask.view(np.uint8)
