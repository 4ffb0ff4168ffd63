"""Files of a folder that a stranger may have filled: opened only where they are files that lie where they seem to.

A pipe would wait for ever, a device never end, and a link lead out of the folder. What is new is made, never opened.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_NO_LINK_NO_WAIT = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_plain(root: Path, key: str) -> io.FileIO:
    """The file `root / key`, unbuffered. Raises OSError where it is missing, or it or a folder below root is a link."""
    path = _plain_path(root, key)[0]
    descriptor = os.open(path, os.O_RDONLY | _NO_LINK_NO_WAIT)  # if it is another by now, then no link either
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_plain(path)
    return io.FileIO(descriptor, "rb")


def create_plain(root: Path, key: str) -> BinaryIO:
    """A new file `root / key`, to be written. Raises OSError where anything has that name, or as open_plain."""
    path = _below_no_link(root, key)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK_NO_WAIT, 0o666), "wb")


def plain_size(root: Path, key: str) -> int:
    """The bytes of the file `root / key`. Raises OSError as open_plain."""
    return _plain_path(root, key)[1]


def read_plain(root: Path, key: str, at_most: int) -> bytes:
    """The content of the file `root / key`. Raises OSError as open_plain, and where it is larger than `at_most`."""
    with open_plain(root, key) as file:
        content = file.read(at_most + 1)
    if len(content) > at_most:
        raise OSError(errno.EFBIG, f"larger than {at_most:,} bytes", str(root / key))
    return content


def _plain_path(root: Path, key: str) -> tuple[str, int]:
    """The path of a file, and its bytes. Raises OSError as open_plain."""
    path = _below_no_link(root, key)
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise _not_plain(path)
    return path, status.st_size


def _below_no_link(root: Path, key: str) -> str:
    """The path of a key, each folder of which below root is a folder and no link; root itself may be one.

    As text: pages open hundreds of files, and a Path for every folder takes four times as long as the system's answer.
    """
    folder = os.fspath(root)
    *folders, name = key.split("/")
    for part in folders:
        folder = f"{folder}{os.sep}{part}"
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise _not_plain(folder)
    return f"{folder}{os.sep}{name}"


def _not_plain(path: str) -> OSError:
    return OSError(errno.EINVAL, "a link, pipe or device, not a file of an index", path)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new, empty file beside `target`, to be written inside; then it gets that name, or goes if anything raises.

    What has its own name is removed first: a stopped run's leftover, or a link, through which nothing is written.
    """
    temporary = target.with_name(f".{target.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.open("xb").close()
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
