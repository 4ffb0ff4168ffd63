"""The members of a tar, from its headers alone: in one pass, whatever they claim.

Python's tarfile reads a header of any size at once, searches it in quadratic time, nests one call in another for each
that precedes a member, and takes a member of negative size for a step back. It reads single blocks here.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = tarfile.BLOCKSIZE
LONGEST = 2**20  # bytes of what precedes a member: names, attributes
LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


class Member(NamedTuple):
    """A member as it is listed. `kind` is a type of tarfile's; `start` is where its bytes begin."""

    name: str
    kind: bytes
    link: str
    start: int
    size: int


def read_members(descriptor: int) -> Iterator[Member]:
    """All members of an open tar. Raises tarfile.ReadError where it is broken, at byte 0 where it is none."""
    end, at = os.fstat(descriptor).st_size, 0
    for_all: dict[str, str] = {}
    for_next: dict[str, str] = {}
    while any(block := os.pread(descriptor, BLOCK, at)):
        head = _head(block, at)
        start, size = at + BLOCK, head.size
        if head.type in LONG or head.type in (*PAX, tarfile.XGLTYPE):
            if not 0 <= size <= LONGEST:
                raise tarfile.ReadError(f"a header of {size:,} bytes at byte {at}")
            content = os.pread(descriptor, size, start)
            if head.type in LONG:
                for_next.setdefault(LONG[head.type], _text(content.partition(b"\0")[0]))
            else:
                target = for_all if head.type == tarfile.XGLTYPE else for_next
                target |= _records(content, at)
        else:
            said = for_all | for_next
            size = _size(said["size"], at) if "size" in said else size
            kind, start, whole = _sparse(descriptor, block, start, said) or (head.type, start, size)
            name = said.get("GNU.sparse.name", said.get("path", head.name))
            yield Member(name.rstrip("/"), kind, said.get("linkpath", head.linkname), start, whole)
            for_next = {}
            if head.type in tarfile.SUPPORTED_TYPES and not head.isreg():
                size = 0  # of a link or folder no bytes follow
        at = start + -(-size // BLOCK) * BLOCK
        if size < 0 or at > end:
            raise tarfile.ReadError("unexpected end of data")


def _head(block: bytes, at: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise tarfile.ReadError(f"broken header at byte {at}") from error


def _records(content: bytes, at: int) -> dict[str, str]:
    """PAX records: each its own length in bytes, a blank, KEY=VALUE and a newline."""
    found, here = {}, 0
    while here < len(content):
        length, _, _ = content[here : here + 10].partition(b" ")
        after = here + int(length) if length.isdigit() else here
        key, equals, value = content[here + len(length) + 1 : after].partition(b"=")
        if not equals or after > len(content):
            raise tarfile.ReadError(f"broken PAX header at byte {at}")
        found[_text(key)] = _text(value[:-1])
        here = after
    return found


def _size(text: str, at: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise tarfile.ReadError(f"broken PAX header at byte {at}")
    return int(text)


def _sparse(descriptor: int, block: bytes, start: int, said: dict[str, str]) -> tuple[bytes, int, int] | None:
    """Of a member with holes: its kind, where its bytes begin, after the blocks that list the holes, its whole size."""
    if block[156:157] == tarfile.GNUTYPE_SPARSE:
        whole, more = block[483:495].strip(b"\0 ").decode("ascii", "replace"), block[482]
        while more:
            more = (os.pread(descriptor, BLOCK, start) + bytes(BLOCK))[504]
            start += BLOCK
        return tarfile.GNUTYPE_SPARSE, start, int(whole, 8) if set(whole) <= set("01234567") and whole else 0
    if not any(key.startswith("GNU.sparse.") for key in said):
        return None
    whole = said.get("GNU.sparse.realsize", said.get("GNU.sparse.size", ""))
    return tarfile.GNUTYPE_SPARSE, start, int(whole) if whole.isascii() and whole.isdecimal() and len(whole) < 20 else 0


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
