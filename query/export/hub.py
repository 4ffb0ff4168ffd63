"""A data set of the Hugging Face hub as a place to publish to. What is put is collected, and committed together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ...schemas.errors import BadIndex, VitdexError
from ...schemas.manifest import LARGEST
from ...schemas.storage.elsewhere import Elsewhere, hub_address
from .destinations import Outgoing

FILES, BYTES = 500, 5_000_000_000  # of one commit: the hub takes some hundred commits an hour


class Api(Protocol):
    """What is asked of huggingface_hub's HfApi."""

    def create_repo(self, repo_id: str, *, repo_type: str, exist_ok: bool) -> Any: ...
    def list_repo_tree(self, repo_id: str, *, repo_type: str, recursive: bool) -> Iterable[Any]: ...
    def create_commit(self, repo_id: str, operations: list[Any], *, commit_message: str, repo_type: str) -> Any: ...


class Hub:
    """A data set, or a folder of one. Raises BadIndex where it is none, or cannot be used."""

    at_once = 4  # files that are read back

    def __init__(self, address: str, api: Api | None = None) -> None:
        """`address`: hf://datasets/OWNER/NAME[/FOLDER]. The data set is made where there is none."""
        hub_address(address)  # raises BadIndex for what is none
        owner, name, *folders = address.removeprefix("hf://datasets/").split("/")
        if "@" in name:
            raise BadIndex(f"{address} names a revision, and what is published becomes a new one", "Leave out '@...'.")
        self.name, self.repo, self.inside = address, f"{owner}/{name}", "".join(f"{one}/" for one in folders)
        self.there = Elsewhere(address)
        self.api: Api = api or _hf_api()
        self._waiting: list[Outgoing] = []
        self._lock = threading.RLock()
        with self._asking():
            self.api.create_repo(self.repo, repo_type="dataset", exist_ok=True)

    def shown(self, key: str) -> str:
        return self.there.shown(key)

    def sizes(self) -> dict[str, int]:
        with self._asking():
            tree = self.api.list_repo_tree(self.repo, repo_type="dataset", recursive=True)
            found = {one.path: one.size for one in tree if hasattr(one, "size")}  # folders have none
        return {p.removeprefix(self.inside): size for p, size in found.items() if p.startswith(self.inside)}

    def content(self, key: str) -> bytes | None:
        return self.there.content(key, LARGEST)

    def put(self, file: Outgoing, advance: Callable[[int], object]) -> None:
        """Compare a file with its checksum, and have it sent with the next commit."""
        for _ in file.pieces(advance):
            pass
        with self._lock:
            self._waiting.append(file)
            if len(self._waiting) >= FILES or sum(one.facts.size for one in self._waiting) >= BYTES:
                self.settle()

    def settle(self) -> None:
        from huggingface_hub import CommitOperationAdd

        with self._lock:
            waiting, self._waiting = self._waiting, []
            if waiting:
                adding = [CommitOperationAdd(self.inside + one.key, _given(one)) for one in waiting]
                self._commit(adding, f"vitdex publish: {len(waiting)} files")

    def pieces(self, key: str) -> Iterator[bytes]:
        return self.there.pieces(key)

    def remove(self, keys: Iterable[str]) -> None:
        from huggingface_hub import CommitOperationDelete

        self.settle()
        if going := [CommitOperationDelete(self.inside + key) for key in keys]:
            self._commit(going, f"vitdex publish: {len(going)} files removed")

    def _commit(self, operations: list[Any], message: str) -> None:
        with self._asking():
            self.api.create_commit(self.repo, operations, commit_message=message, repo_type="dataset")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What goes wrong as ours, in words that hold no secret; without the bars that the library draws."""
        from huggingface_hub.utils.tqdm import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )

        drawn = not are_progress_bars_disabled()
        disable_progress_bars()
        try:
            yield
        except VitdexError:
            raise
        except Exception as error:  # its classes, and those of the library below it, change with their versions
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (401, 403) or "Token" in type(error).__name__:
                remedy = "Log in by 'hf auth login' with a token that may write to it."
                raise BadIndex(f"{self.name} may not be written", remedy) from error
            remedy = "Look at its name and the connection, and repeat."
            raise BadIndex(f"{self.name} cannot be written", remedy) from error
        finally:
            if drawn:
                enable_progress_bars()


def _given(file: Outgoing) -> Path | bytes:
    """A file as the hub's library takes it."""
    return file.place / file.key if isinstance(file.place, Path) else bytes(file.place)


def _hf_api() -> Api:
    from huggingface_hub import HfApi

    api: Any = HfApi()  # which has many more parameters
    return api  # type: ignore[no-any-return]
