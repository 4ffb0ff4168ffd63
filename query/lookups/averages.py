"""Averages of what was measured image by image, where some images may have no value (NaN)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean(values: NDArray[Any]) -> float:
    """The mean without NaN; NaN where nothing is left."""
    left = values[~np.isnan(values)]
    return float(left.mean()) if len(left) else float("nan")


def standard_error(values: NDArray[Any]) -> float:
    """Of a mean without NaN; NaN where fewer than two values are left."""
    left = values[~np.isnan(values)]
    return float(left.std(ddof=1) / len(left) ** 0.5) if len(left) > 1 else float("nan")


def quantile(values: NDArray[Any], q: float) -> float:
    """A quantile without NaN; NaN where nothing is left."""
    left = values[~np.isnan(values)]
    return float(np.quantile(left, q)) if len(left) else float("nan")
