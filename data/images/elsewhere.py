"""Images at an address: a folder of a bucket; tars (tars_elsewhere.py) there, on a web server or on the hub.

Whoever makes requests are threads of the process that opened the source: in a forked one, as decode images, they are
not. So these processes are sent bytes, which their parent reads ahead (indexer/run/read_ahead.py).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import unquote

from ...schemas.addressed import shown_address
from ...schemas.errors import BadIndex, DamagedIndex, SourceError, UnreadableImage
from ...schemas.storage.elsewhere import Elsewhere
from .entries import MAX_BYTES, Source, check_size, sort_names

AT_ONCE = 64  # requests: each waits for the distance
SAVED = ({"dataset_dict.json"}, {"dataset_info.json", "state.json"})  # what save_to_disk leaves
GONE = "The images there were changed or removed: repeat the command."


@dataclass(frozen=True)
class SourceElsewhere(Source):
    """Files below an address. It is read in the process that opened it, by as many threads as one likes."""

    address: str  # of the folder in which they lie

    @cached_property
    def there(self) -> Elsewhere:
        return Elsewhere(self.address)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "there"}

    def read(self, i: int) -> bytes:
        (found,) = self.read_together([i])
        if isinstance(found, str):
            raise UnreadableImage(found)
        return found

    def together(self, ids: Iterable[int]) -> Iterator[list[int]]:
        """Images in groups, in their order, each of which one journey brings."""
        return ([i] for i in ids)

    def read_together(self, ids: Sequence[int]) -> list[bytes | str]:
        """The bytes of a group's images, or why one has none.

        Raises SourceError where it is not the image that is at fault: the address does not answer, or its images are
        gone.
        """
        found: dict[int, bytes | str] = {}
        for i in ids:
            try:
                check_size(self.entries[i].size)
            except UnreadableImage as error:
                found[i] = str(error)
        with asking():
            found |= self._read([i for i in ids if i not in found])
        return [found[i] for i in ids]

    @abstractmethod
    def _read(self, ids: list[int]) -> dict[int, bytes | str]:
        """As read_together, of images that are not too large."""


@dataclass(frozen=True)
class FolderElsewhere(SourceElsewhere):
    """A folder of a bucket, of which every file is a request."""

    def _read(self, ids: list[int]) -> dict[int, bytes | str]:
        return {i: self._one(self.entries[i].path) for i in ids}

    def _one(self, path: str) -> bytes | str:
        content = self.there.content(path, MAX_BYTES)
        if content is not None:
            return content
        if not self.there.holds_any():  # a bucket that is gone answers as one that lacks a file
            raise SourceError(f"{shown_address(self.address)} holds no files any more", GONE)
        return "the file cannot be read: it was removed since it was listed"


def open_folder(address: str, but: str | None = None) -> FolderElsewhere:
    """List a folder of a bucket, but for what lies at an address in it: the index that is made. Raises SourceError."""
    shown, there = shown_address(address), Elsewhere(address)
    if not there.lists:
        fact = f"there is no file {shown!r}, and a folder cannot be listed there"
        raise SourceError(fact, "Give a tar, tars as NAME-{00..99}.tar, or a folder of a bucket")
    sizes = there.sizes("", deep=True)
    if any(names <= sizes.keys() for names in SAVED):
        raise SourceError(f"{shown!r} is a data set of save_to_disk, which is read from a disk", "Download it first")
    folder = f"{address.rstrip('/')}/"
    own = f"{but.rstrip('/')}/".removeprefix(folder) if but is not None and but.startswith(folder) else None
    folders = {str(above) for key in sizes for above in PurePosixPath(key).parents}
    files = [
        (key, size)
        for key, size in sizes.items()
        # some tools write a folder as an empty file
        if not (size == 0 and (not key or key in folders)) and not (own and key.startswith(own))
    ]
    entries, skipped, _ = sort_names(files)
    return FolderElsewhere(last_name(address), entries, skipped, address)


def folder_and_name(address: str) -> tuple[str, str]:
    """An address's folder and last name, '' where it is a whole bucket. What signs the address signs the folder's."""
    place, signed, _ = re.fullmatch(r"([^?#]*)(([?#].*)?)", address, re.DOTALL).groups()  # type: ignore[union-attr]
    scheme, _, rest = place.rstrip("/").partition("://")
    folder, slash, name = rest.rpartition("/")
    if not slash:
        return address, ""
    return f"{scheme}://{folder}{signed}", unquote(name) if scheme.startswith("http") else name


def last_name(address: str) -> str:
    """What a source at an address is called: as on a disk, the last name."""
    return PurePosixPath(shown_address(address).partition("://")[2]).name


@contextmanager
def asking() -> Iterator[None]:
    """What goes wrong at an address is said as wrong with the images there."""
    try:
        yield
    except DamagedIndex as error:
        raise SourceError(error.fact, GONE) from error
    except BadIndex as error:
        raise SourceError(error.fact, error.remedy) from error


@contextmanager
def many_at_once() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests; those that were not begun at the end never are."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
