"""Where the bytes of an index lie. Keys are paths inside it, with '/' between names.

A store is three verbs; another kind of store (an address, a bucket) is another class with these and its tests inherit
tests/schemas/store_conformance.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class Store(Protocol):
    """Bytes by key. Every verb raises DamagedIndex, naming the file, where it is missing or cannot be read."""

    def read(self, key: str, start: int, length: int) -> Bytes:
        """`length` bytes of a file from `start` on: uint8 [length], not to be written to."""
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
