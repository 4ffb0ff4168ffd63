"""A store on this machine's disk: files are mapped into memory, small pieces of them copied."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import REPAIR, DamagedIndex
from .plain_files import open_plain, plain_size
from .store import Bytes, Piece

MAPPED_FILES = 1024  # maps and their ends of one layer over 50,000 images are 588
OPEN_FILES = 32  # a mapping needs no open file; a process may have few of these
COPIED_BYTES = 2**18  # an image's pixels: what is mapped counts as this process's memory, with its neighbours


class LocalStore:
    """The files below a folder. What `read` returns of a large piece is a view into the file."""

    def __init__(self, root: Path, remedy: str = REPAIR) -> None:
        self.root, self.remedy = root, remedy  # of damage
        self._mapped = lru_cache(MAPPED_FILES)(self._map)
        self._opened = lru_cache(OPEN_FILES)(self._open)

    def read(self, key: str, start: int, length: int) -> Bytes:
        if length > COPIED_BYTES:
            content = self._mapped(key)[start : start + length]
        else:
            file = self._opened(key)  # held while it is read: another thread may crowd it out
            content = np.frombuffer(os.pread(file.fileno(), length, start), np.uint8)
        if len(content) != length:
            raise DamagedIndex(f"{self.root / key} ends before byte {start + length:,}", self.remedy)
        return content

    def ahead(self, pieces: Iterable[Piece]) -> None:
        """Nothing: the disk is near."""

    def size(self, key: str) -> int:
        try:
            return plain_size(self.root, key)
        except (OSError, ValueError) as error:
            raise self._missing(key, error) from error

    def local_path(self, key: str) -> Path | None:
        return self.root / key

    def close(self) -> None:
        self._mapped.cache_clear()
        self._opened.cache_clear()

    def _map(self, key: str) -> Bytes:
        try:
            with open_plain(self.root, key) as file:
                return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        except (OSError, ValueError) as error:
            raise self._missing(key, error) from error

    def _open(self, key: str) -> io.FileIO:
        try:
            return open_plain(self.root, key)
        except (OSError, ValueError) as error:
            raise self._missing(key, error) from error

    def _missing(self, key: str, error: Exception) -> DamagedIndex:
        plain = isinstance(error, FileNotFoundError | ValueError)
        why = "missing or cannot be read" if plain else getattr(error, "strerror", None) or "not readable"
        return DamagedIndex(f"{self.root / key} is {why}", self.remedy)
