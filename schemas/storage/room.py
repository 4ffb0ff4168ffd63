"""Whether a folder can be written and has room: asked before long work, not found out after it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import IO, Any

from ..errors import QueryError
from ..sizes import bytes_text

FULL = (errno.ENOSPC, errno.EDQUOT)  # what the system says of a full disk


def trouble(error: Exception) -> str:
    """What DuckDB says of a file that it could not write, in a line."""
    no_space = os.strerror(errno.ENOSPC)
    return no_space if no_space in str(error) else str(error).strip().splitlines()[0]


def check_room(folder: Path, needed: int = 0, fewer: str = "") -> None:
    """Raise QueryError where a folder, there or to be made, cannot take so many bytes. `fewer`: another remedy."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not place.is_dir():
        raise QueryError(f"{place} is a file", "Name a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise QueryError(f"{place} cannot be written", "Ask for its permissions, or choose another place.")
    free = shutil.disk_usage(place).free
    if free < needed:
        raise QueryError(
            f"{bytes_text(needed)} are needed in {folder} and {bytes_text(free)} are free",
            f"Make space{f', {fewer}' if fewer else ''} or choose another place.",
        )


def take_room(file: IO[Any], size: int) -> None:
    """Take so many bytes for a file that is mapped: a write to a mapping of a full disk ends the process.

    Raises OSError where there is no room.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        os.posix_fallocate(file.fileno(), 0, size)
