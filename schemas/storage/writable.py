"""Where an index that is being made is written to. Keys are paths inside it, with '/' between names.

A file appears whole or not at all. Several processes, on several machines, may write to one: what must have one
author is created, not written.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from ..facts import FileFacts
from .atomic_files import write_file, write_voucher
from .room import FULL


class Writable(Protocol):
    """Files by key: this machine's folder, or one elsewhere. `at_once`: how many are best written together."""

    at_once: int

    def write(self, key: str, content: bytes | memoryview) -> FileFacts:
        """Write a file, in place of what is there."""
        ...

    def vouch(self, key: str, content: bytes) -> FileFacts:
        """Write a file that vouches for others, whose names last by then."""
        ...

    def create(self, key: str, content: bytes) -> bool:
        """Write a file where there is none; whether it was this call that did."""
        ...

    def content(self, key: str) -> bytes | None:
        """A whole file; None where there is none."""
        ...

    def names(self, folder: str) -> set[str]:
        """The names of the files that lie in a folder; of none where it is missing."""
        ...

    def remove(self, key: str) -> None:
        """Remove a file, if it is there."""
        ...

    def clear(self, folder: str) -> None:
        """Remove all files of a folder, with those of folders below; '' for everything."""
        ...

    def adopt(self, key: str, made: Path) -> None:
        """Have a file that was made on this machine; nothing, where it was made in its place."""
        ...

    def bring(self, key: str, place: Path) -> None:
        """Have a file on this machine too, if there is one; nothing, where it lies there."""
        ...

    def shown(self, key: str) -> str:
        """A file's name as users may see it."""
        ...


class LocalFolder:
    """A folder of this machine, or one that it shares with others."""

    at_once = min(16, max(4, os.cpu_count() or 4))

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, key: str, content: bytes | memoryview) -> FileFacts:
        return write_file(self.root / key, content)

    def vouch(self, key: str, content: bytes) -> FileFacts:
        return write_voucher(self.root / key, content)

    def create(self, key: str, content: bytes) -> bool:
        target = self.root / key
        whole = target.with_name(f".{target.name}.{uuid4().hex[:8]}.partial")
        write_file(whole, content)
        try:
            os.link(whole, target)  # a rename would replace what another has written in the meantime
        except FileExistsError:
            return False
        except OSError as error:  # a file system without hard links, where it may be seen before it is whole
            if error.errno in FULL:
                raise
            return _created(target, content)
        finally:
            whole.unlink(missing_ok=True)
        return True

    def content(self, key: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self.root / key).read_bytes()
        return None

    def names(self, folder: str) -> set[str]:
        with suppress(FileNotFoundError), os.scandir(self.root / folder) as entries:
            return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
        return set()

    def remove(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def clear(self, folder: str) -> None:
        place = self.root / folder
        if place.is_symlink():  # of a stranger's: what it leads to is not ours
            place.unlink()
        elif place.is_dir():
            shutil.rmtree(place)

    def adopt(self, key: str, made: Path) -> None:
        assert made == self.root / key, "a local index is made in its place"

    def bring(self, key: str, place: Path) -> None:
        assert place == self.root / key, "a local index lies in its place"

    def shown(self, key: str) -> str:
        return str(self.root / key)


def _created(target: Path, content: bytes) -> bool:
    """Write a file where there is none, in place; whether there was none."""
    try:
        with target.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True
