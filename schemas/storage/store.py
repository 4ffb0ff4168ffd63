"""Where the bytes of an index lie. Keys are paths inside it, with '/' between names.

A store is a few verbs; another kind of store (an address, a bucket) is another class with these and its tests inherit
tests/schemas/store_conformance.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Piece = tuple[str, int, int]  # key, first byte, how many


class Store(Protocol):
    """Bytes by key. Every verb raises DamagedIndex, naming the file, where it is missing or cannot be read."""

    def read(self, key: str, start: int, length: int) -> Bytes:
        """`length` bytes of a file from `start` on: uint8 [length], not to be written to."""
        ...

    def ahead(self, pieces: Iterable[Piece]) -> None:
        """What will be read next: where every reading is a journey, all of it is fetched in one."""
        ...

    def size(self, key: str) -> int:
        """The bytes of a file."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Where a file lies on this machine; None where it lies elsewhere."""
        ...

    def close(self) -> None:
        """Let go of what is open; reading opens it again."""
        ...
