"""Files written whole, once: past the page cache where that can be, flushed, renamed when they are complete.

The page cache would keep what nobody reads soon, and filling it costs as much as a tenth of the forward pass.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ..facts import FileFacts, content_facts, file_facts
from .plain_files import replacing

DIRECT_BYTES = 2**20  # smaller files go through the page cache
STEP = 2**23


def page_aligned(size: int) -> NDArray[np.uint8]:
    """Zeros that can be written past the page cache."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


def write_voucher(target: Path, content: bytes) -> FileFacts:
    """Write a file that vouches for others, and make its name last through a power failure, where the system can.

    The others' names last by then: they were given before, and a journal (ext4, XFS) keeps to the order. Flushing all
    their folders would take longer than writing the files: 11 s against 6 s for ten parts of the sample.
    """
    facts = write_file(target, content)
    with suppress(OSError):  # not on Windows, nor on every network's disk
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return facts


def write_file(target: Path, content: bytes | memoryview) -> FileFacts:
    """Write a file under a temporary name, flush it to the disk, rename it. Returns its facts."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(target) as temporary:
            done = _write_direct(temporary, memoryview(content))
            with temporary.open("r+b") as file:
                file.seek(done)
                file.write(content[done:])
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:  # such as a full disk
        raise OSError(error.errno, error.strerror, str(target)) from error
    return content_facts(content)


def _write_direct(path: Path, content: memoryview) -> int:
    """Write the whole pages of page-aligned content past the page cache. Returns the bytes written; 0: impossible."""
    aligned = len(content) >= DIRECT_BYTES and np.frombuffer(content, np.uint8).ctypes.data % mmap.PAGESIZE == 0
    if not aligned or not hasattr(os, "O_DIRECT"):
        return 0
    done, pages = 0, len(content) // mmap.PAGESIZE * mmap.PAGESIZE
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o666)
        try:
            while done < pages:
                done += os.write(file, content[done : min(done + STEP, pages)])
        finally:
            os.close(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # which says that this file system has no such writing
            raise
        return 0
    return done


def adopt_file(temporary: Path, target: Path) -> FileFacts:
    """Flush a file that a library has written and give it its name. Returns its facts."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    facts = file_facts(temporary)
    temporary.replace(target)
    return facts


class DirectFile:
    """A new file written from start to end, past the page cache where that can be; flushed when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path, self._room, self._held, self._done = path, page_aligned(STEP), 0, 0
        path.open("xb").close()
        self._direct = hasattr(os, "O_DIRECT")
        self._file = -1
        self._open()

    def _open(self) -> None:
        try:
            self._file = os.open(self._path, os.O_WRONLY | (os.O_DIRECT if self._direct else 0))
        except OSError as error:
            self._give_in(error)

    def _give_in(self, error: OSError) -> None:
        """Go on through the page cache where the file system refuses to be written to past it."""
        if error.errno != errno.EINVAL or not self._direct:
            raise error
        if self._file >= 0:
            os.close(self._file)
        self._direct = False
        self._open()

    def __enter__(self) -> DirectFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        if error is None:
            with self._path.open("r+b") as file:
                file.seek(self._done)
                file.write(self._room[: self._held].data)
                file.flush()
                os.fsync(file.fileno())

    def write(self, content: bytes | memoryview) -> None:
        """Add bytes after what was written before."""
        values = np.frombuffer(content, np.uint8)
        while len(values):
            fitting = values[: STEP - self._held]
            self._room[self._held : self._held + len(fitting)] = fitting
            self._held += len(fitting)
            values = values[len(fitting) :]
            if self._held == STEP:
                self._flush()

    def _flush(self) -> None:
        sent = 0
        while sent < STEP:
            try:
                sent += os.pwrite(self._file, self._room[sent:].data, self._done + sent)
            except OSError as error:
                self._give_in(error)
        self._done, self._held = self._done + STEP, 0
