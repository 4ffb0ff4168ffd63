"""A store at an address: a bucket of S3, Google or Azure, a web server that answers ranges, a data set of the hub.

Every piece of a file is one request, and a request waits for the distance: what will be read is asked for together
(`ahead`), pieces that lie near each other in one request, files beside each other.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..errors import DamagedIndex
from .elsewhere import CHANGED, Elsewhere
from .patience import Patience
from .store import Bytes, Piece

HELD_BYTES = 256_000_000  # of what was read
AT_ONCE = 16  # requests


class RemoteStore:
    """The files of an index that lie at an address, by the sizes that its manifest names.

    What was read last is held in memory, 256 MB of it.
    """

    def __init__(
        self, address: str, sizes: Mapping[str, int], inside: str = "", patience: Patience | None = None
    ) -> None:
        """inside: the folder, below the address, that the keys begin from. patience: of who rather waits than fails."""
        self.address, self.sizes = address, sizes
        self.inside = f"{inside}/" if inside else ""
        self._elsewhere: Elsewhere | None = None
        self._patience = patience
        self._held: OrderedDict[Piece, Bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, key: str, start: int, length: int) -> Bytes:
        piece = (key, start, length)
        with self._lock:
            if (found := self._held.get(piece)) is not None:
                self._held.move_to_end(piece)
                return found
        return self._fetched(key, [piece])[0]

    def ahead(self, pieces: Iterable[Piece]) -> None:
        """Read what will be asked for, all at once, so that `read` has it."""
        with self._lock:
            missing = sorted({piece for piece in pieces if piece not in self._held})
        by_file: dict[str, list[Piece]] = defaultdict(list)
        for piece in missing:
            by_file[piece[0]].append(piece)
        if len(by_file) < 2:
            for key, own in by_file.items():
                self._fetched(key, own)
            return
        with ThreadPoolExecutor(min(AT_ONCE, len(by_file))) as pool:
            list(pool.map(self._fetched, by_file, by_file.values()))

    def size(self, key: str) -> int:
        if key not in self.sizes:
            raise DamagedIndex(f"{key} is missing or cannot be read", CHANGED)
        return self.sizes[key]

    def local_path(self, key: str) -> Path | None:
        return None

    def close(self) -> None:
        with self._lock:
            self._held.clear()
            self._bytes = 0

    def _fetched(self, key: str, pieces: list[Piece]) -> list[Bytes]:
        """Pieces of one file, read anew and held."""
        for _, start, length in pieces:
            if start + length > self.size(key):
                raise DamagedIndex(f"{key} ends before byte {start + length:,}", CHANGED)
        wanted = [piece for piece in pieces if piece[2]]
        elsewhere = self._elsewhere = self._elsewhere or Elsewhere(self.address)

        def ask() -> list[Bytes]:
            starts, lengths = [start for _, start, _ in wanted], [length for _, _, length in wanted]
            return elsewhere.ranges(self.inside + key, starts, lengths) if wanted else []

        found = dict(zip(wanted, self._patience(ask) if self._patience else ask(), strict=True))
        for piece, content in found.items():
            if len(content) != piece[2]:
                raise DamagedIndex(f"{key} ends before byte {piece[1] + piece[2]:,}", CHANGED)
        self._hold(found)
        return [found.get(piece, np.frombuffer(b"", np.uint8)) for piece in pieces]

    def _hold(self, found: dict[Piece, Bytes]) -> None:
        with self._lock:
            for piece, content in found.items():
                if piece not in self._held:
                    self._held[piece] = content
                    self._bytes += len(content)
            while self._bytes > HELD_BYTES:
                self._bytes -= len(self._held.popitem(last=False)[1])
