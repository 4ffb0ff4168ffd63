"""Where an index is published to: a folder of this machine, a bucket. Keys are paths inside it, with '/' between names.

A file appears whole or not at all, and not where the pieces that it is made of end in an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import xxhash

from ...schemas.addressed import shown_address
from ...schemas.errors import DamagedIndex
from ...schemas.facts import FileFacts
from ...schemas.manifest import LARGEST
from ...schemas.storage.plain_files import open_plain, read_plain, replacing
from ...schemas.storage.remote_folder import RemoteFolder

BLOCK = 4_000_000  # bytes that are read, compared and sent at once


@dataclass(frozen=True)
class Outgoing:
    """A file to be sent: one of a folder of this machine, or its content."""

    key: str
    facts: FileFacts
    place: Path | bytes | memoryview  # the folder that it lies in by this key, or the content

    def pieces(self, advance: Callable[[int], object] = lambda count: None) -> Iterator[bytes]:
        """What is sent; `advance` is told the bytes. Raises DamagedIndex at the end where it has another checksum."""
        if not isinstance(self.place, Path):
            for start in range(0, len(self.place), BLOCK):
                yield bytes(self.place[start : start + BLOCK])
            advance(len(self.place))
            return
        digest, size = xxhash.xxh3_128(), 0
        try:
            with open_plain(self.place, self.key) as file:
                while block := file.read(BLOCK):
                    digest.update(block)
                    size += len(block)
                    yield block
                    advance(len(block))
        except FileNotFoundError as error:
            raise DamagedIndex(f"{self.place / self.key} is missing") from error
        except OSError as error:
            raise DamagedIndex(f"{self.place / self.key} cannot be read: {error.strerror}") from error
        if FileFacts(size, digest.hexdigest()) != self.facts:
            raise DamagedIndex(f"{self.place / self.key} is not what the manifest says")


class Destination(Protocol):
    """Files by key, to be written and read back."""

    name: str  # as anybody may see it: no password, and of this machine's folders the name alone
    at_once: int  # files that are sent, or read, beside each other

    def shown(self, key: str) -> str:
        """A file's name as its user may see it."""
        ...

    def sizes(self) -> dict[str, int]:
        """The bytes of every file that is there."""
        ...

    def content(self, key: str) -> bytes | None:
        """A small file; None where there is none."""
        ...

    def put(self, file: Outgoing, advance: Callable[[int], object]) -> None:
        """Write a file, in place of what is there; `advance` is told the bytes."""
        ...

    def settle(self) -> None:
        """What was put is there afterwards, if it was not before."""
        ...

    def pieces(self, key: str) -> Iterator[bytes]:
        """A file as it is there. Raises DamagedIndex where it is missing."""
        ...

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files."""
        ...


class Folder:
    """A folder of this machine."""

    at_once = 4

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, root.absolute().name

    def shown(self, key: str) -> str:
        return str(self.root / key)

    def sizes(self) -> dict[str, int]:
        there = (path for path in self.root.rglob("*") if path.is_symlink() or not path.is_dir())
        return {path.relative_to(self.root).as_posix(): path.lstat().st_size for path in there}

    def content(self, key: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return read_plain(self.root, key, LARGEST)
        return None

    def put(self, file: Outgoing, advance: Callable[[int], object]) -> None:
        target = self.root / file.key
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary, temporary.open("r+b") as copy:
            for piece in file.pieces(advance):
                copy.write(piece)
            copy.flush()
            os.fsync(copy.fileno())

    def settle(self) -> None: ...

    def pieces(self, key: str) -> Iterator[bytes]:
        try:
            with open_plain(self.root, key) as file:
                while block := file.read(BLOCK):
                    yield block
        except OSError as error:
            raise DamagedIndex(f"{self.root / key} cannot be read: {error.strerror}") from error

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self.root / key
            path.unlink(missing_ok=True)
            with suppress(OSError):  # the first that holds something more
                while path.parent != self.root:
                    path = path.parent
                    path.rmdir()


class Bucket:
    """A folder of a bucket of S3, Google or Azure."""

    at_once = 8

    def __init__(self, address: str) -> None:
        """Raises BadIndex where files at an address can only be read."""
        self.files = RemoteFolder(address)
        self.there = self.files.there
        self.name = shown_address(address)

    def shown(self, key: str) -> str:
        return self.there.shown(key)

    def sizes(self) -> dict[str, int]:
        return self.there.sizes("", deep=True)

    def content(self, key: str) -> bytes | None:
        return self.there.content(key, LARGEST)

    def put(self, file: Outgoing, advance: Callable[[int], object]) -> None:
        self.there.put_pieces(file.key, file.facts.size, file.pieces(advance))

    def settle(self) -> None: ...

    def pieces(self, key: str) -> Iterator[bytes]:
        return self.there.pieces(key)

    def remove(self, keys: Iterable[str]) -> None:
        self.there.remove_all(keys)
