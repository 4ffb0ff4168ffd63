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
from .patience import Patience
from .plain_files import replacing

LARGEST = 4_000_000_000  # bytes of a file that is read whole: counts, entries


class RemoteFolder:
    """The files below an address, with patience. Raises Unreachable in the end.

    Where an answer is lost, `create` may say False of what it has created: it is another's or one's own.
    """

    at_once = 64  # each waits for the distance

    def __init__(self, address: str) -> None:
        """Raises BadIndex where files at an address can only be read."""
        if not address.startswith(BUCKETS):
            raise BadIndex(f"{shown_address(address)} cannot be written to", "Use s3://, gs:// or az://.")
        self.there, self.patiently = Elsewhere(address), Patience()

    def write(self, key: str, content: bytes | memoryview) -> FileFacts:
        self.patiently(lambda: self.there.put(key, content))
        return content_facts(content)

    def vouch(self, key: str, content: bytes) -> FileFacts:
        return self.write(key, content)  # what a put has answered lasts

    def create(self, key: str, content: bytes) -> bool:
        return self.patiently(lambda: self.there.create(key, content))

    def content(self, key: str) -> bytes | None:
        return self.patiently(lambda: self.there.content(key, LARGEST))

    def names(self, folder: str) -> set[str]:
        return set(self.patiently(lambda: self.there.sizes(folder, deep=False)))

    def remove(self, key: str) -> None:
        self.patiently(lambda: self.there.remove(key))

    def clear(self, folder: str) -> None:
        inside = f"{folder}/" if folder else ""
        keys = [inside + key for key in self.patiently(lambda: self.there.sizes(folder, deep=True))]
        self.patiently(lambda: self.there.remove_all(keys))

    def adopt(self, key: str, made: Path) -> None:
        self.patiently(lambda: self.there.put(key, made))

    def bring(self, key: str, place: Path) -> None:
        def download() -> None:
            with suppress(DamagedIndex), replacing(place) as temporary, temporary.open("wb") as file:
                file.writelines(self.there.pieces(key))

        place.parent.mkdir(parents=True, exist_ok=True)
        self.patiently(download)

    def shown(self, key: str) -> str:
        return self.there.shown(key)
