"""How a map is stored in a byte, and how images are ranked. The indexer encodes, the queries decode."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CODES = 255  # code 0 is a map's own minimum, code 255 its maximum


def decode_map(codes: NDArray[np.uint8], low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values of maps [..., patch] from their codes and each map's own minimum and maximum [...].

    The error is at most (high - low) / 510. Where low is NaN (an unreadable image) so is the map.
    """
    low, high = np.asarray(low, np.float32)[..., None], np.asarray(high, np.float32)[..., None]
    share = codes.astype(np.float32) / np.float32(CODES)
    value: NDArray[np.float32] = low * (1 - share) + high * share  # exact at both ends
    return value
