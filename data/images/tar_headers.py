"""The members of a tar, from its headers alone: in one pass, whatever they claim.

Python's tarfile reads a header of any size at once, searches it in quadratic time, nests one call in another for each
that precedes a member, and takes a member of negative size for a step back. It reads single blocks here.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

Read = Callable[[int, int], bytes]  # so many bytes of a tar, from a place on; fewer at its end

BLOCK = tarfile.BLOCKSIZE
LONGEST = 2**20  # bytes of what precedes a member: names, attributes
LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
HEEDED = ("path", "linkpath", "size", "GNU.sparse.")  # what a record may say that changes how a member is read
CLASS = ".cls"
LONGEST_CLASS = 1000  # bytes
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


class Member(NamedTuple):
    """A member as it is listed. `kind` is a type of tarfile's; `start` is where its bytes begin."""

    name: str
    kind: bytes
    link: str
    start: int
    size: int
    text: bytes  # what a small file in which a class is written holds


class Step(NamedTuple):
    """A member, and where what follows it begins."""

    member: Member
    after: int


def read_members(read: Read, end: int, known: dict[int, Step] | None = None) -> Iterator[Member]:
    """All members of a tar of `end` bytes. Raises tarfile.ReadError where it is broken, at byte 0 where it is none.

    known: steps that were met before, by where they begin; each is taken out when it is passed.
    """
    at, for_all = 0, dict[str, str]()
    known = {} if known is None else known
    while step := (None if for_all else known.pop(at, None)) or step_at(read, at, end, for_all):
        yield step.member
        at = step.after


def step_at(read: Read, at: int, end: int, for_all: dict[str, str]) -> Step | None:
    """The member whose headers begin at a byte; None where the tar ends.

    What a header says of all that follow is added to `for_all`.
    """
    for_next: dict[str, str] = {}
    while any(block := read(BLOCK, at)):
        head = _head(block, at)
        start, size = at + BLOCK, head.size
        if head.type not in LONG and head.type not in (*PAX, tarfile.XGLTYPE):
            said = for_all | for_next
            size = _size(said["size"], at) if "size" in said else size
            kind, start, whole = _sparse(read, block, start, said) or (head.type, start, size)
            name = said.get("GNU.sparse.name", said.get("path", head.name)).rstrip("/")
            if head.type in tarfile.SUPPORTED_TYPES and not head.isreg():
                size = 0  # of a link or folder no bytes follow
            after = _after(start, size, end)
            text = read(size, start) if name.endswith(CLASS) and 0 < size <= LONGEST_CLASS else b""
            return Step(Member(name, kind, said.get("linkpath", head.linkname), start, whole, text), after)
        if not 0 <= size <= LONGEST:
            raise tarfile.ReadError(f"a header of {size:,} bytes at byte {at}")
        content = read(size, start)
        if head.type in LONG:
            for_next.setdefault(LONG[head.type], _text(content.partition(b"\0")[0]))
        elif head.type == tarfile.XGLTYPE:
            for_all |= {key: value for key, value in _records(content, at).items() if key.startswith(HEEDED)}
        else:
            for_next |= _records(content, at)
        at = _after(start, size, end)
    return None


def first_header(content: bytes) -> int | None:
    """Where the first block of some content that looks like a header begins; None where none does."""
    for at in range(0, len(content) - BLOCK + 1, BLOCK):
        if content.startswith(b"ustar", at + 257):
            with suppress(tarfile.ReadError):
                _head(content[at : at + BLOCK], at)
                return at
    return None


def _after(start: int, size: int, end: int) -> int:
    after = start + -(-size // BLOCK) * BLOCK
    if size < 0 or after > end:
        raise tarfile.ReadError("unexpected end of data")
    return after


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


def _sparse(read: Read, block: bytes, start: int, said: dict[str, str]) -> tuple[bytes, int, int] | None:
    """Of a member with holes: its kind, where its bytes begin, after the blocks that list the holes, its whole size."""
    if block[156:157] == tarfile.GNUTYPE_SPARSE:
        whole, more = block[483:495].strip(b"\0 ").decode("ascii", "replace"), block[482]
        while more:
            more = (read(BLOCK, start) + bytes(BLOCK))[504]
            start += BLOCK
        return tarfile.GNUTYPE_SPARSE, start, int(whole, 8) if set(whole) <= set("01234567") and whole else 0
    if not any(key.startswith("GNU.sparse.") for key in said):
        return None
    whole = said.get("GNU.sparse.realsize", said.get("GNU.sparse.size", ""))
    return tarfile.GNUTYPE_SPARSE, start, int(whole) if whole.isascii() and whole.isdecimal() and len(whole) < 20 else 0


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
