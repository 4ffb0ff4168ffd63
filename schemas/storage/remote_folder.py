"""A folder at an address that can be written to: a bucket of S3, Google or Azure (writable.py).

Its files have no names to be changed: what is put there appears at once and whole, and what must have one author is
put under a condition.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..addressed import shown_address
from ..errors import BadIndex, DamagedIndex
from ..facts import FileFacts, content_facts
from .elsewhere import BUCKETS, Elsewhere
from .plain_files import replacing

LARGEST = 4_000_000_000  # bytes of a file that is read whole: counts, entries


class RemoteFolder:
    """The files below an address."""

    at_once = 64  # each waits for the distance

    def __init__(self, address: str) -> None:
        """Raises BadIndex where files at an address can only be read."""
        if not address.startswith(BUCKETS):
            raise BadIndex(f"{shown_address(address)} cannot be written to", "Use s3://, gs:// or az://.")
        self.there = Elsewhere(address)

    def write(self, key: str, content: bytes | memoryview) -> FileFacts:
        self.there.put(key, content)
        return content_facts(content)

    def vouch(self, key: str, content: bytes) -> FileFacts:
        return self.write(key, content)  # what a put has answered lasts

    def create(self, key: str, content: bytes) -> bool:
        return self.there.create(key, content)

    def content(self, key: str) -> bytes | None:
        return self.there.content(key, LARGEST)

    def names(self, folder: str) -> set[str]:
        return set(self.there.sizes(folder, deep=False))

    def remove(self, key: str) -> None:
        self.there.remove(key)

    def clear(self, folder: str) -> None:
        inside = f"{folder}/" if folder else ""
        self.there.remove_all(inside + key for key in self.there.sizes(folder, deep=True))

    def adopt(self, key: str, made: Path) -> None:
        self.there.put(key, made)

    def bring(self, key: str, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(DamagedIndex), replacing(place) as temporary, temporary.open("wb") as file:
            file.writelines(self.there.pieces(key))

    def shown(self, key: str) -> str:
        return self.there.shown(key)
