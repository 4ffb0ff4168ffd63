"""Where images come from: folders, tars and Hugging Face data sets, all as one list of files to read.

A source lists everything once. Whatever it finds is either an entry, which may still turn out to be no image
when it is decoded, or skipped with a reason, so that indexed + failed + skipped = found.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import IO, Any, Protocol

from ..schemas.errors import SourceError, UnreadableImage
from .hugging_face import open_hub, open_saved
from .names import Entry, Skipped, is_hidden, read_file, shown_name, sort_names, why

KINDS = "Give a folder of images, an uncompressed tar, or hf:NAME:SPLIT"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


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
        return open_hub(where)
    path = Path(where)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise SourceError(f"{where!r} does not exist", "Check the path") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{where!r} cannot be read: {why(error)}", "Check the path and its permissions") from None
    source: Source
    if S_ISREG(mode):
        source = _open_tar(path)
    elif not S_ISDIR(mode):
        raise SourceError(f"{where!r} is neither a folder nor a file", KINDS)
    elif (path / "dataset_dict.json").is_file():
        raise SourceError(f"{where!r} holds several splits of a data set", "Point at the folder of one of them")
    elif (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        source = open_saved(path)
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


# Folders


@dataclass(frozen=True)
class _Folder:
    name: str
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    files: tuple[str, ...]  # names that open, where `entries` has names that can be recorded
    root: str

    def read(self, i: int) -> bytes:
        return read_file(f"{self.root}/{self.files[i]}")


def _open_folder(path: Path) -> _Folder:
    root = str(path.resolve())
    return _Folder(shown_name(path), *sort_names(_walk(root)), root)


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
            yield prefix[:-1], f"the folder cannot be listed: {why(error)}"


def _look(item: os.DirEntry[str]) -> int | str | None:
    """The bytes of a file, None for a folder, or why it is neither. Nothing is opened: a fifo would block."""
    try:
        status = item.stat()
    except OSError as error:
        return f"a dangling link: {why(error)}" if item.is_symlink() else f"cannot be read: {why(error)}"
    if S_ISREG(status.st_mode):
        return status.st_size
    return None if S_ISDIR(status.st_mode) else "neither a file nor a folder"


# Tars


@dataclass(frozen=True)
class _Tar:
    """Members are read by their offset, so that any process can read any of them at any time."""

    name: str
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    starts: tuple[int | str, ...]  # where an entry's bytes begin, or why there are none
    path: Path

    @cached_property
    def _file(self) -> IO[bytes]:
        return self.path.open("rb", buffering=0)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_file"}

    def read(self, i: int) -> bytes:
        start, size = self.starts[i], self.entries[i].size
        if isinstance(start, str):
            raise UnreadableImage(start)
        try:
            # pread leaves the file's position alone, which a fork shares.
            blob = os.pread(self._file.fileno(), size, start)
        except OSError as error:
            raise UnreadableImage(f"the tar cannot be read: {why(error)}") from None
        if len(blob) < size:
            raise UnreadableImage("the tar is shorter than when it was listed")
        return blob


def _open_tar(path: Path) -> _Tar:
    members: dict[str, tarfile.TarInfo] = {}
    found: list[tuple[str, int | str]] = []
    listed = _members(path)
    for member in listed:
        name = _inside(member.name)
        if member.isdir():
            continue
        if not (member.isreg() or member.issym() or member.islnk()):
            found.append((name, "neither a file nor a folder"))
            continue
        if name in members:
            found.append((name, "a later member of the tar has the same name"))
        members[name] = member
    targets = {name: _follow(members, name) for name in members}
    found += [(name, target.size if target else 0) for name, target in targets.items()]
    around = _folder_around(listed, [name for name, size in found if isinstance(size, int)])
    entries, skipped, names = sort_names(found, around)
    return _Tar(shown_name(path), entries, skipped, tuple(_start(targets[name]) for name in names), path.resolve())


def _folder_around(listed: list[tarfile.TarInfo], names: list[str]) -> str:
    """The folder that was packed, as 'NAME/', or '' where its content was, as by `tar -C FOLDER -c .`.

    Only so is a tar like the folder that it holds: the packed folder's name is no class.
    """
    seen = [name for name in names if not is_hidden(name)]
    top = seen[0].partition("/")[0] + "/" if seen else ""
    content = any(member.isdir() and member.name in ("", ".") for member in listed)
    return top if not content and all(name.startswith(top) for name in seen) else ""


def _members(path: Path) -> list[tarfile.TarInfo]:
    """All members. Raises SourceError where the file is not one whole uncompressed tar."""
    shown = repr(str(path))
    try:
        with path.open("rb") as file:
            head = file.read(8)
            kind = next((kind for magic, kind in COMPRESSED.items() if head.startswith(magic)), None)
            if kind:
                raise SourceError(f"{shown} is compressed ({kind}): no single file can be read", "Decompress it first")
            if not tarfile.is_tarfile(path):
                raise SourceError(f"{shown} is a file, but not a tar", KINDS)
            with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
                members = archive.getmembers()
            # tarfile takes a broken header for the end, and the files behind it would be lost unseen.
            file.seek(archive.offset)
            if any(file.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"broken header at byte {archive.offset}")
    except (OSError, tarfile.TarError) as error:
        raise SourceError(f"the tar {shown} cannot be listed: {why(error)}", "Copy or make it again") from None
    return members


def _inside(name: str) -> str:
    """A member's name without what would lead out of the root."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", "..")) or "_"


def _follow(members: dict[str, tarfile.TarInfo], name: str) -> tarfile.TarInfo | None:
    """The member that holds the bytes, or None where links lead nowhere or in a circle."""
    passed = set()
    while (member := members.get(name)) and not member.isreg():
        if name in passed:
            return None
        passed.add(name)
        near = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
        name = near if member.issym() else _inside(member.linkname)
    return member


def _start(target: tarfile.TarInfo | None) -> int | str:
    if target is None:
        return "a link to no file of the tar"
    return "a sparse member of a tar, which is not supported" if target.issparse() else target.offset_data
