"""Tars whose headers lie: one line or a reason for each, in time that is linear in the file, in little memory."""

from __future__ import annotations

import io
import os
import resource
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vitdex.data.images.entries import MAX_BYTES, read_file
from vitdex.data.images.sources import open_source
from vitdex.schemas.errors import SourceError, UnreadableImage


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def preceding(kind: bytes, content: bytes) -> bytes:
    return header("x", kind, len(content)) + padded(content)


def record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    size = len(rest) + 1
    while size != len(str(size)) + len(rest):
        size += 1
    return str(size).encode() + rest


@pytest.fixture(autouse=True)
def _little_memory_and_time() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 10  # of seconds, not minutes: the machine may be busy
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


GOOD = header("a.png", size=3) + padded(b"abc")
PAX, GNU_NAME = tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME
LIES: dict[str, tuple[bytes, str]] = {
    "200,000 digits": (preceding(PAX, b"9" * 200_000) + GOOD, "broken PAX header at byte 0"),
    "200,000 digits and a blank": (preceding(PAX, b"9" * 200_000 + b" path=x\n") + GOOD, "broken PAX header"),
    "digits of other scripts": (preceding(PAX, "٣ a=b\n".encode()) + GOOD, "broken PAX header"),
    "short records": (preceding(PAX, b"3 " * 300_000 + b"=") + GOOD, "broken PAX header"),
    "records of length 0": (preceding(PAX, b"0 a=b\n") + GOOD, "broken PAX header"),
    "a record beyond its header": (preceding(PAX, b"9999 path=x\n") + GOOD, "broken PAX header"),
    "a size of 5,000 digits": (preceding(PAX, record("size", "9" * 5000)) + GOOD, "broken PAX header"),
    "a size of -1": (preceding(PAX, record("size", "-1")) + GOOD, "broken PAX header"),
    "a size that is no number": (preceding(PAX, record("size", "many")) + GOOD, "broken PAX header"),
    "a size of 10^12": (preceding(PAX, record("size", str(10**12))) + GOOD, "unexpected end of data"),
    "a member of 10^12 bytes": (GOOD + header("b.png", size=10**12) + padded(b"abc"), "unexpected end of data"),
    "a member of negative size": (GOOD + header("b.png", size=-1024), "unexpected end of data"),
    "a member of a large negative size": (GOOD + header("b.png", size=-(2**62)), "unexpected end of data"),
    "a name of 10^12 bytes": (header("x", GNU_NAME, 10**12) + GOOD, "a header of 1,000,000,000,000 bytes at byte 0"),
    "a name of negative size": (header("x", GNU_NAME, -512) + GOOD, "a header of -512 bytes"),
    "attributes of 10^12 bytes": (header("x", PAX, 10**12) + GOOD, "a header of 1,000,000,000,000 bytes"),
    "a path of 10^6 folders": (preceding(PAX, record("path", "a/" * 10**6)) + GOOD, "a header of 2,000,0"),
}


@pytest.mark.parametrize(("content", "line"), LIES.values(), ids=LIES)
def test_a_lie_is_one_line(content: bytes, line: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(content + bytes(1024))
    with pytest.raises(SourceError, match=rf"^the tar '\S+' cannot be listed: {line}"):
        open_source(str(tmp_path / "x.tar"))


def chained(count: int, kind: bytes, end: str = "end.png") -> bytes:
    """The first leads to the second, and so on; only the end is a file."""
    names = [f"{i}.png" for i in range(count)]
    links = zip(names, [*names[1:], end], strict=True)
    return b"".join(header(name, kind, link=link) for name, link in links) + header("end.png", size=3) + padded(b"abc")


MANY: dict[str, tuple[Callable[[], bytes], int]] = {
    "links": (lambda: chained(12_000, tarfile.SYMTYPE), 12_001),
    "hard links": (lambda: chained(12_000, tarfile.LNKTYPE), 12_001),
    "links in a circle": (lambda: chained(12_000, tarfile.SYMTYPE, end="0.png"), 12_001),
    "long names before one member": (lambda: preceding(GNU_NAME, b"y" * 120) * 12_000 + GOOD, 1),
    "PAX headers before one member": (lambda: preceding(PAX, record("comment", "x")) * 12_000 + GOOD, 1),
    "empty members": (lambda: b"".join(header(f"{i}.png") for i in range(30_000)), 30_000),
    "folders in one name": (lambda: preceding(PAX, record("path", "train/" * 20_000 + "a.png")) + GOOD * 5_000, 2),
}


@pytest.mark.parametrize(("make", "entries"), MANY.values(), ids=MANY)
def test_many_take_no_longer_than_their_bytes(make: Callable[[], bytes], entries: int, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(make() + bytes(1024))
    assert len(open_source(str(tmp_path / "x.tar")).entries) == entries


@pytest.mark.parametrize("kind", ["tar", "folder", "sparse in a folder", "just too large"])
def test_of_an_image_only_so_much_is_read(kind: str, tmp_path: Path) -> None:
    size = MAX_BYTES + 1 if kind == "just too large" else 20 * 2**30
    (tmp_path / "in").mkdir()
    where = tmp_path / "in" / "hole.png"
    if kind == "tar":
        where = tmp_path / "x.tar"
        where.write_bytes(header("hole.png", size=size))
        os.truncate(where, size + 2048)
    else:
        where.write_bytes(b"\x89PNG" if "sparse" in kind else b"")
        os.truncate(where, size)
    source = open_source(str(where if kind == "tar" else tmp_path / "in"))
    assert source.entries[0].size == size
    with pytest.raises(
        UnreadableImage, match=rf"^the file has {size:,} bytes, and of an image at most 268,435,456 are"
    ):
        source.read(0)


@pytest.mark.parametrize("what", ["/dev/zero", "/dev/random", "pipe", "link to a pipe"])
def test_a_pipe_or_device_is_not_read(what: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a pipe").symlink_to(tmp_path / "pipe")
    with pytest.raises(UnreadableImage, match="neither a file nor a folder"):
        read_file(what if what.startswith("/") else str(tmp_path / what))
    (tmp_path / "a.png").write_bytes(b"abc")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    source = open_source(str(tmp_path))
    assert [entry.path for entry in source.entries] == ["a.png"]
    assert {s.reason for s in source.skipped} == {"neither a file nor a folder"}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_those_that_tarfile_lists(form: int, tmp_path: Path) -> None:
    long = "n" * (90 if form == tarfile.USTAR_FORMAT else 300)
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
        for name in ("a.png", f"{long}.png", f"d/{long}/b.png", "é 犬.png"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()[: len(name)]))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, f"{long}.png"
        archive.addfile(link)
    source = open_source(str(tmp_path / "x.tar"))
    with tarfile.open(tmp_path / "x.tar") as archive:
        read = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    assert {entry.path: source.read(i) for i, entry in enumerate(source.entries)} == read
