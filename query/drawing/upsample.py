"""Maps of patches brought to the size of the image. Plain NumPy.

smooth(maps, 224, 224)    # bilinear, half-pixel centres, the border repeated
blocky(maps, 224, 224)    # every pixel has its patch's value
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray


def smooth(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear upsampling of maps [..., rows, columns] to float32 [..., height, width].

    A patch's value stands at the patch's centre; beyond the outermost centres it is repeated, since zero padding
    would invent activation around values that are mostly negative. Equals torch's interpolate(align_corners=False).
    """
    rows, columns = (bilinear_weights(n, size) for n, size in zip(maps.shape[-2:], (height, width), strict=True))
    out: NDArray[np.float32] = rows @ np.asarray(maps, np.float32) @ columns.T
    return out


def blocky(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Nearest-neighbour upsampling of maps [..., rows, columns] to float32 [..., height, width]."""
    rows, columns = maps.shape[-2:]
    y, x = np.arange(height) * rows // height, np.arange(width) * columns // width
    return np.asarray(maps, np.float32)[..., y[:, None], x]


@lru_cache(maxsize=16)
def bilinear_weights(patches: int, pixels: int, border: Literal["repeat", "zero"] = "repeat") -> NDArray[np.float32]:
    """What every patch gives to every pixel along one axis, half-pixel centres: float32 [pixel, patch].

    Beyond the outermost centres the border is repeated (rows sum to 1), or there is nothing ("zero", as where one zero
    patch is padded on each side before torch's interpolate and cut off after it).
    """
    centre = (np.arange(pixels) + 0.5) * patches / pixels - 0.5
    if border == "repeat":
        centre = centre.clip(0, patches - 1)
    distance = np.abs(centre[:, None] - np.arange(patches))
    return (1 - distance).clip(0).astype(np.float32)
