"""An uncompressed tar as a source: members are read in place, by their offsets."""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

from ...schemas.errors import SourceError, UnreadableImage
from .entries import KINDS, Entry, Skipped, Source, check_size, is_hidden, shown_name, sort_names, why
from .tar_headers import CLASS, LONGEST_CLASS, Member, Read, Step, read_members

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

AGAIN = "Copy or make it again"  # the remedy where one is broken

FILES, LINKS = tarfile.REGULAR_TYPES, (tarfile.SYMTYPE, tarfile.LNKTYPE)


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

    def close(self) -> None:
        """Close the file until it is read again."""
        if (file := vars(self).pop("_file", None)) is not None:
            file.close()

    def read(self, i: int) -> bytes:
        start, size = self.starts[i], self.entries[i].size
        if isinstance(start, str):
            raise UnreadableImage(start)
        check_size(size)
        try:
            # pread leaves the file's position alone, which a fork shares.
            blob = os.pread(self._file.fileno(), size, start)
        except OSError as error:
            raise UnreadableImage(f"the tar cannot be read: {why(error)}") from None
        if len(blob) < size:
            raise UnreadableImage("the tar is shorter than when it was listed")
        return blob


def open_tar(path: Path, packed_folder: bool = True) -> TarSource:
    """List a tar. Raises SourceError where it is compressed, broken or none.

    packed_folder: a folder around everything is the one that was packed, and no part of the paths.
    """
    shown = repr(str(path))
    try:
        with path.open("rb", buffering=0) as file:
            descriptor = file.fileno()
            end = os.fstat(descriptor).st_size
            listed = list_tar(shown, lambda size, at: os.pread(descriptor, size, at), end, packed_folder)
    except OSError as error:
        raise SourceError(f"the tar {shown} cannot be listed: {why(error)}", AGAIN) from None
    return TarSource(shown_name(path), *listed, path.resolve())


class Listed(NamedTuple):
    """What a tar holds; of every entry where its bytes begin, or why there are none."""

    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    starts: tuple[int | str, ...]


def list_tar(shown: str, read: Read, end: int, packed_folder: bool, known: dict[int, Step] | None = None) -> Listed:
    """List a tar of `end` bytes, wherever it lies, as open_tar. Raises SourceError.

    known: of read_members.
    """
    members: dict[str, Member] = {}
    files: list[tuple[str, int | str]] = []
    listed = _members(shown, read, end, known)
    for member in listed:
        name = _inside(member.name)
        if member.kind == tarfile.DIRTYPE:
            continue
        if member.kind not in (*FILES, *LINKS):
            files.append((name, "neither a file nor a folder"))
            continue
        if name in members:
            files.append((name, "a later member of the tar has the same name"))
        members[name] = member
    ends = _targets(members)
    targets = {name: ends[name] for name in members}
    classes = _written_classes(read, targets)
    for name, target in targets.items():
        if not (name.endswith(CLASS) and _key(name) in classes):
            files.append((name, target.size if target else 0))
    around = _folder_around(listed, [n for n, size in files if isinstance(size, int)]) if packed_folder else ""
    entries, skipped, names = sort_names(files, around)
    labels = [classes.get(_key(name), entry.label) for name, entry in zip(names, entries, strict=True)]
    entries = tuple(replace(entry, label=label) for entry, label in zip(entries, labels, strict=True))
    return Listed(entries, skipped, tuple(_start(targets[name]) for name in names))


def _written_classes(read: Read, targets: dict[str, Member | None]) -> dict[str, str]:
    """What KEY.cls says of the image beside it, by KEY, as WebDataset has it; such a file is a label and no image."""
    beside = {_key(name) for name in targets if not name.endswith(CLASS)}
    count = Counter(_key(name) for name in targets if name.endswith(CLASS))  # of two neither is meant for sure
    classes: dict[str, str] = {}
    for name, target in targets.items():
        if not name.endswith(CLASS) or _key(name) not in beside or count[_key(name)] > 1:
            continue
        if target and target.kind in FILES and 0 < target.size <= LONGEST_CLASS:
            content = target.text or read(target.size, target.start)  # of a link's end under another name
            if text := content.decode(errors="replace").strip():
                classes[_key(name)] = text
    return classes


def _key(name: str) -> str:
    """What the files of one WebDataset sample share: their name up to its first dot."""
    folder, slash, own = name.rpartition("/")
    return f"{folder}{slash}{own.partition('.')[0]}"


def _folder_around(listed: list[Member], names: list[str]) -> str:
    """The folder that was packed, as 'NAME/', or '' where its content was, as by `tar -C FOLDER -c .`.

    Only so is a tar like the folder that it holds: the packed folder's name is no class.
    """
    seen = [name for name in names if not is_hidden(name)]
    top = seen[0].partition("/")[0] + "/" if seen else ""
    content = any(member.kind == tarfile.DIRTYPE and member.name in ("", ".") for member in listed)
    return top if not content and all(name.startswith(top) for name in seen) else ""


def _members(shown: str, read: Read, end: int, known: dict[int, Step] | None) -> list[Member]:
    """All members. Raises SourceError where they are not those of one whole uncompressed tar."""
    head = read(8, 0)
    kind = next((kind for magic, kind in COMPRESSED.items() if head.startswith(magic)), None)
    if kind:
        raise SourceError(f"{shown} is compressed ({kind}): no single file can be read", "Decompress it first")
    if not head:
        raise SourceError(f"{shown} is a file, but not a tar", KINDS)
    try:
        return list(read_members(read, end, known))
    except tarfile.ReadError as error:
        if str(error) == "broken header at byte 0":
            raise SourceError(f"{shown} is a file, but not a tar", KINDS) from None
        raise SourceError(f"the tar {shown} cannot be listed: {error}", AGAIN) from None


def _inside(name: str) -> str:
    """A member's name without what would lead out of the root."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", "..")) or "_"


def _targets(members: dict[str, Member]) -> dict[str, Member | None]:
    """The member that holds the bytes of each, or None where links lead nowhere or in a circle; each followed once."""
    found: dict[str, Member | None] = {}
    for name in members:
        passed = []
        while name not in found and name in members and members[name].kind in LINKS:
            found[name] = None  # until its end is known: a circle ends here
            passed.append(name)
            name = _link(name, members[name])
        end = found[name] if name in found else members.get(name)
        found |= dict.fromkeys(passed, end)
        found.setdefault(name, end)
    return found


def _link(name: str, member: Member) -> str:
    """Where a link leads: one of names from its own folder, a hard link from the root."""
    if member.kind == tarfile.LNKTYPE:
        return _inside(member.link)
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), member.link))


def _start(target: Member | None) -> int | str:
    if target is None:
        return "a link to no file of the tar"
    sparse = target.kind == tarfile.GNUTYPE_SPARSE
    return "a sparse member of a tar, which is not supported" if sparse else target.start
