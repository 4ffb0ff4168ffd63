"""What the neurons' statistics leave on the disk while a run goes on, and how it is read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray
from safetensors import numpy as arrays
from safetensors import torch as tensors
from torch import Tensor

from .threshold_counts import Statistics


def pack_state(statistics: Statistics) -> bytes:
    """Counts and what else comes out alike in any order: compressed layer by layer, never twice in memory."""
    zstd = Zstd(level=1, checksum=True)
    packed = {layer: zstd.encode(arrays.save(statistics.state_of(layer))) for layer in statistics.counts}
    return arrays.save({layer: np.frombuffer(content, np.uint8) for layer, content in packed.items()})


def merge_state(statistics: Statistics, content: bytes) -> None:
    """Add a packed state. Raises RuntimeError, ValueError, KeyError or SafetensorError where the content is damaged."""
    packed = arrays.load(content)
    for layer in statistics.counts:
        statistics.merge(layer, arrays.load(Zstd().decode(packed[layer])))


def pack_by_layer(values: Mapping[str, Tensor]) -> bytes:
    """The sums of a part, or where the bins lie: tensors [2, neuron] by layer."""
    return tensors.save({layer: of.cpu() for layer, of in values.items()})


def unpack_by_layer(content: bytes) -> dict[str, Tensor]:
    return tensors.load(content)


def sums_in_order(parts: Iterable[bytes]) -> dict[str, NDArray[np.float64]]:
    """Packed sums of parts, added in their order: float64 [2, neuron] by layer."""
    total: dict[str, NDArray[np.float64]] = {}
    for content in parts:
        for layer, sums in unpack_by_layer(content).items():
            if layer not in total:
                total[layer] = np.zeros(tuple(sums.shape))
            total[layer] += sums.double().numpy()
    return total
