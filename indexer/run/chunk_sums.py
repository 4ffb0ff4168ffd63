"""Checksums of chunks on a CUDA device: the host's processors need not read again what comes from there.

    sums = sums_on(torch.device("cuda"))
    sums(chunks)                 # uint8 [chunk, bytes + 4]: the last 4 become the crc32c of those before

A crc is linear over bits: from a state, so many bytes of zeros lead to another by a matrix of 32 x 32 bits, and a
chunk's crc is the xor of what each of its words leads to over the bytes after it. So lanes go through a chunk side by
side, each taking every LANES-th word, and what they hold is led to the chunk's end in one last step
(fused_kernels._crc32c).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import crc32c
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...schemas.array_specs import CHECKSUM_BYTES
from ...schemas.errors import VitdexWarning

LANES = 1024
POLYNOMIAL = np.uint32(0x82F63B78)  # Castagnoli's, the highest power in the lowest bit
Bits = NDArray[np.uint32]
Matrix = Bits  # [32]: where each bit of a state leads to


class Tables(NamedTuple):
    """What lanes look up, for chunks of one size: int32, which are bits."""

    step: Tensor  # [4, 256] over LANES words of zeros, from each byte of a state
    ends: Tensor  # [32, LANES] from each bit of a lane's state to the chunk's end
    start: int  # what a chunk of zeros has as its crc


def sums_on(device: torch.device) -> Callable[[Tensor], bool] | None:
    """What fills in the checksums of chunks on a device; None, with a warning, where they do not come out right."""
    try:
        draw = torch.Generator().manual_seed(0)
        chunks = torch.randint(0, 256, (3, 4 * LANES + 20), dtype=torch.uint8, generator=draw).to(device)
        sum_chunks(chunks)
        on_host = [bytes(row) for row in chunks.cpu().numpy()]
        right = all(crc32c.crc32c(row[:-4]).to_bytes(4, "little") == row[-4:] for row in on_host)
        fault = "" if right else "they come out wrong there"
    except Exception as error:  # no Triton, no compiler for its launchers, a device that it does not know, ...
        fault = str(error).strip().split("\n")[0] or type(error).__name__
    if fault:
        warnings.warn(f"checksums are made on the host, which takes longer ({fault})", VitdexWarning, stacklevel=2)
        return None
    return sum_chunks


def sum_chunks(chunks: Tensor) -> bool:
    """Fill in the last 4 bytes of chunks [chunk, bytes + 4]; nothing, and False, where they are no whole words."""
    from .fused_kernels import sum_words  # Triton is there where torch is made for CUDA

    if chunks.shape[1] % 4:
        return False
    words = (chunks.shape[1] - CHECKSUM_BYTES) // 4
    step, ends, start = _tables(words, chunks.device)
    sum_words(chunks.view(torch.int32), step, ends, start)
    return True


@cache
def _tables(words: int, device: torch.device) -> Tables:
    word = _over_bytes(4)
    ends = word[None]  # [word after the last but n, 32]
    while len(ends) < LANES:
        ends = np.concatenate([ends, _led(ends[-1], ends)])
    each_byte = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    tables = _led(ends[LANES - 1], each_byte), np.ascontiguousarray(ends[LANES - 1 :: -1].T)
    step, by_lane = (torch.from_numpy(table.view(np.int32)).to(device) for table in tables)
    ones = np.array([0xFFFFFFFF], np.uint32)  # the state before the first byte; the crc is the last one, turned over
    start = (_led(_over_bytes(4 * words), ones) ^ ones).view(np.int32)
    return Tables(step, by_lane, int(start[0]))


def _led(matrix: Matrix, states: Bits) -> Bits:
    """Where states lead to."""
    out = np.zeros_like(states)
    for bit in range(32):
        out ^= np.where(states >> np.uint32(bit) & np.uint32(1), matrix[bit], np.uint32(0))
    return out


def _over_bytes(count: int) -> Matrix:
    """Over so many bytes of zeros."""
    power = np.uint32(1) << np.arange(32, dtype=np.uint32)
    result = power.copy()
    for _ in range(8):  # over one byte
        power = np.where(power & np.uint32(1), power >> np.uint32(1) ^ POLYNOMIAL, power >> np.uint32(1))
    while count:
        result = _led(power, result) if count & 1 else result
        power, count = _led(power, power), count >> 1
    return result
