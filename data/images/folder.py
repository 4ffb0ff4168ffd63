"""A folder of images, or of class folders, as a source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from .entries import Source, read_file, shown_name, sort_names, why


@dataclass(frozen=True)
class FolderSource(Source):
    """Files below a folder, each opened when it is read."""

    files: tuple[str, ...]  # names that open, where `entries` has names that can be recorded
    root: str

    def read(self, i: int) -> bytes:
        return read_file(f"{self.root}/{self.files[i]}")


def open_folder(path: Path, but: Path | None = None) -> FolderSource:
    """List a folder, links followed, but for one folder in it: that of the index, which grows while it is read."""
    root = str(path.resolve())
    return FolderSource(shown_name(path), *sort_names(_walk(root, but)), root)


def _walk(root: str, but: Path | None) -> Iterator[tuple[str, int | str]]:
    """(name, bytes) of every file below `root`, links followed, or (name, reason) of what is no file."""
    left_out = _identity(but.stat()) if but is not None and but.exists() else None
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while folders:
        prefix, above = folders.pop()
        try:
            status = Path(root, prefix).stat()
            here = _identity(status)
            if here == left_out:
                continue
            if here in above:
                yield prefix[:-1], "a link back to a folder that it lies in"
                continue
            with os.scandir(f"{root}/{prefix}") as items:
                for item in items:
                    kind = _look(item)
                    if kind is None:
                        folders.append((f"{prefix}{item.name}/", above | {here}))
                    else:
                        yield prefix + item.name, kind
        except OSError as error:
            yield prefix[:-1], f"the folder cannot be listed: {why(error)}"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _look(item: os.DirEntry[str]) -> int | str | None:
    """The bytes of a file, None for a folder, or why it is neither. Nothing is opened: a fifo would block."""
    try:
        status = item.stat()
    except OSError as error:
        return f"a dangling link: {why(error)}" if item.is_symlink() else f"cannot be read: {why(error)}"
    if S_ISREG(status.st_mode):
        return status.st_size
    return None if S_ISDIR(status.st_mode) else "neither a file nor a folder"
