"""An uncompressed tar as a source: members are read in place, by their offsets."""

from __future__ import annotations

import os
import posixpath
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from ...schemas.errors import SourceError, UnreadableImage
from .entries import KINDS, Source, is_hidden, shown_name, sort_names, why

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class TarSource(Source):
    """Members are read by their offset, so that any process can read any of them at any time."""

    starts: tuple[int | str, ...]  # where an entry's bytes begin, or why there are none
    path: Path

    @cached_property
    def _file(self) -> IO[bytes]:
        return self.path.open("rb", buffering=0)

    def __getstate__(self) -> dict[str, object]:
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


def open_tar(path: Path) -> TarSource:
    """List a tar. Raises SourceError where it is compressed, broken or none."""
    members: dict[str, tarfile.TarInfo] = {}
    files: list[tuple[str, int | str]] = []
    listed = _members(path)
    for member in listed:
        name = _inside(member.name)
        if member.isdir():
            continue
        if not (member.isreg() or member.issym() or member.islnk()):
            files.append((name, "neither a file nor a folder"))
            continue
        if name in members:
            files.append((name, "a later member of the tar has the same name"))
        members[name] = member
    targets = {name: _follow(members, name) for name in members}
    files += [(name, target.size if target else 0) for name, target in targets.items()]
    around = _folder_around(listed, [name for name, size in files if isinstance(size, int)])
    entries, skipped, names = sort_names(files, around)
    return TarSource(shown_name(path), entries, skipped, tuple(_start(targets[name]) for name in names), path.resolve())


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
            # tarfile takes a broken header for the end, and the files after it would be lost unseen.
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
