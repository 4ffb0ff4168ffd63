"""Files of arrays on disk: a Zarr v3 chunk (values + crc32c), or a shard (such chunks, then their places)."""

from __future__ import annotations

from typing import Any

import crc32c
import numpy as np
from numpy.typing import NDArray

from ..array_specs import ArraySpec
from .atomic_files import page_aligned


def chunk_values(raw: NDArray[np.uint8], spec: ArraySpec) -> NDArray[Any]:
    """The values of a file's chunks, checksums left out: [chunk, *chunk shape]."""
    dtype = np.dtype(spec.dtype)
    inner = np.cumprod([dtype.itemsize, *spec.chunks[:0:-1]])[::-1]
    return np.ndarray((spec.chunks_per_file, *spec.chunks), dtype, raw.data, strides=(spec.chunk_bytes, *inner))


def seal(raw: NDArray[np.uint8], spec: ArraySpec, summed: bool = False) -> memoryview:
    """Fill in every chunk's crc32c and, for a shard, the index of offsets and lengths with its own crc32c.

    summed: the chunks have theirs.
    """
    size, count = spec.chunk_bytes, spec.chunks_per_file
    for start in range(0, 0 if summed else count * size, size):
        _sum(raw.data, start, start + size - 4)
    if spec.shards:
        index = np.empty((count, 2), "<u8")
        index[:, 0], index[:, 1] = np.arange(count) * size, size
        raw[count * size : -4] = index.reshape(-1).view(np.uint8)
        _sum(raw.data, count * size, len(raw) - 4)
    return raw.data


def _sum(raw: memoryview, start: int, end: int) -> None:
    """Write the crc32c of some bytes behind them."""
    raw[end : end + 4] = crc32c.crc32c(raw[start:end]).to_bytes(4, "little")


def encode_file(values: NDArray[Any], spec: ArraySpec) -> memoryview:
    """One file's bytes from its values [file shape]: for arrays that are written whole."""
    raw = page_aligned(spec.file_bytes)
    pairs = [(whole // chunk, chunk) for whole, chunk in zip(spec.file_shape, spec.chunks, strict=True)]
    by_axis = values.reshape([size for pair in pairs for size in pair])  # [chunks, chunk, chunks, chunk, ...]
    ordered = by_axis.transpose([*range(0, 2 * len(pairs), 2), *range(1, 2 * len(pairs), 2)])
    chunk_values(raw, spec)[...] = ordered.reshape(spec.chunks_per_file, *spec.chunks)
    return seal(raw, spec)
