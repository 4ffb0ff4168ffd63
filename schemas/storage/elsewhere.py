"""Requests for the files below an address: a bucket of S3, Google or Azure, a web server, a data set of the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..addressed import shown_address
from ..errors import BadIndex, DamagedIndex, QueryError
from .store import Bytes

if TYPE_CHECKING:
    from obstore.store import ObjectStore

BUCKETS = ("s3://", "gs://", "az://")
NEAR = 32_768  # bytes between two pieces of a file that are rather read than asked for apart
PIECE = 8_000_000  # bytes of a file that are sent at once
PIECES_AT_ONCE = 4  # of one file
MOST_PIECES = 10_000  # that S3 takes
RETRIES = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
CHANGED = "The index there may have been changed or removed since: open it again."
TIMEOUTS = {"timeout": "60s", "connect_timeout": "10s"}
REPEAT = "Look at the address and the connection, and repeat."

_began_in: int | None = None  # the process whose threads make the requests


class Unreachable(BadIndex):
    """A store does not answer, or not to the end; later it may."""


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
                raise BadIndex(f"{self.shown(key)} is larger than {at_most:,} bytes", "Look at what lies there.")
            return found.bytes().to_bytes()

    def find(self, key: str) -> int | None:
        """The bytes of a file; None where there is none. On the web by a GET: a signed address allows nothing else."""
        with self._requesting(key):
            try:
                return int((self.store.head(key) if self.lists else self.store.get(key).meta)["size"])
            except FileNotFoundError:
                return None

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

    def size(self, key: str) -> int:
        """The bytes of a file. Raises DamagedIndex where it is missing."""
        with self._requesting(key):
            return int(self.store.head(key)["size"])

    @property
    def lists(self) -> bool:
        """Whether it can be asked what lies there: a bucket can, a web server cannot."""
        return self.address.startswith(BUCKETS)

    def shown(self, key: str) -> str:
        return f"{shown_address(self.address).rstrip('/')}/{key}".rstrip("/")

    def put(self, key: str, content: bytes | memoryview | Path) -> None:
        """Write a file, in place of what is there: in one piece, or, a large one, in several that appear at once."""
        with self._requesting(key, "written"):
            self.store.put(key, content, chunk_size=PIECE, max_concurrency=PIECES_AT_ONCE)

    def put_pieces(self, key: str, size: int, pieces: Iterator[bytes]) -> None:
        """Write a file of so many bytes as they come. It appears whole, and not at all where `pieces` raises."""
        with self._requesting(key, "written"):
            if size <= PIECE:
                self.store.put(key, b"".join(pieces), use_multipart=False)
                return
            each = max(PIECE, -(-size // MOST_PIECES))
            self.store.put(key, pieces, use_multipart=True, chunk_size=each, max_concurrency=PIECES_AT_ONCE)

    def create(self, key: str, content: bytes) -> bool:
        """Write a small file where there is none; whether there was none."""
        from obstore import exceptions

        with self._requesting(key, "written"):
            try:
                self.store.put(key, content, mode="create", use_multipart=False)
            except exceptions.AlreadyExistsError:
                return False
            return True

    def sizes(self, inside: str, deep: bool) -> dict[str, int]:
        """The bytes of every file in a folder, by its path in there; with those of folders below, if `deep`."""
        prefix = f"{inside}/" if inside else ""
        with self._requesting(inside):
            if deep:
                found = [one for some in self.store.list(prefix or None) for one in some]
            else:
                found = list(self.store.list_with_delimiter(prefix or None)["objects"])
        return {one["path"].removeprefix(prefix): one["size"] for one in found}

    def holds_any(self) -> bool:
        """Whether there is any file below the address."""
        with self._requesting(""):
            return any(some for some in self.store.list())

    def remove(self, key: str) -> None:
        """Remove a file, if it is there."""
        with self._requesting(key, "written"), suppress(FileNotFoundError):
            self.store.delete(key)

    def remove_all(self, keys: Iterable[str]) -> None:
        """Remove many files."""
        with self._requesting("", "written"):
            if there := list(keys):
                self.store.delete(there)

    @contextmanager
    def _requesting(self, key: str, done: str = "read") -> Iterator[None]:
        """What goes wrong in requests as ours, in words that hold no secret: theirs quote whole addresses."""
        _must_be_its_process()
        from obstore import exceptions

        refused = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        try:
            yield
        except FileNotFoundError as error:
            if done == "written":  # pieces of an upload are gone: an answer that was lost said that it was whole
                raise Unreachable(f"{self.shown(key)} cannot be {done}", REPEAT) from error
            raise DamagedIndex(f"{self.shown(key)} is missing or cannot be read", CHANGED) from error
        except refused as error:
            remedy = "Give this machine the right to it."
            raise BadIndex(f"{self.shown(key)} may not be {done}", remedy) from error
        except exceptions.InvalidPathError as error:
            fact = f"{self.shown(key)} holds a file whose name cannot be asked for: with '//', '/./' or '/../' in it"
            raise BadIndex(fact, "Rename it.") from error
        except exceptions.NotSupportedError as error:
            remedy = "Use a server that does, or download it."
            raise BadIndex(f"{shown_address(self.address)} does not answer ranges of a file", remedy) from error
        except exceptions.BaseError as error:
            raise Unreachable(f"{self.shown(key)} cannot be reached", REPEAT) from error


def _must_be_its_process() -> None:
    """Raise QueryError in a forked child: who makes requests are the parent's threads, and it would wait for ever."""
    global _began_in
    if _began_in is None:
        _began_in = os.getpid()
    if _began_in != os.getpid():
        raise QueryError(
            "a forked process cannot read from an address",
            "Start processes by 'spawn' (of a DataLoader: multiprocessing_context='spawn').",
        )


def _store(address: str) -> ObjectStore:
    """Who makes the requests; rights come from the environment, as of the tools of each service."""
    try:
        from obstore import store
    except ImportError as error:
        raise BadIndex("an address needs the extra 'remote'", "pip install 'vitdex[remote]'") from error
    from_url: Any = store.from_url  # whose types allow each service its own settings alone
    options: dict[str, Any] = {**TIMEOUTS}
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
        fact = f"{shown_address(address)} is no address that can be used"
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
