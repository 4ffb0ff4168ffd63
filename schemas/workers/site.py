"""Where several workers fill a folder: one that all of them see, or an address that all of them can write to."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass

from ..facts import Files
from ..layout import FilledFolder
from ..storage.layered_store import LayeredStore
from ..storage.local_store import LocalStore
from ..storage.only_writer import only_writer
from ..storage.patience import Patience
from ..storage.remote_store import RemoteStore
from ..storage.store import Store
from ..storage.writable import Writable


@dataclass(frozen=True)
class Site:
    """A folder in the making. `layout` says where; of one at an address, where it is that is made here and sent."""

    layout: FilledFolder
    files: Writable
    name: str  # as users may see it
    address: str | None

    def only_writer(self) -> AbstractContextManager[None]:
        """While inside, no other run fills a folder, as far as its system tells; at an address leases alone do."""
        return only_writer(self.layout) if self.address is None else nullcontext()

    def store(self, files: Files) -> Store | None:
        """Where the arrays of a filled folder are read; None: in the folder."""
        if self.address is None:
            return None
        sizes = {path: size for path, (size, _) in files.items()}
        return LayeredStore(LocalStore(self.layout.root), RemoteStore(self.address, sizes, patience=Patience()))

    def clean_up(self) -> None:
        """Remove what is not needed once it is finished."""
        if self.address is None:
            remove_leftovers(self.layout)
        else:
            self.files.clear(self.layout.key(self.layout.working))


def remove_leftovers(layout: FilledFolder) -> None:
    """Remove what a finished folder no longer needs."""
    for file in layout.leftovers():
        file.unlink(missing_ok=True)
    with suppress(OSError):  # it holds what is not ours, or another worker writes
        layout.working.rmdir()
