"""Each neuron's own threshold: above it, it is active."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import QueryError
from .index import Index

QUANTILES = ("q99", "q995")


def thresholds(index: Index, layer: str, units: Sequence[int], quantile: str) -> NDArray[np.float32]:
    """The neurons' quantiles over all patches of all images: float32 [unit]. Raises QueryError for another quantile."""
    if quantile not in QUANTILES:
        raise QueryError(f"no threshold '{quantile}'", f"One of {', '.join(QUANTILES)}.")
    found = index.sql(f"SELECT unit, {quantile} AS value FROM neurons WHERE layer = ? ORDER BY unit", [layer])
    every: NDArray[np.float32] = found.value.to_numpy(np.float32)[np.asarray(units, int)]
    return every
