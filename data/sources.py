"""Where images come from: folders, tars and Hugging Face data sets, all as one list of files to read.

A source lists everything once. Whatever it finds is either an entry, which may still turn out to be no image
when it is decoded, or skipped with a reason, so that indexed + failed + skipped = found.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import IO, Any, Protocol

from ..schemas.errors import SourceError, UnreadableImage

KINDS = "Give a folder of images, an uncompressed tar, or hf:NAME:SPLIT"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its name below the root with '/' between folders, its class folder, its bytes when listed.

    Bytes of a name that are not UTF-8 are written as backslash escapes. `label` is None outside class folders.
    """

    path: str
    label: str | None
    size: int


@dataclass(frozen=True)
class Skipped:
    """What was found but is not listed, and why."""

    path: str
    reason: str


class Source(Protocol):
    """A fixed list of files. It pickles, holds no open file when pickled, and survives a fork."""

    @property
    def name(self) -> str:
        """The last component of what the user pointed at."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Sorted by path, by code point: the position is the image_id for ever."""

    @property
    def skipped(self) -> tuple[Skipped, ...]: ...

    def read(self, i: int) -> bytes:
        """The encoded bytes of entry `i`. Raises UnreadableImage where they cannot be had."""


def open_source(where: str) -> Source:
    """List the images at `where`: a folder, a tar, 'hf:NAME[@CONFIG]:SPLIT' or a folder of `save_to_disk`.

    Raises SourceError where there is nothing that can be listed.
    """
    if where.startswith("hf:"):
        return _open_hub(where)
    path = Path(where)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise SourceError(f"{where!r} does not exist", "Check the path") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{where!r} cannot be read: {_why(error)}", "Check the path and its permissions") from None
    source: Source
    if S_ISREG(mode):
        source = _open_tar(path)
    elif not S_ISDIR(mode):
        raise SourceError(f"{where!r} is neither a folder nor a file", KINDS)
    elif (path / "dataset_dict.json").is_file():
        raise SourceError(f"{where!r} holds several splits of a data set", "Point at the folder of one of them")
    elif (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        source = _open_saved(path)
    else:
        source = _open_folder(path)
    if not source.entries:
        first = f" except {source.skipped[0].path!r} ({source.skipped[0].reason})" if source.skipped else ""
        raise SourceError(f"{where!r} holds no files{first}", KINDS)
    return source


def list_hash(entries: Iterable[Entry]) -> str:
    """SHA-256, in hex, of the paths, labels and sizes in their order: one JSON array on a line for each."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(json.dumps([entry.path, entry.label, entry.size]).encode() + b"\n")
    return digest.hexdigest()


# Names


def _recorded(name: str) -> str:
    """A name as Python decoded it from bytes, as text that any file can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return name


def _label(path: str) -> str | None:
    folder, slash, _ = path.partition("/")
    return folder if slash else None


def _hidden(name: str) -> bool:
    return "/." in f"/{name}"


def _shown(path: Path) -> str:
    own = path.name not in ("", "..")
    return _recorded(path.name if own else path.resolve().name)


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


# Folders


@dataclass(frozen=True)
class _Folder:
    name: str
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    root: str
    files: tuple[str, ...]  # names that open, where `entries` has names that can be recorded

    def read(self, i: int) -> bytes:
        return _read_file(f"{self.root}/{self.files[i]}")


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"the file cannot be read: {_why(error)}") from None


def _open_folder(path: Path) -> _Folder:
    root = str(path.resolve())
    entries: list[Entry] = []
    files: list[str] = []
    skipped: list[Skipped] = []
    for recorded, name, size in sorted((_recorded(name), name, size) for name, size in _walk(root)):
        if isinstance(size, str):
            skipped.append(Skipped(recorded, size))
        elif _hidden(name):
            skipped.append(Skipped(recorded, "hidden"))
        elif entries and entries[-1].path == recorded:
            skipped.append(Skipped(recorded, "its name, not UTF-8, is recorded like that of another file"))
        else:
            entries.append(Entry(recorded, _label(recorded), size))
            files.append(name)
    return _Folder(_shown(path), tuple(entries), tuple(skipped), root, tuple(files))


def _walk(root: str) -> Iterator[tuple[str, int | str]]:
    """(name, bytes) of every file below `root`, links followed, or (name, reason) of what is no file."""
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while folders:
        prefix, above = folders.pop()
        try:
            status = Path(root, prefix).stat()
            here = (status.st_dev, status.st_ino)
            if here in above:
                yield prefix[:-1], "a link back to a folder that it lies in"
                continue
            with os.scandir(f"{root}/{prefix}") as found:
                for item in found:
                    kind = _look(item)
                    if kind is None:
                        folders.append((f"{prefix}{item.name}/", above | {here}))
                    else:
                        yield prefix + item.name, kind
        except OSError as error:
            yield prefix[:-1], f"the folder cannot be listed: {_why(error)}"


def _look(item: os.DirEntry[str]) -> int | str | None:
    """The bytes of a file, None for a folder, or why it is neither. Nothing is opened: a fifo would block."""
    try:
        status = item.stat()
    except OSError as error:
        return f"a dangling link: {_why(error)}" if item.is_symlink() else f"cannot be read: {_why(error)}"
    if S_ISREG(status.st_mode):
        return status.st_size
    return None if S_ISDIR(status.st_mode) else "neither a file nor a folder"


# Tars


class _Tar:
    """Members are read by their offset, so that any process can read any of them at any time."""

    def __init__(self, path: Path, entries: list[Entry], skipped: list[Skipped], spans: list[int | str]) -> None:
        self.name = _shown(path)
        self.entries = tuple(entries)
        self.skipped = tuple(skipped)
        self._path = path.resolve()
        self._spans = spans  # where the bytes begin, or why there are none

    @cached_property
    def _file(self) -> IO[bytes]:
        return self._path.open("rb", buffering=0)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    def read(self, i: int) -> bytes:
        start, size = self._spans[i], self.entries[i].size
        if isinstance(start, str):
            raise UnreadableImage(start)
        try:
            # pread leaves the position alone, which forked processes share.
            blob = os.pread(self._file.fileno(), size, start)
        except OSError as error:
            raise UnreadableImage(f"the tar cannot be read: {_why(error)}") from None
        if len(blob) < size:
            raise UnreadableImage("the tar is shorter than when it was listed")
        return blob


def _open_tar(path: Path) -> _Tar:
    members: dict[str, tarfile.TarInfo] = {}
    skipped: list[Skipped] = []
    for member in _members(path):
        name = _inside(member.name)
        if not (member.isreg() or member.issym() or member.islnk()):
            skipped.append(Skipped(_recorded(name), "neither a file nor a folder"))
        elif _hidden(name):
            skipped.append(Skipped(_recorded(name), "hidden"))
            members[f"\0{name}"] = member
        else:
            if name in members:
                skipped.append(Skipped(_recorded(name), "a later member of the tar has the same name"))
            members[name] = member
    return _Tar(path, *_lay_out(members), skipped)
