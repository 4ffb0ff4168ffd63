"""The statistics so far as a file's content, and back: what a run that was killed goes on from."""

from __future__ import annotations

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray
from safetensors.numpy import load, save

from .threshold_counts import Statistics


def pack_state(statistics: Statistics) -> bytes:
    """Compressed layer by layer, so that the counts never lie in memory twice."""
    zstd = Zstd(level=1, checksum=True)
    packed = {layer: zstd.encode(save(statistics.state_of(layer))) for layer in statistics.counts}
    return save({layer: np.frombuffer(content, np.uint8) for layer, content in packed.items()})


def unpack_state(content: bytes) -> dict[str, NDArray[np.generic]]:
    """Arrays for Statistics.load. Raises RuntimeError, ValueError or SafetensorError where the content is damaged."""
    packed = load(content)
    return {f"{layer}/{leaf}": a for layer in packed for leaf, a in load(Zstd().decode(packed[layer])).items()}
