"""Nothing but files that lie inside a folder is opened there: a link, a pipe, a device, a socket is refused at once."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from vitdex.schemas.storage.plain_files import create_plain, open_plain, plain_size, read_plain


def _place(kind: str, root: Path, outside: Path) -> None:
    target = root / "a" / "file"
    if kind == "link":
        target.symlink_to(outside)
    elif kind == "link to nowhere":
        target.symlink_to(root / "nowhere")
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    elif kind == "socket":
        os.chdir(root / "a")  # the name of a socket must be short
        socket.socket(socket.AF_UNIX).bind("file")
    elif kind == "folder that is a link":
        (root / "a").rmdir()
        (root / "a").symlink_to(outside.parent, target_is_directory=True)
        assert (root / "a" / outside.name).read_bytes() == b"secret"


@pytest.fixture(params=["link", "link to nowhere", "pipe", "folder", "socket", "folder that is a link"])
def outside(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file outside of a folder `root`, in which something that is no file has the name a/file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    outside = tmp_path / "outside" / "file"
    outside.write_bytes(b"secret")
    _place(request.param, tmp_path / "root", outside)
    return outside


@pytest.mark.usefixtures("outside")
def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    for opened in (open_plain, plain_size, lambda root, key: read_plain(root, key, 100)):
        with pytest.raises(OSError, match="not a file of an index"):
            opened(tmp_path / "root", "a/file")


def test_a_file_is_read_and_its_size_bounded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"12345")
    link = tmp_path / "link"
    link.symlink_to(tmp_path, target_is_directory=True)  # the folder itself may be anywhere
    assert read_plain(link, "a/file", 5) == b"12345"
    assert plain_size(link, "a/file") == 5
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_plain(link, "a/file", 4)


def test_a_device_is_not_opened() -> None:
    with pytest.raises(OSError, match="not a file"):
        open_plain(Path("/dev"), "zero")


def test_a_new_file_takes_nothings_place(outside: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"File exists|not a file of an index"):
        create_plain(tmp_path / "root", "a/file")
    assert outside.read_bytes() == b"secret"
    assert not (tmp_path / "root" / "nowhere").exists()
