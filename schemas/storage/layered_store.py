"""Two stores as one: what the first has is read from it, all else from the second."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .store import Bytes, Piece, Store


class LayeredStore:
    """An index at an address of which some files are still on this machine's disk."""

    def __init__(self, here: Store, there: Store) -> None:
        self.here, self.there = here, there

    def read(self, key: str, start: int, length: int) -> Bytes:
        return self._holder(key).read(key, start, length)

    def ahead(self, pieces: Iterable[Piece]) -> None:
        self.there.ahead(piece for piece in pieces if self._holder(piece[0]) is self.there)

    def size(self, key: str) -> int:
        return self._holder(key).size(key)

    def local_path(self, key: str) -> Path | None:
        return self._holder(key).local_path(key)

    def close(self) -> None:
        self.here.close()
        self.there.close()

    def _holder(self, key: str) -> Store:
        path = self.here.local_path(key)
        return self.here if path is not None and path.exists() else self.there
