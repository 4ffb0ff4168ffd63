"""One writer at a time for a folder that is being filled: an index, or an extension of one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from filelock import FileLock, Timeout

from ..errors import BadIndex
from ..layout import FilledFolder

PATIENCE = 10  # seconds: the decoders of a run that was killed hold its lock until they notice, which takes up to five


class AnotherWrites(BadIndex):
    """Another run fills the folder."""


@contextlib.contextmanager
def only_writer(folder: FilledFolder) -> Iterator[None]:
    """While inside, no other run fills this folder.

    Raises AnotherWrites where one does, BadIndex where its lock is a link.
    """
    if folder.lock.is_symlink():  # it would be emptied, wherever it leads
        raise BadIndex(f"{folder.lock} is a link", "Move it away.")
    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise AnotherWrites(f"another run is filling {folder.root}", "Wait for it, or stop it.") from None
    try:
        yield
    finally:
        if folder.manifest.exists():  # what is finished keeps no lock
            folder.lock.unlink(missing_ok=True)
        lock.release()
