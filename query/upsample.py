"""Maps of patches brought to the size of the image. Plain NumPy.

smooth(maps, 224, 224)    # bilinear, half-pixel centres, the border repeated
blocky(maps, 224, 224)    # every pixel has its patch's value
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def smooth(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear upsampling of maps [..., rows, columns] to float32 [..., height, width].

    A patch's value stands at the patch's centre; beyond the outermost centres it is repeated, since zero padding
    would invent activation around values that are mostly negative. Equals torch's interpolate(align_corners=False).
    """
    rows, columns = _weights(maps.shape[-2], height), _weights(maps.shape[-1], width)
    out: NDArray[np.float32] = rows @ np.asarray(maps, np.float32) @ columns.T
    return out


def blocky(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Nearest-neighbour upsampling of maps [..., rows, columns] to float32 [..., height, width]."""
    rows, columns = maps.shape[-2:]
    y, x = np.arange(height) * rows // height, np.arange(width) * columns // width
    return np.asarray(maps, np.float32)[..., y[:, None], x]


def _weights(patches: int, pixels: int) -> NDArray[np.float32]:
    """What every patch gives to every pixel along one axis: float32 [pixel, patch], rows that sum to 1."""
    centre = ((np.arange(pixels) + 0.5) * patches / pixels - 0.5).clip(0, patches - 1)
    distance = np.abs(centre[:, None] - np.arange(patches))
    return (1 - distance).clip(0).astype(np.float32)
