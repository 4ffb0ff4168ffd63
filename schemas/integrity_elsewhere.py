"""Whether the files of an index at an address are those that its manifest lists: read there, compared here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import xxhash

from .errors import DamagedIndex
from .facts import FileFacts, Files
from .storage.elsewhere import Elsewhere

AT_ONCE = 16  # files that are read together, a few MB of each in memory

Fault = tuple[str, Literal["missing", "damaged", "foreign"], str]  # path, what it is, detail


def faults_elsewhere(
    address: str, listed: Files, beside: Collection[str], quick: bool, advance: Callable[[int], object]
) -> Iterator[Fault]:
    """Every file at an address that is damaged or missing, and where files can be listed (a bucket) those not listed.

    beside: files and folders that are there rightly. quick: sizes alone. Raises BadIndex where it cannot be reached.
    """
    there = Elsewhere(address)

    def check(path: str) -> Fault | None:
        try:
            now = there.size(path) if quick else _facts(there, path, advance)
        except DamagedIndex:
            return path, "missing", "missing"
        size, checksum = listed[path]
        found = now if isinstance(now, int) else now.size
        if found != size:
            return path, "damaged", f"{found:,} bytes, not {size:,}"
        if not isinstance(now, int) and now.checksum != checksum:
            return path, "damaged", "its checksum differs"
        return None

    with ThreadPoolExecutor(AT_ONCE) as readers:
        yield from filter(None, readers.map(check, listed))
    if there.lists:
        for path in there.sizes("", deep=True):
            if path not in listed and not any(path == one or path.startswith(f"{one}/") for one in beside):
                yield path, "foreign", "not of this index"


def _facts(there: Elsewhere, path: str, advance: Callable[[int], object]) -> FileFacts:
    digest, size = xxhash.xxh3_128(), 0
    for piece in there.pieces(path):
        digest.update(piece)
        size += len(piece)
        advance(len(piece))
    return FileFacts(size, digest.hexdigest())
