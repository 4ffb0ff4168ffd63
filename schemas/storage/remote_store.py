"""A store at an address: a bucket of S3, Google or Azure, a web server that answers ranges, a data set of the hub.

Every piece of a file is one request, and a request waits for the distance: what will be read is asked for together
(`ahead`), pieces that lie near each other in one request, files beside each other.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..addressed import shown_address
from ..errors import BadIndex, DamagedIndex, QueryError
from .store import Bytes, Piece

if TYPE_CHECKING:
    from obstore.store import ObjectStore

HELD_BYTES = 256_000_000  # of what was read
AT_ONCE = 16  # requests
NEAR = 32_768  # bytes between two pieces of a file that are rather read than asked for apart
RETRIES = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
CHANGED = "The index there may have been changed or removed since: open it again."
PATIENCE = {"timeout": "60s", "connect_timeout": "10s"}

_began_in: int | None = None  # the process whose threads make the requests


class Elsewhere:
    """The files below an address, whole or in pieces. Raises BadIndex where it cannot be used."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.store = _store(address)

    def content(self, key: str, at_most: int) -> bytes | None:
        """A whole file; None where there is none. Raises BadIndex where it is larger or cannot be read."""
        with self._requesting(key):
            try:
                found = self.store.get(key)
            except FileNotFoundError:
                return None
            if found.meta["size"] > at_most:
                raise BadIndex(f"{self.shown(key)} is larger than {at_most:,} bytes", "This is no index.")
            return found.bytes().to_bytes()

    def pieces(self, key: str) -> Iterator[bytes]:
        """A whole file, piece by piece."""
        with self._requesting(key):
            for piece in self.store.get(key).stream(min_chunk_size=4_000_000):
                yield bytes(piece)

    def ranges(self, key: str, starts: list[int], lengths: list[int]) -> list[Bytes]:
        """Some pieces of a file. Raises DamagedIndex where it is missing or shorter."""
        with self._requesting(key):
            found = self.store.get_ranges(key, starts=starts, lengths=lengths, coalesce=NEAR)
        return [np.frombuffer(piece.to_bytes(), np.uint8) for piece in found]

    def shown(self, key: str) -> str:
        return f"{shown_address(self.address).rstrip('/')}/{key}"

    @contextmanager
    def _requesting(self, key: str) -> Iterator[None]:
        """What goes wrong in requests as ours, in words that hold no secret: theirs quote whole addresses."""
        _must_be_its_process()
        from obstore import exceptions

        refused = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        try:
            yield
        except FileNotFoundError as error:
            raise DamagedIndex(f"{self.shown(key)} is missing or cannot be read", CHANGED) from error
        except refused as error:
            raise BadIndex(f"{self.shown(key)} may not be read", "Give this machine the right to read it.") from error
        except exceptions.NotSupportedError as error:
            remedy = "Use a server that does, or download the index."
            raise BadIndex(f"{shown_address(self.address)} does not answer ranges of a file", remedy) from error
        except exceptions.BaseError as error:
            remedy = "Look at the address and the connection, and repeat."
            raise BadIndex(f"{self.shown(key)} cannot be reached", remedy) from error


class RemoteStore:
    """The files of an index that lie at an address, by the sizes that its manifest names.

    What was read last is held in memory, 256 MB of it.
    """

    def __init__(self, address: str, sizes: Mapping[str, int], inside: str = "") -> None:
        """inside: the folder, below the address, that the keys begin from."""
        self.address, self.sizes = address, sizes
        self.inside = f"{inside}/" if inside else ""
        self._elsewhere: Elsewhere | None = None
        self._held: OrderedDict[Piece, Bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, key: str, start: int, length: int) -> Bytes:
        piece = (key, start, length)
        with self._lock:
            if (found := self._held.get(piece)) is not None:
                self._held.move_to_end(piece)
                return found
        return self._fetched(key, [piece])[0]

    def ahead(self, pieces: Iterable[Piece]) -> None:
        """Read what will be asked for, all at once, so that `read` has it."""
        with self._lock:
            missing = sorted({piece for piece in pieces if piece not in self._held})
        by_file: dict[str, list[Piece]] = defaultdict(list)
        for piece in missing:
            by_file[piece[0]].append(piece)
        if len(by_file) < 2:
            for key, own in by_file.items():
                self._fetched(key, own)
            return
        with ThreadPoolExecutor(min(AT_ONCE, len(by_file))) as pool:
            list(pool.map(self._fetched, by_file, by_file.values()))

    def size(self, key: str) -> int:
        if key not in self.sizes:
            raise DamagedIndex(f"{key} is missing or cannot be read", CHANGED)
        return self.sizes[key]

    def local_path(self, key: str) -> Path | None:
        return None

    def close(self) -> None:
        with self._lock:
            self._held.clear()
            self._bytes = 0

    def _fetched(self, key: str, pieces: list[Piece]) -> list[Bytes]:
        """Pieces of one file, read anew and held."""
        for _, start, length in pieces:
            if start + length > self.size(key):
                raise DamagedIndex(f"{key} ends before byte {start + length:,}", CHANGED)
        wanted = [piece for piece in pieces if piece[2]]
        elsewhere = self._elsewhere = self._elsewhere or Elsewhere(self.address)
        asked = [[start for _, start, _ in wanted], [length for _, _, length in wanted]]
        found = dict(zip(wanted, elsewhere.ranges(self.inside + key, *asked) if wanted else [], strict=True))
        for piece, content in found.items():
            if len(content) != piece[2]:
                raise DamagedIndex(f"{key} ends before byte {piece[1] + piece[2]:,}", CHANGED)
        self._hold(found)
        return [found.get(piece, np.frombuffer(b"", np.uint8)) for piece in pieces]

    def _hold(self, found: dict[Piece, Bytes]) -> None:
        with self._lock:
            for piece, content in found.items():
                if piece not in self._held:
                    self._held[piece] = content
                    self._bytes += len(content)
            while self._bytes > HELD_BYTES:
                self._bytes -= len(self._held.popitem(last=False)[1])


def _must_be_its_process() -> None:
    """Raise QueryError in a forked child: who makes requests are the parent's threads, and it would wait for ever."""
    global _began_in
    if _began_in is None:
        _began_in = os.getpid()
    if _began_in != os.getpid():
        raise QueryError(
            "a forked process cannot read an index at an address",
            "Start processes by 'spawn' (of a DataLoader: multiprocessing_context='spawn').",
        )


def _store(address: str) -> ObjectStore:
    """Who makes the requests; rights come from the environment, as of the tools of each service."""
    try:
        from obstore import store
    except ImportError as error:
        raise BadIndex("an index at an address needs the extra 'remote'", "pip install 'vitdex[remote]'") from error
    from_url: Any = store.from_url  # whose types allow each service its own settings alone
    options: dict[str, Any] = {**PATIENCE}
    if any(where.startswith("http://") for where in (address, os.environ.get("AWS_ENDPOINT_URL", ""))):
        options["allow_http"] = True
    if address.startswith("hf://"):
        from huggingface_hub import get_token

        if token := get_token():
            options["default_headers"] = {"authorization": f"Bearer {token}"}
        address = hub_address(address)
    try:
        made: ObjectStore = from_url(address, client_options=options, retry_config=RETRIES)
    except Exception as error:  # obstore's own classes for wrong settings are many, and their texts quote these
        fact = f"{shown_address(address)} is no address of an index"
        raise BadIndex(fact, "See the page 'Read from anywhere'.") from error
    return made


def hub_address(address: str) -> str:
    """Where the hub serves the files of hf://datasets/OWNER/NAME[@REVISION][/FOLDER]. Raises BadIndex for others."""
    from huggingface_hub import constants

    found = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([\w./-]+?))?(?:/([\w./-]*))?", address, re.ASCII)
    if found is None or ".." in address:
        raise BadIndex(f"{address} is no data set of the hub", "Write hf://datasets/OWNER/NAME, or .../NAME/FOLDER.")
    name, revision, folder = found.groups()
    return f"{constants.ENDPOINT}/datasets/{name}/resolve/{revision or 'main'}/{folder or ''}".rstrip("/")
