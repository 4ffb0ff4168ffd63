"""Drawings in which nothing is to be found, for what the best of many gives by chance.

The largest of DRAWINGS is passed by chance once in 20. A head whose rows have their coordinates shuffled, in all rows
alike, has nothing to do with the value vectors, while lengths, and what is alike among rows and among vectors, stay.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

DRAWINGS = 19


def drawn_heads(head: NDArray[np.float32], seed: int) -> Iterator[NDArray[np.float32]]:
    """The head [class, d] with its coordinates shuffled, DRAWINGS times."""
    random = np.random.default_rng(seed)
    for _ in range(DRAWINGS):
        yield head[:, random.permutation(head.shape[1])]


def drawn_rings(count: int, random: np.random.Generator) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Things in a ring, in a drawn order, DRAWINGS times: places, and for each that of the next one, never its own."""
    for _ in range(DRAWINGS):
        order = random.permutation(count)
        yield order, np.roll(order, 1)
