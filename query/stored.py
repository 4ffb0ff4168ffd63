"""One stored map of one neuron, in microseconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..schemas.chunks import Chunks
from ..schemas.codes import decode_map
from ..schemas.records import EXEMPLARS, RunSpec


def stored_map(chunks: Chunks, spec: RunSpec, layer: str, unit: int, image_id: int) -> NDArray[np.float32] | None:
    """Pre-GELU values float32 [patch] of a neuron and image that exist; None where their map is not stored.

    From bytes the error is at most (max - min) / 510. NaN where the image was unreadable. Raises DamagedIndex.
    """
    if spec.maps == "none":
        return None
    if spec.maps == "float16":
        return chunks.cell(f"{layer}/map", image_id, unit).astype(np.float32)
    if spec.maps == "uint8":
        codes = chunks.cell(f"{layer}/map", image_id, unit)
    else:
        rank = _rank(chunks, layer, unit, image_id)
        if rank > min(EXEMPLARS, spec.images):
            return None
        codes = chunks.cell(f"{layer}/exemplar_map", unit, rank - 1)
    low, high = (np.asarray(chunks.cell(f"{layer}/{leaf}", image_id, unit), np.float32) for leaf in ("min", "max"))
    return decode_map(codes.astype(np.uint8, copy=False), low, high)


def _rank(chunks: Chunks, layer: str, unit: int, image_id: int) -> int:
    """An image's rank among a neuron's exemplars, from 1; ties go to the lower image, unreadable ones come last."""
    maxima = chunks.cell(f"{layer}/max_by_neuron", unit)
    own = maxima[image_id]
    if np.isnan(own):
        return len(maxima)
    return 1 + int((maxima > own).sum() + (maxima[:image_id] == own).sum())
